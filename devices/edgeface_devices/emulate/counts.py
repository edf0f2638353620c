"""Instructions by class between the marks that a worker sets, from the counter's lines (qemu/icount.c)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from statistics import median

from edgeface_devices.bench.process import Worker
from edgeface_devices.bench.scenes import SCENES
from edgeface_devices.way import PARTS, WHOLE, Part, PhotoWay, Setting


def instructions(lines: str) -> dict[str, int] | None:
    """Instructions of one call by class, from the counter's lines: the median of the differences of two marks.

    ``dot`` (dot products) is part of ``simd``. None without lines.
    """
    marks = _marks(lines)
    if len(marks) < 2:
        return None
    pairs = list(pairwise(marks))
    return {key: int(median(after[key] - before[key] for before, after in pairs)) for key in marks[0]}


def ways(worker: Worker, settings: Sequence[Setting], lines: Callable[[], str]) -> Iterator[PhotoWay]:
    """For each setting and scene the instructions of the way from a photo to names, part by part, and never a time.

    Args:
        worker: in the emulator, with its file loaded.
        settings: how faces are looked for.
        lines: gives what the counter has written so far; nothing where nothing counts.
    """
    for setting, scene in product(settings, SCENES):
        answer = worker.photo_marks(scene, setting)
        marks = _marks(lines())[-len(answer.parts) - 1 :]
        totals = [after["total"] - before["total"] for before, after in pairwise(marks)]
        counts = dict(zip(answer.parts, totals, strict=False))
        whole = counts.get(WHOLE)
        yield PhotoWay(
            scene=scene,
            faces=answer.faces,
            setting=setting,
            gallery=answer.gallery,
            source="emulated",
            parts={name: Part(instructions=counts.get(name)) for name in answer.parts},
            parts_over_whole=round(sum(counts[name] for name in PARTS) / whole, 4) if whole else None,
        )


def _marks(lines: str) -> list[dict[str, int]]:
    return [{key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)} for line in lines.splitlines()]
