"""Training as a library: ``from edgeface.training import load_config, open_faces, train``.

The names come when they are used, so that reading a run's record does not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData, load_data, open_faces
    from edgeface.progress import Reporter
    from edgeface.training.checkpoints import Checkpoint, load_checkpoint
    from edgeface.training.config import TrainConfig, load_config
    from edgeface.training.loop import train
    from edgeface.training.schedule import Epoch, best_epoch

__all__ = [
    "Checkpoint",
    "Epoch",
    "FaceData",
    "Reporter",
    "TrainConfig",
    "best_epoch",
    "load_checkpoint",
    "load_config",
    "load_data",
    "open_faces",
    "train",
]

_PLACES = {
    "Checkpoint": "edgeface.training.checkpoints",
    "Epoch": "edgeface.training.schedule",
    "FaceData": "edgeface.data.dataset",
    "Reporter": "edgeface.progress",
    "TrainConfig": "edgeface.training.config",
    "best_epoch": "edgeface.training.schedule",
    "load_checkpoint": "edgeface.training.checkpoints",
    "load_config": "edgeface.training.config",
    "load_data": "edgeface.data.dataset",
    "open_faces": "edgeface.data.dataset",
    "train": "edgeface.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
