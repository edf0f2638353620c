"""The files of a prepared folder: ``faces.csv``, ``rejected.csv`` and the card ``dataset.json``."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from edgeface_runtime.checks import Count, Span, read_document
from edgeface_runtime.errors import UsageError
from edgeface_runtime.files import replacing, spreadsheet_safe
from edgeface_runtime.images import shown
from edgeface_runtime.tables import Check, anything, matching, numbers, read_table

_INSIDE = r"(?!.*(?:^|/)\.\.(?:/|$))[^/\0][^\0]*"
_REMEDY = "prepare the photos again"
_FACES: dict[str, Check] = {
    "path": matching(_INSIDE, "a path inside the folder"),
    "identity": anything,
    "label": matching(r"-1|\d{1,9}", "a whole number"),
    "split": matching("train|val|test", "train, val, test or empty"),
    "source": anything,
    "box": numbers(4),
    "landmarks": numbers(10),
    "score": numbers(1),
    "sharpness": numbers(1, Span(0)),
    "sha256": anything,
    "size": numbers(1, Span(0, above=True)),
    "yaw": numbers(1),
    "pitch": numbers(1),
    "roll": numbers(1),
    "margin": numbers(1, Span(0)),
    "duplicate_of": anything,
}
"""Column of ``faces.csv`` → the check of its cells."""
COLUMNS = tuple(_FACES)
_MEASURED = ("size", "sharpness", "score", "yaw")
_NUMBERS = COLUMNS[5:9] + COLUMNS[10:15]
REJECTED_COLUMNS = ("source", "identity", "reason", "detail")


def read_faces(folder: str | Path, *, measured: bool = False) -> list[dict[str, str]]:
    """The rows of a prepared folder's ``faces.csv``.

    Args:
        folder: the prepared folder.
        measured: True: every face has its size, sharpness, score and yaw; else what nobody measured may be empty.

    Raises:
        UsageError: the folder was not prepared, or its table lacks a column or has a cell that does not fit; names it.
    """
    needed = ("path", *(_MEASURED if measured else ()))
    checks = {name: check if name in needed else _or_empty(check) for name, check in _FACES.items()}
    return _read(Path(folder) / "faces.csv", checks)


def read_rejected(folder: str | Path) -> list[dict[str, str]]:
    """The rows of a prepared folder's ``rejected.csv``.

    Raises:
        UsageError: the folder was not prepared, or its table lacks a column or has a cell that does not fit; names it.
    """
    return _read(Path(folder) / "rejected.csv", dict.fromkeys(REJECTED_COLUMNS, anything))


class SplitRule(TypedDict):
    """What ``data split`` was told: of the method ``k`` that number, of the others two shares."""

    method: str
    seed: int
    k: NotRequired[int]
    test: NotRequired[float]
    val: NotRequired[float]


class SplitCard(SplitRule):
    """The rule, and the faces and identities in each part."""

    faces: dict[str, Count]
    identities: dict[str, Count]


class Counts(TypedDict):
    """How much a prepared folder holds."""

    photos: Count
    faces: Count
    identities: Count
    rejected: Count
    found_with_margin: NotRequired[Count]
    duplicates: Count
    duplicates_across_identities: Count


class Settings(TypedDict):
    """How faces were found and cut out, as ``CropSettings`` says it."""

    detector: str
    size: Count
    detector_sha256: NotRequired[str | None]
    faces: NotRequired[str]
    drop: NotRequired[dict[str, object]]


class Versions(TypedDict):
    """Of the packages that made it."""

    edgeface: str
    numpy: NotRequired[str]
    pillow: NotRequired[str]


class CardHead(TypedDict):
    """What the options say of a prepared folder."""

    name: str
    licence: str
    settings: Settings


class Card(CardHead):
    """``dataset.json``: what a prepared folder holds, and how it was made."""

    schema: int
    layout: str
    counts: Counts
    rejected: dict[str, Count]
    """Reason → photos and faces."""
    split: SplitCard | None
    versions: Versions
    faces_sha256: str
    """Of ``faces.csv``."""


def read_card(folder: str | Path) -> Card:
    """The card of a prepared folder.

    Raises:
        UsageError: there is none, or it is none of ours; names the key.
    """
    path = Path(folder) / "dataset.json"
    if not path.exists():
        raise UsageError(f"{shown(path)}: cannot be read; make it with: edgeface data prepare")
    return read_document(path, Card, "card")


def write_table(path: Path, columns: tuple[str, ...], rows: Iterable[Mapping[str, object]], scratch: Path) -> str:
    """Writes a CSV row by row beside its name and renames it.

    Returns:
        The file's sha256.
    """
    with replacing(path, scratch) as part:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for row in rows:  # numbers below 0 are no formulas, also where they were read as text
                texts = {name: row.get(name, "") for name in columns if name not in _NUMBERS}
                safe = dict(zip(texts, spreadsheet_safe(texts.values()), strict=True))
                writer.writerow([safe[name] if name in safe else row.get(name, "") for name in columns])
        with part.open("rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()


def write_card(folder: Path, card: Card, scratch: Path) -> None:
    """Writes ``dataset.json``."""
    write_beside(folder / "dataset.json", (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode(), scratch)


def write_beside(path: Path, data: bytes, scratch: Path) -> None:
    """Writes a file under another name in ``scratch`` (same file system) and renames it: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, scratch) as part:
        part.write_bytes(data)


def _or_empty(check: Check) -> Check:
    return lambda cell: check(cell) if cell else None


def _read(path: Path, columns: dict[str, Check]) -> list[dict[str, str]]:
    if not path.exists():
        raise UsageError(f"{shown(path.parent)}: no {path.name} in it; make one with: edgeface data prepare")
    return read_table(path, columns, remedy=_REMEDY)
