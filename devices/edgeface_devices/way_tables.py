"""The whole way from a photo to names as tables."""

from __future__ import annotations

from collections.abc import Sequence

from edgeface_devices.figures import Figure, Table, shown
from edgeface_devices.measurement import Measurement
from edgeface_devices.way import FOLLOW, INTERVALS, NETS, WHOLE, PhotoWay, Setting

LABELS = {
    "decode": "read the JPEG",
    "find": "find the faces",
    "align": "align them",
    "embed": "embed them",
    "search": "search the gallery",
    WHOLE: "all in one call",
    NETS: "nets alone (find, embed)",
    FOLLOW: "follow them to the next frame",
}


def by_setting(row: Measurement) -> dict[Setting, list[PhotoWay]]:
    """How faces were looked for → the ways of a row, in the order of the scenes."""
    found: dict[Setting, list[PhotoWay]] = {}
    for way in row.photo:
        found.setdefault(way.setting, []).append(way)
    return found


def way_table(ways: Sequence[PhotoWay]) -> Table:
    """Parts down, scenes across: ms, of an emulated core millions of instructions; an interval says that it is one."""
    names = [name for name in LABELS if any(name in way.parts for way in ways)]
    lines = [[LABELS[name], *(_cell(way, name) for way in ways)] for name in names]
    for interval in INTERVALS if ways[0].source == "measured" else ():
        text = "frames a second, each looked at" if interval == 1 else f"frames a second, every {interval}. looked at"
        lines.append([text, *(_rate(way, interval) for way in ways)])
    if any(way.peak_mb for way in ways):
        lines.append(["peak of the process, MB", *(f"{way.peak_mb:.0f}" if way.peak_mb else "–" for way in ways)])
    if any(way.parts_over_whole for way in ways):
        lines.append(["parts together ÷ in one call", *(_quotient(way.parts_over_whole) for way in ways)])
    unit = "millions of instructions" if ways[0].source == "emulated" else "ms"
    return [unit, *(way.scene for way in ways)], lines


def reasons(rows: Sequence[Measurement]) -> Table:
    """Why cells have no time, each said once."""
    said: dict[tuple[str, str], None] = {}
    for row in rows:
        for way in row.photo:
            for name, part in way.parts.items():
                if part.reason and way.source == "estimated":
                    said[LABELS[name], part.reason] = None
    return ["no basis for", "because"], [list(pair) for pair in said]


def title(row: Measurement, setting: Setting) -> str:
    """What a table of the way is about; a time that was not measured is named so."""
    source = {"estimated": ", estimated, not measured", "emulated": ", counted, never times"}.get(row.source, "")
    threads = f"{row.threads} thread{'' if row.threads == 1 else 's'}"
    where = f"{row.device}: " if row.device else ""
    return f"{where}photo to names with {row.file} on {row.engine}, {setting}, {threads}{source}"


def _cell(way: PhotoWay, name: str) -> str:
    part = way.part(name)
    if way.source == "emulated":
        return "–" if part.instructions is None else shown(Figure(part.instructions / 1e6, "emulated"))
    if part.p50_ms is None:
        return "no basis" if part.reason else "–"
    return f"{shown(part.p50_ms)} (estimated)" if way.source == "estimated" else shown(part.p50_ms)


def _rate(way: PhotoWay, interval: int) -> str:
    ms = way.frame_ms(interval)
    return "–" if not ms else shown(Figure(1000 / ms, way.source))


def _quotient(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
