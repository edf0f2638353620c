"""Makes torchvision importable beside a torch of another build (its CUDA wheel beside a CPU torch).

torchvision's compiled operators do not load there, and its import fails for want of ``torchvision::nms``. Only
non-maximum suppression is supplied; models and transforms need no more. On a matching install nothing happens.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from edgeface_runtime.detection.boxes import suppress
from edgeface_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.library import Library

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[Library] = []  # torch forgets the operators when the last reference goes


def repair() -> bool:
    """Prepares ``import torchvision`` and performs it; True if operators had to be supplied.

    Raises:
        UsageError: torchvision is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise UsageError("torchvision is not installed; install it with: pip install torchvision")
    if _libraries:
        return True
    torch = importlib.import_module("torch")
    if _loads(torch, Path(spec.origin).parent):
        importlib.import_module("torchvision")
        return False
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _NMS)
    library.impl("nms", _nms, "CPU")
    _libraries.append(library)
    vars(importlib.import_module("torchvision.extension"))["_has_ops"] = lambda: True
    return True


def _loads(torch: ModuleType, folder: Path) -> bool:
    """Whether torchvision's compiled operators fit this torch."""
    for file in [*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]:
        try:
            torch.ops.load_library(str(file))
        except (OSError, ImportError):
            continue
        return True
    return False


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    kept = suppress(boxes.detach().numpy(), scores.detach().numpy(), threshold)
    found: Tensor = importlib.import_module("torch").from_numpy(kept.astype(np.int64))
    return found
