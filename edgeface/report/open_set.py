"""FNIR over FPIR of galleries of several sizes, as a picture."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from edgeface.evaluation.open_set import OpenSet, OpenSetCell
from edgeface.report.pictures import INK, STYLE, as_svg


def open_set_pictures(found: OpenSet) -> list[tuple[str, str]]:
    """(title, SVG) for each number of photos a person."""
    with matplotlib.rc_context(STYLE):
        return [(f"FNIR over FPIR, {_photos(each)}", as_svg(figure)) for each, figure in draw_open_set(found).items()]


def draw_open_set(found: OpenSet) -> dict[int, Figure]:
    """By the number of photos a person: a line for each gallery size, both axes logarithmic, as NIST's FRTE prints it.

    Crosses stand where the thresholds lie that the contract gives for the FPIRs asked for.
    """
    figures = {}
    for each in sorted({cell.photos_each for cell in found.cells}):
        cells = [cell for cell in found.cells if cell.photos_each == each]
        figures[each] = _draw(cells, each)
    return figures


def _draw(cells: list[OpenSetCell], each: int) -> Figure:
    figure = Figure(figsize=(4.8, 3.9), layout="constrained")
    axes = figure.subplots()
    shades = matplotlib.colormaps["viridis"]
    for place, cell in enumerate(cells):
        color = shades(0.9 * place / max(len(cells) - 1, 1))
        points = [(fpir, fnir) for fpir, fnir, _ in cell.curve if fnir > 0]
        label = f"{cell.people} people"
        if points:
            axes.plot(*zip(*points, strict=True), color=color, label=label, marker="." if len(points) == 1 else None)
        for at in cell.at:
            if at.fpir and at.fnir and at.fpir.value > 0 and at.fnir.value > 0:
                axes.plot(at.fpir.value, at.fnir.value, color=color, marker="x", markersize=6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=12))
    axes.set_xlabel("FPIR")
    axes.set_ylabel("FNIR")
    axes.grid(color=INK, alpha=0.12)
    axes.set_title(f"{_photos(each)}; × thresholds of the model", fontsize=9)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
    return figure


def _photos(each: int) -> str:
    return f"{each} photo{'' if each == 1 else 's'} a person"
