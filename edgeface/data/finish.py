"""The last step of ``data prepare``: journal records in, ``faces.csv``, ``rejected.csv`` and the card out.

Reads the records one by one, twice: of each face only its names and what it is compared by stay in memory, less than
1 kB.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NamedTuple, TypedDict, cast

import numpy as np

from edgeface.data.duplicates import THUMB, first_copies
from edgeface.data.readers import Skipped, SourceListing
from edgeface.data.table import COLUMNS, REJECTED_COLUMNS, Card, CardHead, write_card, write_table
from edgeface.progress import Progress
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


_DROPS: dict[str, tuple[float, str, Callable[[_CropRecord, float], bool]]] = {
    "blur": (MIN_SHARPNESS, "sharpness {sharpness} is under {limit:g}", lambda crop, limit: crop["sharpness"] < limit),
    "small": (32.0, "a face of {size} pixels is under {limit:g}", lambda crop, limit: crop["size"] < limit),
    "pose": (60.0, "a yaw of {yaw} degrees is over {limit:g}", lambda crop, limit: abs(crop["yaw"]) > limit),
    "score": (0.9, "score {score} is under {limit:g}", lambda crop, limit: crop["score"] < limit),
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


def finish(
    dst: Path,
    records: Sequence[Path],
    listing: SourceListing,
    drops: tuple[Drop, ...],
    head: CardHead,
    progress: Progress,
) -> Card:
    """Writes the two tables and the card, and deletes crops that no row names.

    Args:
        dst: the prepared folder.
        records: of all tasks, in order.
        listing: the source.
        drops: which faces to leave out.
        head: what the card says of name, licence and settings.
        progress: called with what is done so far, the number of all, and what they are.

    Returns:
        The card.

    Raises:
        OSError: ``dst`` cannot be written.
    """
    scratch = dst / ".prepare"
    found = _decide(scratch, records, drops, progress)
    kept = {path: face for path, face in found.faces.items() if path not in found.dropped}
    digest = write_table(dst / "faces.csv", COLUMNS, _rows(records, kept, found.copies, progress), scratch)
    rejected = sorted(
        (*listing.skipped, *found.skipped, *found.dropped.values()), key=lambda skip: (skip.source, skip.detail)
    )
    write_table(dst / "rejected.csv", REJECTED_COLUMNS, map(vars, rejected), scratch)
    for path in (dst / "faces").rglob("*.png"):
        if path.relative_to(dst).as_posix() not in kept:
            path.unlink()
    copies = [copy for path, copy in found.copies.items() if path in kept]
    card: Card = {
        "schema": 1,
        **head,
        "layout": listing.layout,
        "counts": {
            "photos": len(listing.photos),
            "faces": len(kept),
            "identities": len({face.identity for face in kept.values()}),
            "rejected": len(rejected),
            "found_with_margin": sum(face.has_margin for face in kept.values()),
            "duplicates": len(copies),
            "duplicates_across_identities": sum(copy.across for copy in copies),
        },
        "rejected": dict(sorted(Counter(skip.reason for skip in rejected).items())),
        "split": None,
        "versions": {"edgeface": version("edgeface"), "numpy": version("numpy"), "pillow": version("pillow")},
        "faces_sha256": digest,
    }
    write_card(dst, card, scratch)
    return card


class _Face(NamedTuple):
    """What stays in memory of a face."""

    identity: str
    source: str
    has_margin: bool


@dataclass(frozen=True)
class _Found:
    """What the records hold, by crop path where not said otherwise."""

    faces: dict[str, _Face] = field(default_factory=dict)
    """Those that no limit leaves out."""
    dropped: dict[str, Skipped] = field(default_factory=dict)
    copies: dict[str, _Copy] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    """Photos without a face."""


def _rows(
    records: Sequence[Path], kept: dict[str, _Face], copies: dict[str, _Copy], progress: Progress
) -> Iterator[dict[str, object]]:
    """The rows of ``faces.csv``, one by one."""
    labels = {identity: number for number, identity in enumerate(sorted({face.identity for face in kept.values()}))}
    for record in _read(records, _load_again, "groups of photos listed", progress):
        for crop in record["crops"]:
            if (path := crop["path"]) in kept:
                yield {
                    **crop,
                    "label": labels[crop["identity"]],
                    "split": "",
                    "box": " ".join(map(str, crop["box"])),
                    "landmarks": " ".join(map(str, crop["landmarks"])),
                    "duplicate_of": copies[path].path if path in copies else "",
                }


def _decide(scratch: Path, records: Sequence[Path], drops: tuple[Drop, ...], progress: Progress) -> _Found:
    """Faces to leave out, and copies among the others."""
    limits = {drop.name: drop.limit for drop in drops}
    found = _Found()
    hashes: list[int] = []
    file = scratch / "details"
    with file.open("wb") as written:
        for record in _read(records, load_record, "groups of photos read", progress):
            found.skipped.extend(record["skipped"])
            for crop in record["crops"]:
                name = next((name for name in _DROPS if name in limits and _DROPS[name][2](crop, limits[name])), None)
                if name:
                    detail = _DROPS[name][1].format(**crop, limit=limits[name])
                    found.dropped[crop["path"]] = Skipped(crop["source"], name, detail, crop["identity"])
                else:
                    found.faces[crop["path"]] = _Face(crop["identity"], crop["source"], crop["margin"] > 0)
                    hashes.append(crop["hash"])
                    written.write(bytes.fromhex(crop["details"]))
    details = np.memmap(file, np.int8, "r", shape=(len(hashes), THUMB * THUMB)) if hashes else np.empty((0, 1), np.int8)
    firsts = first_copies(
        np.array(hashes, np.uint64), details, progress=lambda done, total: progress(done, total, "faces compared")
    )
    paths = list(found.faces)
    for row, first in enumerate(firsts):
        if row != first:
            face, path, original = found.faces[paths[row]], paths[row], paths[first]
            found.copies[path] = _Copy(original, across=face.identity != found.faces[original].identity)
            if "duplicates" in limits:
                found.dropped[path] = Skipped(face.source, "duplicates", f"a copy of {original}", face.identity)
    file.unlink()
    return found


def _read(records: Sequence[Path], load: Callable[[Path], Record], what: str, progress: Progress) -> Iterator[Record]:
    for done, path in enumerate(records):
        progress(done, len(records), what)
        yield load(path)
    progress(len(records), len(records), what)


def load_record(path: Path) -> Record:
    """One record of the journal.

    Raises:
        UsageError: it is none.
    """
    return read_document(path, Record, "record", most=_MOST)


def _load_again(path: Path) -> Record:
    """A record that ``load_record`` took a moment ago: its checks take five times as long as the reading."""
    return cast(Record, json.loads(path.read_bytes()))
