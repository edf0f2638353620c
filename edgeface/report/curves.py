"""Training curves, for the run folder and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from edgeface.report.pictures import COLOURS, STYLE, as_svg
from edgeface_runtime.files import replacing, write_whole

if TYPE_CHECKING:
    from edgeface.training.training_state import Epoch


def training_curves(epochs: Sequence[Epoch]) -> str:
    """Loss and accuracy by epoch, of the training and the validation photos."""
    with matplotlib.rc_context(STYLE):
        return as_svg(_draw_curves(epochs))


def draw_curves(epochs: Sequence[Epoch], path: Path) -> None:
    """Writes the training curves as a PNG picture."""
    with replacing(path) as beside:
        write_whole(beside, partial(_draw_curves(epochs).savefig, format="png", dpi=150))


def _draw_curves(epochs: Sequence[Epoch]) -> Figure:
    figure = Figure(figsize=(4.8, 3.7), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    for split, name, colour in (("train", "training", COLOURS["onnx"]), ("val", "validation", COLOURS["tflite"])):
        for axes, kind, scale in ((upper, "loss", 1), (lower, "accuracy", 100)):
            points = [(row.epoch, getattr(row, f"{split}_{kind}")) for row in epochs]
            known = [(epoch, scale * value) for epoch, value in points if value is not None]
            axes.plot(*zip(*known, strict=True), color=colour, label=name, marker="o" if len(known) == 1 else None)
            axes.grid(alpha=0.12)
    upper.set_ylabel("loss")
    upper.legend(frameon=False)
    lower.set_ylabel("accuracy, %")
    lower.set_xlabel("epoch")
    return figure
