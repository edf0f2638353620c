"""The page of ``edgeface bench --report``: files, engines and boards side by side, each number with its source."""

from __future__ import annotations

import datetime
import importlib.metadata
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgeface.report.page import PhotoCounts
from edgeface.report.pictures import INK, STYLE, Marker, as_svg, place_labels
from edgeface.templates import environment
from edgeface_devices.changes import change_table
from edgeface_devices.choices import choose
from edgeface_devices.figures import shown
from edgeface_devices.measurement import Measurement, by_board
from edgeface_devices.results import Results, Verdict, origins
from edgeface_devices.way_tables import by_setting, reasons, title, way_table
from edgeface_runtime.files import write_text

COLOURS = {"onnxruntime": "#2f7ed8", "litert": "#e07b22", "ncnn": "#3a9d5d", "ensemble": "#8a5cc2"}


def write_boards(
    path: Path, results: Results, verdict: Verdict, *, photos: PhotoCounts | None = None, demands: Sequence[str] = ()
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: the HTML file.
        results: merged rows, for the boards' particulars.
        verdict: of the same results.
        photos: what top-1 was measured on.
        demands: the budget in words, one demand an element.

    Raises:
        UsageError: the file cannot be written.
    """
    letters = letters_of(verdict.rows)
    templates = environment(Path(__file__).parent)
    templates.filters |= {"shown": shown, "percent": _percent}
    page = templates.get_template("boards.html.j2").render(
        verdict=verdict,
        devices=results.devices,
        letters=letters,
        colours=COLOURS,
        engines=list(dict.fromkeys(row.engine for row in verdict.rows)),
        tiles=verdict.choices or choose(verdict.rows),
        panels=panels(verdict.rows, letters),
        ways=[
            (title(row, setting), *way_table(its)) for row in verdict.rows for setting, its in by_setting(row).items()
        ],
        why=reasons(verdict.rows),
        has_accuracy=_has_accuracy(verdict.rows),
        origins=origins(verdict.rows),
        changes=change_table(verdict.changes),
        notes=list(dict.fromkeys(note for change in verdict.changes for note in change.notes)),
        busy=list(dict.fromkeys(row.device for row in verdict.rows if row.is_disturbed)),
        photos=photos,
        demands=demands,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=importlib.metadata.version("edgeface"),
    )
    write_text(path, page)


def letters_of(rows: Sequence[Measurement]) -> dict[Path, str]:
    """Path → A, B …, in the order of the files; AA follows Z."""
    paths = dict.fromkeys(row.path for row in rows)
    alphabet = string.ascii_uppercase
    return {path: alphabet[n % 26] * (n // 26 + 1) for n, path in enumerate(paths)}


def panels(rows: Sequence[Measurement], letters: Mapping[Path, str]) -> list[tuple[str, str]]:
    """(board, SVG) of each board with a time: accuracy against time, or times alone where no accuracy is known."""
    timed = [row for row in rows if row.p50_ms]
    draw = draw_accuracy if _has_accuracy(rows) else draw_times
    with matplotlib.rc_context(STYLE):
        return [(board, as_svg(draw(its, timed, letters))) for board, its in by_board(timed).items()]


def draw_accuracy(
    rows: Sequence[Measurement], everything: Sequence[Measurement], letters: Mapping[Path, str]
) -> Figure:
    """One marker a file and engine of one board, axes as wide as all boards need; a line spans an interval."""
    figure, axes = _axes(everything, height=3.5)
    shares = [100 * row.accuracy.value for row in everything if row.accuracy]
    spread = max(max(shares) - min(shares), 0.2)
    axes.set_ylim(min(shares) - 0.4 * spread, max(shares) + 0.4 * spread)
    axes.set_yticks([tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= 100])
    kinds = dict.fromkeys(row.accuracy_kind for row in everything if row.accuracy_kind)
    axes.set_ylabel(f"accuracy, % ({' or '.join(kinds)})")
    markers: dict[tuple[float, float, str], list[str]] = {}
    for row in rows:
        if row.accuracy is None:
            continue
        x, y = row.median_ms, 100 * row.accuracy.value + _lift(axes, row.engine)
        # Files of one net have one estimate, but for a byte of their size: one marker.
        names = markers.setdefault((float(f"{x:.2g}"), y, row.engine), [])
        if not names:
            _mark(axes, x, y, row)
        names += [] if letters[row.path] in names else [letters[row.path]]
    place_labels(figure, [Marker(x, y, 4.5, ", ".join(names)) for (x, y, _), names in markers.items()])
    return figure


def _lift(axes: Axes, engine: str) -> float:
    """Engines stand a little apart, so that files of one accuracy do not hide each other."""
    low, high = axes.get_ylim()
    return float((1 - list(COLOURS).index(engine)) * 0.035 * (high - low))


def draw_times(rows: Sequence[Measurement], everything: Sequence[Measurement], letters: Mapping[Path, str]) -> Figure:
    """One line a file and engine of one board: the median, and a line over its interval or to p90."""
    figure, axes = _axes(everything, height=1.0 + 0.32 * len(rows))
    for place, row in enumerate(rows):
        _mark(axes, row.median_ms, place, row)
        p90 = row.p90_ms
        if p90 is not None:
            axes.plot([row.median_ms, p90.value], [place, place], color=COLOURS[row.engine], linewidth=1.5)
    axes.set_yticks(range(len(rows)), [f"{letters[row.path]} {row.engine}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _axes(everything: Sequence[Measurement], *, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, height), layout="constrained")
    axes = figure.subplots()
    ends = [end for row in everything for end in _ends(row)]
    axes.set_xscale("log")
    axes.set_xlim(min(ends) / 1.3, max(ends) * 1.3)
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlabel("time of one face, ms")
    axes.grid(color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    return figure, axes


def _ends(row: Measurement) -> tuple[float, ...]:
    p50, p90 = row.p50_ms, row.p90_ms
    assert p50 is not None
    return p50.interval or (p50.value, p90.value if p90 else p50.value)


def _mark(axes: Axes, x: float, y: float, row: Measurement) -> None:
    """A filled disc where it was measured; a hollow one on its interval where it was not."""
    colour = COLOURS[row.engine]
    p50 = row.p50_ms
    if p50 is not None and p50.interval is not None:
        axes.plot(p50.interval, [y, y], color=colour, linewidth=2, alpha=0.5, solid_capstyle="butt")
    face = colour if row.source == "measured" else "none"
    axes.plot([x], [y], "o", markersize=8, markerfacecolor=face, markeredgecolor=colour, markeredgewidth=1.6)


def _has_accuracy(rows: Sequence[Measurement]) -> bool:
    return any(row.accuracy and row.p50_ms for row in rows)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
