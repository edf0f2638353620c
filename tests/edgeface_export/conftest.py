"""One call for an export of a module on made-up faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from edgeface_export.result import ExportResult
    from edgeface_runtime import Contract

ExportNet = Callable[..., "ExportResult"]
FACES = ("calibration", "evaluation", "selection", "thresholds")


@pytest.fixture
def export_net() -> ExportNet:
    """``export_net(net=, contract=, folder=, calibration=, evaluation=, …, **options)`` exports a torch module."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from edgeface_export.faces import ExportFaces
    from edgeface_export.options import ExportOptions
    from edgeface_export.pipeline import export
    from edgeface_export.source_model import torch_source

    def run(
        net: nn.Module, contract: Contract, folder: Path, progress: Callable[[str], None] = print, **others: Any
    ) -> ExportResult:
        faces = ExportFaces(**{name: others.pop(name) for name in FACES if name in others})
        options = ExportOptions(**others)
        model = torch_source(net, contract, converter=options.converter)
        return export(model, faces, folder, options, progress=progress)

    return run
