"""The report's pictures as inline SVG that takes the page's text colour, so light and dark both work."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox, BboxBase
from numpy.typing import NDArray
from PIL import Image

from edgeface_devices.measurement import names
from edgeface_devices.results import Results

INK = "#010203"
"""Becomes ``currentColor``; matplotlib knows no such colour."""
COLOURS = {"onnx": "#2f7ed8", "tflite": "#e07b22", "ncnn": "#3a9d5d", "ensemble": "#8a5cc2"}
_GAP = 5
"""Points between a marker and its label."""
STYLE: dict[str, object] = {
    "font.size": 10,
    "svg.hashsalt": "edgeface",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK),
}


def accuracy_against_latency(bench: Results) -> str:
    """One marker a file: median latency across, top-1 up, file size as the marker's area."""
    with matplotlib.rc_context(STYLE):
        return as_svg(draw_accuracy_against_latency(bench))


def draw_accuracy_against_latency(bench: Results) -> Figure:
    """As ``accuracy_against_latency``, not yet written out."""
    figure = Figure(figsize=(4.8, 3.7), layout="constrained")
    axes = figure.subplots()
    largest, named = max(row.size_bytes for row in bench.rows), names(bench.rows)
    markers = [
        Marker(
            row.median_ms,
            100 * (row.top1 or 0.0),
            13 * math.sqrt(row.size_bytes / largest),
            f"{named[row.path]}\n{row.p50_ms:.1f} ms, {row.size_bytes / 1e6:.1f} MB",
        )
        for row in bench.rows
    ]
    for row, marker in zip(bench.rows, markers, strict=True):
        area = (2 * marker.radius) ** 2
        axes.scatter(marker.x, marker.y, s=area, color=COLOURS[row.format], alpha=0.75, linewidths=0)
    shares = [marker.y for marker in markers]
    spread = max(max(shares) - min(shares), 2.0)
    axes.set_ylim(min(shares) - 0.7 * spread, max(shares) + 0.7 * spread)
    axes.set_xlim(0, max(marker.x for marker in markers) * 1.35)
    axes.set_xlabel("median time of one face, ms")
    axes.set_ylabel("top-1 on held-out photos, %")
    axes.grid(color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    # A share above 100 does not exist; the room above is for labels.
    axes.set_yticks([tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= 100])
    place_labels(figure, markers)
    return figure


def latency_bars(bench: Results) -> str:
    """A bar a file: the median, with a line to the 90th percentile."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 0.8 + 0.5 * len(bench.rows)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(bench.rows):
            median, p90 = row.median_ms, row.p90_ms
            axes.barh(place, median, color=COLOURS[row.format], height=0.55)
            if p90 is not None:
                axes.plot([median, p90.value], [place, place], color=INK)
        axes.set_yticks(range(len(bench.rows)), [names(bench.rows)[row.path] for row in bench.rows])
        axes.invert_yaxis()
        axes.set_xlabel("time of one face, ms: median, line to the 90th percentile")
        return as_svg(figure)


@dataclass(frozen=True)
class Marker:
    """A disc in the plot with its words."""

    x: float
    y: float
    radius: float
    """In points."""
    text: str


def place_labels(figure: Figure, markers: Sequence[Marker]) -> None:
    """Puts each text near its marker, at the first spot that touches no other text, no other marker and no edge."""
    axes = figure.axes[0]
    figure.draw_without_rendering()
    discs = [_disc(axes, marker) for marker in markers]
    taken: list[Bbox] = []
    for marker, disc in zip(markers, discs, strict=True):
        obstacles = [*taken, *(other for other in discs if other is not disc)]
        for distance, offset in _offsets(marker.radius):
            label = _label(axes, marker, offset)
            if _is_free(label.get_window_extent(), obstacles, axes.bbox):
                if distance > 1:
                    line = {"arrowstyle": "-", "color": INK, "alpha": 0.4}
                    axes.annotate("", (marker.x, marker.y), offset, textcoords="offset points", arrowprops=line)
                break
            label.remove()
        else:
            label = _label(axes, marker, (_GAP, 0))
        taken.append(label.get_window_extent())


def _disc(axes: Axes, marker: Marker) -> Bbox:
    x, y = axes.transData.transform((marker.x, marker.y))
    reach = marker.radius * axes.figure.dpi / 72
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _offsets(reach: float) -> Iterator[tuple[int, tuple[float, float]]]:
    """(distance, offset in points) of the spots around a marker of radius ``reach``, the near ones first."""
    for distance in range(1, 25):
        step = reach + _GAP * distance
        for x, y in ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            yield distance, (x * step, y * step)


def _label(axes: Axes, marker: Marker, offset: tuple[float, float]) -> Annotation:
    label = axes.annotate(
        marker.text,
        (marker.x, marker.y),
        offset,
        textcoords="offset points",
        ha="left" if offset[0] > 0 else "right" if offset[0] < 0 else "center",
        va="bottom" if offset[1] > 0 else "top" if offset[1] < 0 else "center",
        fontsize=9,
    )
    label.set_in_layout(False)
    return label


def _is_free(box: Bbox, obstacles: Sequence[Bbox], frame: BboxBase) -> bool:
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    return inside and not any(box.overlaps(other) for other in obstacles)


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element without date or fixed size."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    element = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r' (width|height)="[^"]*pt"', "", element, count=2)


def face_uri(face: NDArray[np.uint8]) -> str:
    """A (h, w, 3) uint8 RGB face as a JPEG data URI."""
    file = io.BytesIO()
    Image.fromarray(face).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
