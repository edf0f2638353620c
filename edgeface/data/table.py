"""The files of a prepared folder: ``faces.csv``, ``rejected.csv`` and the card ``dataset.json``."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from edgeface_runtime.errors import UsageError
from edgeface_runtime.files import replacing
from edgeface_runtime.images import shown

COLUMNS = (
    "path", "identity", "label", "split", "source", "box", "landmarks", "score", "sharpness", "sha256",
    "size", "yaw", "pitch", "roll", "margin", "duplicate_of",
)  # fmt: skip
REJECTED_COLUMNS = ("source", "identity", "reason", "detail")


def read_faces(folder: str | Path) -> list[dict[str, str]]:
    """The rows of a prepared folder's ``faces.csv``.

    Raises:
        UsageError: the folder was not prepared, or its table lacks a column.
    """
    return _read(Path(folder) / "faces.csv", COLUMNS)


def read_rejected(folder: str | Path) -> list[dict[str, str]]:
    """The rows of a prepared folder's ``rejected.csv``.

    Raises:
        UsageError: the folder was not prepared, or its table lacks a column.
    """
    return _read(Path(folder) / "rejected.csv", REJECTED_COLUMNS)


class SplitRule(TypedDict):
    """What ``data split`` was told: of the method ``k`` that number, of the others two shares."""

    method: str
    seed: int
    k: NotRequired[int]
    test: NotRequired[float]
    val: NotRequired[float]


class SplitCard(SplitRule):
    """The rule, and the faces and identities in each part."""

    faces: dict[str, int]
    identities: dict[str, int]


class CardHead(TypedDict):
    """What the options say of a prepared folder."""

    name: str
    licence: str
    settings: dict[str, object]


class Card(CardHead):
    """``dataset.json``: what a prepared folder holds, and how it was made."""

    schema: int
    layout: str
    counts: dict[str, int]
    rejected: dict[str, int]
    """Reason → photos and faces."""
    split: SplitCard | None
    versions: dict[str, str]
    faces_sha256: str
    """Of ``faces.csv``."""


def read_card(folder: str | Path) -> Card:
    """The card of a prepared folder.

    Raises:
        UsageError: there is none, or it is no JSON.
    """
    path = Path(folder) / "dataset.json"
    try:
        card: Card = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(path)}: cannot be read; make it with: edgeface data prepare") from error
    return card


def write_table(path: Path, columns: tuple[str, ...], rows: Iterable[Mapping[str, object]], scratch: Path) -> str:
    """Writes a CSV row by row beside its name and renames it.

    Returns:
        The file's sha256.
    """
    with replacing(path, scratch) as part:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
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


def _read(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), reader.fieldnames or ()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{shown(path.parent)}: no {path.name} in it; make one with: edgeface data prepare") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{shown(path)}: cannot be read: {error}") from error
    if missing := [name for name in columns if name not in names]:
        raise UsageError(f"{shown(path)}: has no column {missing[0]}; prepare the photos again")
    return rows
