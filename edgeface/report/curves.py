"""Training curves, for the run folder and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edgeface.report.pictures import COLOURS, INK, STYLE, as_svg
from edgeface.training.schedule import best_epoch
from edgeface_runtime.files import replacing, write_whole

_NAMED = 12
"""Runs whose names still fit above a picture."""

if TYPE_CHECKING:
    from edgeface.training.schedule import Epoch


def training_curves(epochs: Sequence[Epoch]) -> str:
    """Loss and accuracy by epoch, of the training and the validation photos."""
    with matplotlib.rc_context(STYLE):
        return as_svg(_draw_curves(epochs))


def draw_curves(epochs: Sequence[Epoch], path: Path) -> None:
    """Writes the training curves as a PNG picture."""
    with replacing(path) as beside:
        write_whole(beside, partial(_draw_curves(epochs).savefig, format="png", dpi=150))


def curve_pictures(runs: Mapping[str, Sequence[Epoch]]) -> list[tuple[str, str]]:
    """(title, SVG) of loss, accuracy (or cosine to the teachers) and learning rate of one run or of several.

    Validation is a full line with a dot at the best epoch, training a dashed one; several runs have a color each.
    """
    epochs = [row for rows in runs.values() for row in rows]
    known = {name for row in epochs for name, value in vars(row).items() if value is not None}
    pictures = [("Loss", "loss", 1.0), ("Accuracy, %", "accuracy", 100.0), ("Cosine to the teachers", "cosine", 1.0)]
    shown = [one for one in pictures if {f"train_{one[1]}", f"val_{one[1]}"} & known]
    with matplotlib.rc_context(STYLE):
        return [
            (title, as_svg(_draw_runs(runs, {f"val_{kind}": "-", f"train_{kind}": "--"}, scale)))
            for title, kind, scale in shown
        ] + [("Learning rate", as_svg(_draw_runs(runs, {"lr": "-"}, 1.0)))]


def _draw_runs(runs: Mapping[str, Sequence[Epoch]], lines: Mapping[str, str], scale: float) -> Figure:
    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for number, (name, rows) in enumerate(runs.items()):
        best = best_epoch(rows)
        for at, (kind, line) in enumerate(lines.items()):
            known = {row.epoch: scale * value for row in rows if (value := getattr(row, kind)) is not None}
            colour = colours[(number if len(runs) > 1 else at) % len(colours)]
            split = {"val": "validation", "train": "training"}.get(kind.partition("_")[0], "")
            label = name.replace("$", r"\$") if len(runs) > 1 else split
            is_named = bool(label) and len(runs) <= _NAMED and (len(runs) == 1 or not at)
            marker = "o" if len(known) == 1 else None
            axes.plot([*known], [*known.values()], line, color=colour, marker=marker, label=label if is_named else None)
            if best is not None and kind.startswith("val") and best.epoch in known:
                axes.plot([best.epoch], [known[best.epoch]], "o", color=colour)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=INK, alpha=0.12)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", frameon=False, ncols=1 if len(runs) > 1 else 2, fontsize=9)
    return figure


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
