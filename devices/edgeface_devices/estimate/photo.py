"""What of the way from a photo to names published rows carry: the nets. Everything else says why it has no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product

from edgeface_devices.bench.scenes import SCENES, scene
from edgeface_devices.bench.whole import GALLERY
from edgeface_devices.boards.profiles import BoardProfile
from edgeface_devices.estimate.evidence import Anchor, Costs, read_facts
from edgeface_devices.estimate.latency import estimate
from edgeface_devices.figures import Figure
from edgeface_devices.measurement import Measurement
from edgeface_devices.results import Results
from edgeface_devices.way import NETS, Part, PhotoWay, Setting
from edgeface_runtime.detection.find import ENGINES, find_faces, load_detector
from edgeface_runtime.engines import Engine
from edgeface_runtime.images import open_photo

_NO_ROW = "no published row; measure it with --host"
REASONS = {
    "decode": f"reading a JPEG: {_NO_ROW}",
    "find": f"the numpy work around its nets, whose time is that of the nets alone: {_NO_ROW}",
    "align": f"numpy work: {_NO_ROW}",
    "search": f"numpy work: {_NO_ROW}",
    "whole": f"reading, alignment, search and numpy work: {_NO_ROW}",
    "follow": f"numpy work: {_NO_ROW}",
}


def with_ways(
    results: Results, board: BoardProfile, settings: Sequence[Setting], measured: Sequence[Anchor] = ()
) -> Results:
    """Estimates with what is known of the whole way, for each file on the engine that opens it.

    Args:
        results: of ``latency.outlook``.
        board: whose times they are.
        settings: how faces are looked for.
        measured: the user's own rows.

    Raises:
        UsageError: no such detector.
    """
    rows = [
        replace(row, photo=estimated_ways(row, board, settings, measured)) if row.runs else row for row in results.rows
    ]
    return replace(results, rows=tuple(rows))


def estimated_ways(
    row: Measurement, board: BoardProfile, settings: Sequence[Setting], measured: Sequence[Anchor] = ()
) -> tuple[PhotoWay, ...]:
    """For each setting and scene what is known of the whole way on a board.

    Args:
        row: with the estimate of one face.
        board: whose time it is.
        settings: how faces are looked for.
        measured: the user's own rows.

    Raises:
        UsageError: no such detector.
    """
    return tuple(_way(row, board, setting, name, measured) for setting, name in product(settings, SCENES))


def _way(row: Measurement, board: BoardProfile, setting: Setting, name: str, measured: Sequence[Anchor]) -> PhotoWay:
    engine = row.engine if row.engine in ENGINES else "auto"
    net, faces = _finding(setting, name, engine)
    parts = {part: Part(reason=reason) for part, reason in REASONS.items()}
    embed = _times(row.p50_ms, faces)
    parts["embed"] = Part(p50_ms=embed, reason=None if embed or not faces else row.note)
    find = estimate(net, board, engine=row.engine, precision="fp32", threads=row.threads, measured=measured)
    if find.ms is None:
        parts[NETS] = Part(reason=f"finding: {find.note}")
    elif embed is None and faces:
        parts[NETS] = Part(reason=f"embedding: {row.note}")
    else:
        parts[NETS] = Part(p50_ms=_sum(find.ms, embed))
    return PhotoWay(scene=name, faces=faces, setting=setting, gallery=GALLERY, source="estimated", parts=parts)


def _times(ms: Figure | None, faces: int) -> Figure | None:
    if ms is None or ms.interval is None or not faces:
        return None
    return Figure(ms.value * faces, ms.source, (ms.interval[0] * faces, ms.interval[1] * faces))


def _sum(one: Figure, other: Figure | None) -> Figure:
    """Both ends are added, as for errors that go the same way."""
    if other is None or one.interval is None or other.interval is None:
        return one
    ends = one.interval[0] + other.interval[0], one.interval[1] + other.interval[1]
    return Figure(one.value + other.value, one.source, ends)


class _Watched:
    """A net that notes what it is asked."""

    def __init__(self, net: Engine, asked: list[int]) -> None:
        self._net, self._asked = net, asked

    def __getattr__(self, name: str) -> object:
        return getattr(self._net, name)

    def run(self, *inputs: object) -> object:
        self._asked.append(getattr(inputs[0], "size", 0))
        return self._net.run(*inputs)  # type: ignore[arg-type]


@cache
def _finding(setting: Setting, name: str, engine: str) -> tuple[Costs, int]:
    """Costs of all nets that run until the faces of a scene are found, watched on this machine; and the faces."""
    detector = load_detector(setting.detector, engine=engine, min_face=setting.min_face)
    table = {line["part"]: line for line in read_facts("detectors.csv") if line["detector"] == setting.detector}
    asked: dict[str, list[int]] = {part: [] for part in table}
    nets = {part: _Watched(getattr(detector, part), asked[part]) for part in table}
    found = find_faces(open_photo(scene(name)), replace(detector, **nets))[0]  # type: ignore[type-var]
    total = dict.fromkeys(Costs.__dataclass_fields__, 0.0)
    for part, line in table.items():
        for size in asked[part]:
            for cost in total:
                scale = 1.0 if cost in ("layers", "parameters") else size / float(line["values"])
                total[cost] += float(line[cost]) * scale
    # Small ones that run again and again: no weights that memory has to bring anew.
    total["pointwise"] += total.pop("linear")
    return Costs(**total, linear=0.0), len(found)
