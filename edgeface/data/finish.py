"""The last step of ``data prepare``: journal records in, ``faces.csv``, ``rejected.csv`` and the card out.

Reads the records one by one, so that memory does not grow with the number of photos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np

from edgeface.data.crops import Crop
from edgeface.data.duplicates import THUMB, first_copies
from edgeface.data.readers import Skipped, SourceListing
from edgeface.data.table import COLUMNS, REJECTED_COLUMNS, Card, CardHead, write_card, write_table
from edgeface_runtime.checks import Span, read_document
from edgeface_runtime.errors import UsageError
from edgeface_runtime.gallery.enrollment import MIN_SHARPNESS

_MOST = 100_000_000
"""Bytes of a record, of 32 photos with however many faces."""


class _CropRecord(TypedDict):
    path: str
    identity: str
    source: str
    box: tuple[float, ...]
    landmarks: tuple[float, ...]
    score: float
    sharpness: float
    size: float
    yaw: float
    pitch: float
    roll: float
    margin: float
    sha256: str
    hash: Annotated[int, Span(0, 2**64 - 1)]
    details: str


class Record(TypedDict):
    """One task of ``data prepare`` as the journal has it."""

    crops: list[_CropRecord]
    skipped: list[Skipped]


_DROPS: dict[str, tuple[float, str, Callable[[Crop, float], bool]]] = {
    "blur": (MIN_SHARPNESS, "sharpness {sharpness} is under {limit:g}", lambda crop, limit: crop.sharpness < limit),
    "small": (32.0, "a face of {size} pixels is under {limit:g}", lambda crop, limit: crop.size < limit),
    "pose": (60.0, "a yaw of {yaw} degrees is over {limit:g}", lambda crop, limit: abs(crop.yaw) > limit),
    "score": (0.9, "score {score} is under {limit:g}", lambda crop, limit: crop.score < limit),
}
"""Name of a drop → its default limit, what ``rejected.csv`` says, when it applies."""


@dataclass(frozen=True)
class Drop:
    """A reason to leave out faces that are kept by default."""

    name: str
    limit: float = 0.0


@dataclass(frozen=True)
class _Copy:
    """What a face is a copy of."""

    path: str
    across: bool
    """True where the first copy bears another name."""


def parse_drops(text: str) -> tuple[Drop, ...]:
    """``blur,small=40,duplicates`` as drops; without a number the default limit holds.

    Raises:
        UsageError: an unknown name, or no number behind ``=``.
    """
    drops = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = word.partition("=")
        if name not in _DROPS and word != "duplicates":
            raise UsageError(f"--drop {word}: unknown; choose from {', '.join((*_DROPS, 'duplicates'))}")
        try:
            drops.append(Drop(name, float(number or (_DROPS[name][0] if name in _DROPS else 0))))
        except ValueError as error:
            raise UsageError(f"--drop {word}: {number!r} is no number") from error
    return tuple(drops)


def finish(dst: Path, records: Sequence[Path], listing: SourceListing, drops: tuple[Drop, ...], head: CardHead) -> Card:
    """Writes the two tables and the card, and deletes crops that no row names.

    Args:
        dst: the prepared folder.
        records: of all tasks, in order.
        listing: the source.
        drops: which faces to leave out.
        head: what the card says of name, licence and settings.

    Returns:
        The card.

    Raises:
        OSError: ``dst`` cannot be written.
    """
    scratch = dst / ".prepare"
    dropped, copies = _decide(scratch, records, drops)
    seen = _Seen()
    rows = _rows(records, dropped, copies, seen)
    digest = write_table(dst / "faces.csv", COLUMNS, rows, scratch)
    skipped = [skip for record in records for skip in load_record(record)["skipped"]]
    rejected = sorted((*listing.skipped, *skipped, *dropped.values()), key=lambda skip: (skip.source, skip.detail))
    write_table(dst / "rejected.csv", REJECTED_COLUMNS, map(vars, rejected), scratch)
    for path in (dst / "faces").rglob("*.png"):
        if path.relative_to(dst).as_posix() not in seen.paths:
            path.unlink()
    card: Card = {
        "schema": 1,
        **head,
        "layout": listing.layout,
        "counts": {
            "photos": len(listing.photos),
            "faces": len(seen.paths),
            "identities": len(seen.identities),
            "rejected": len(rejected),
            "found_with_margin": seen.with_margin,
            "duplicates": len(copies.keys() & seen.paths),
            "duplicates_across_identities": sum(copies[path].across for path in copies.keys() & seen.paths),
        },
        "rejected": dict(sorted(Counter(skip.reason for skip in rejected).items())),
        "split": None,
        "versions": {"edgeface": version("edgeface"), "numpy": version("numpy"), "pillow": version("pillow")},
        "faces_sha256": digest,
    }
    write_card(dst, card, scratch)
    return card


@dataclass
class _Seen:
    """What the written rows held."""

    paths: set[str] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)
    with_margin: int = 0


def _rows(
    records: Sequence[Path], dropped: dict[str, Skipped], copies: dict[str, _Copy], seen: _Seen
) -> Iterator[dict[str, object]]:
    """The rows of ``faces.csv``, one by one."""
    names = sorted({crop.identity for crop in _crops(records) if crop.path not in dropped})
    labels = {identity: number for number, identity in enumerate(names)}
    for crop in _crops(records):
        if crop.path in dropped:
            continue
        seen.paths.add(crop.path)
        seen.identities.add(crop.identity)
        seen.with_margin += crop.margin > 0
        copy = copies.get(crop.path)
        yield {
            **vars(crop),
            "label": labels[crop.identity],
            "split": "",
            "box": " ".join(map(str, crop.box)),
            "landmarks": " ".join(map(str, crop.landmarks)),
            "duplicate_of": copy.path if copy else "",
        }


def _decide(
    scratch: Path, records: Sequence[Path], drops: tuple[Drop, ...]
) -> tuple[dict[str, Skipped], dict[str, _Copy]]:
    """Faces to leave out, and copies among the others; both by crop path."""
    limits = {drop.name: drop.limit for drop in drops}
    dropped: dict[str, Skipped] = {}
    kept: list[tuple[str, str, str]] = []
    hashes: list[int] = []
    file = scratch / "details"
    with file.open("wb") as written:
        for crop in _crops(records):
            name = next((name for name in _DROPS if name in limits and _DROPS[name][2](crop, limits[name])), None)
            if name:
                detail = _DROPS[name][1].format(**vars(crop), limit=limits[name])
                dropped[crop.path] = Skipped(crop.source, name, detail, crop.identity)
            else:
                kept.append((crop.path, crop.identity, crop.source))
                hashes.append(crop.hash)
                written.write(crop.details)
    details = np.memmap(file, np.int8, "r", shape=(len(kept), THUMB * THUMB)) if kept else np.empty((0, 1), np.int8)
    copies = {}
    for row, first in enumerate(first_copies(np.array(hashes, np.uint64), details)):
        (path, identity, source), (original, other, _) = kept[row], kept[first]
        if row == first:
            continue
        copies[path] = _Copy(original, across=identity != other)
        if "duplicates" in limits:
            dropped[path] = Skipped(source, "duplicates", f"a copy of {original}", identity)
    file.unlink()
    return dropped, copies


def _crops(records: Sequence[Path]) -> Iterator[Crop]:
    """The faces of the journal, without their pictures, which are written already."""
    for record in records:
        for crop in load_record(record)["crops"]:
            yield Crop(**crop | {"details": bytes.fromhex(crop["details"]), "png": b""})  # type: ignore[arg-type]


def load_record(path: Path) -> Record:
    """One record of the journal.

    Raises:
        UsageError: it is none.
    """
    return read_document(path, Record, "record", most=_MOST)
