"""The page of ``edgeface profile --report``."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from edgeface.report.pictures import INK, STYLE, as_svg
from edgeface.templates import environment
from edgeface_devices.bench.operators import OperatorProfile
from edgeface_runtime.files import write_text

COLOUR = "#2f7ed8"
_LONGEST = 34


def write_profile(path: Path, profile: OperatorProfile) -> None:
    """Writes the page, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    kinds = [(f"{kind} ({count})", ms) for kind, count, ms in profile.by_kind()]
    slowest = [(f"{place} {operator.name}", operator.ms) for place, operator in profile.slowest()]
    with matplotlib.rc_context(STYLE):
        pictures = [as_svg(draw_bars(bars, profile.total_ms)) for bars in (kinds, slowest)]
    page = (
        environment(Path(__file__).parent)
        .get_template("operators.html.j2")
        .render(
            profile=profile,
            zip=zip,
            titles=("By kind", "The ten slowest operators"),
            pictures=pictures,
            tables=profile.tables(),
            made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            version=importlib.metadata.version("edgeface"),
        )
    )
    write_text(path, page)


def draw_bars(bars: Sequence[tuple[str, float]], total_ms: float) -> Figure:
    """A bar for each (name, milliseconds), in the order given, with its share of the total."""
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(bars)), layout="constrained")
    axes = figure.subplots()
    places = range(len(bars))
    axes.barh(places, [ms for _, ms in bars], color=COLOUR, height=0.65)
    for place, (_, ms) in zip(places, bars, strict=True):
        share = 100 * ms / total_ms if total_ms else 0.0
        axes.annotate(f"{share:.1f} %", (ms, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, [_shortened(name) for name, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(ms for _, ms in bars) or 1)
    axes.set_xlabel("ms, median")
    axes.grid(axis="x", color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    return figure


def _shortened(name: str) -> str:
    name = name.replace("$", r"\$")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 :]}"
