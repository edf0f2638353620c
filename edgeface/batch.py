"""Identifies the faces of many photos, a row for each face; a photo that cannot be read is a row too."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from edgeface_runtime import FaceRecognizer, Gallery, Identity, ImageError
from edgeface_runtime.files import spreadsheet_safe
from edgeface_runtime.images import shown

NO_FACE = "no face found"
_COLUMNS = (
    "photo", "face", "name", "score", "threshold", "far", "x0", "y0", "x1", "y1", "detection", "reason"
)  # fmt: skip


@dataclass(frozen=True)
class FaceRow:
    """A face of a photo, or that there is none."""

    photo: str
    face: int | None
    """1 for the most confident detection of the photo; None where there is no face."""
    identity: Identity | None
    reason: str | None = None
    """Why there is no face."""
    refused: bool = False
    """True where the photo cannot be read."""


def identify_all(
    recognizer: FaceRecognizer,
    gallery: Gallery,
    photos: Iterable[Path],
    far: float = 1e-2,
    threshold: float | None = None,
) -> Iterator[FaceRow]:
    """The faces of each photo as ``FaceRecognizer.identify`` names them; of a photo without one a row that says so.

    Raises:
        GalleryError: the gallery was made with another model.
        UsageError: the model's contract has no threshold for ``far`` over so many photos.
    """
    for photo in photos:
        name = shown(photo)
        try:
            found = recognizer.identify(photo, gallery, far, threshold=threshold)
        except ImageError as error:
            yield FaceRow(name, None, None, str(error).removeprefix(f"{name}: "), refused=True)
            continue
        if not found:
            yield FaceRow(name, None, None, NO_FACE)
        for number, identity in enumerate(found, 1):
            yield FaceRow(name, number, identity)


def csv_writer(out: TextIO) -> Callable[[FaceRow], None]:
    """Writes the head of a table, and gives what writes a row at once."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    out.flush()

    def write(row: FaceRow) -> None:
        one = row.identity
        cells: list[object] = [row.photo, row.face]
        cells += (
            [*[None] * 9] if one is None else [one.name, one.score, one.threshold, one.far, *one.box, one.detection]
        )
        writer.writerow(spreadsheet_safe([*cells, row.reason]))
        out.flush()

    return write


def json_writer(out: TextIO) -> Callable[[FaceRow], None]:
    """Gives what writes a row at once, as a JSON document in a line."""

    def write(row: FaceRow) -> None:
        face = asdict(row.identity) if row.identity else None
        document = {"photo": row.photo, "face": row.face, **(face or {}), "reason": row.reason}
        out.write(json.dumps(document, ensure_ascii=False) + "\n")
        out.flush()

    return write
