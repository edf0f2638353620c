"""``edgeface identify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import ERR, Idle, Json, bar, note, opened, print_json, print_table, refuse_idle, say
from edgeface.cli.enroll import Detector, GalleryModel, MinFace, Threads
from edgeface_runtime import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.batch import FaceRow
    from edgeface_runtime import FaceRecognizer

Enrolled = Annotated[Path, typer.Option("--gallery", "-g", help="Gallery file that `enroll` made.")]
Fpir = Annotated[
    float,
    typer.Option(help="FPIR, 0 to 1: share of unenrolled people's photos that may get a name, over the gallery."),
]
Limit = Annotated[float | None, typer.Option(min=-1, max=1, help="Score (cosine) that is enough, in place of --far.")]

ONE_LIMIT: Idle = (("threshold", True, "has no effect beside --threshold: give one of them", ("far",)),)


def note_doubts(
    recognizer: FaceRecognizer, far: float, threshold: float | None, comparisons: int | None = None
) -> None:
    """Says on stderr that the threshold for ``far`` rests on larger rates than any that were measured.

    And that a gallery is empty, of which ``comparisons`` are the photos.
    """
    from edgeface_runtime.gallery.enrollment import EXTRAPOLATED

    if comparisons == 0:
        note("nobody is enrolled in the gallery, so that everybody is unknown; `edgeface enroll` enrolls people")
    if threshold is None and (at := recognizer.threshold(far, comparisons)).extrapolated:
        over = "" if comparisons is None else f" over {comparisons:,} photos"
        note(f"the threshold {at.value:.3f} for a rate of {far:g}{over} is {EXTRAPOLATED}")


def identify(
    context: typer.Context,
    photos: Annotated[list[Path], typer.Argument(help="Photos to identify the faces of, and folders of them.")],
    gallery: Enrolled,
    model: GalleryModel = None,
    far: Fpir = 0.01,
    threshold: Limit = None,
    detector: Detector = None,
    min_face: MinFace = None,
    threads: Threads = 1,
    csv: Annotated[bool, typer.Option("--csv", help="Print a row for each face, as CSV.")] = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print a row for each face, as a JSON document in a line.")
    ] = False,
    json: Json = False,
) -> None:
    """Say who is in photos; people who are not enrolled are "unknown".

    Of several photos or a folder, at whatever depth, each face is a row, printed as soon as its photo was looked
    at. A photo that cannot be read is a row with the reason, and the exit code is 1 at the end.

    \b
    Examples:
      edgeface identify door.jpg --gallery people.gallery
      edgeface identify door.jpg -g people.gallery -m net.int8.tflite --far 0.001 --json
      edgeface identify photos/ more/*.jpg -g people.gallery --csv > who.csv
    """
    from dataclasses import asdict

    from edgeface_runtime import Gallery, GalleryError
    from edgeface_runtime.thresholds import told_apart

    refuse_idle(context, ONE_LIMIT)
    if sum((csv, json_lines, json)) > 1:
        raise UsageError("choose one of --csv, --json-lines and --json")
    if not gallery.exists():
        raise GalleryError(f"{gallery}: no such gallery; `edgeface enroll` makes one")
    if csv or json_lines or len(photos) > 1 or photos[0].is_dir():
        if json:
            raise UsageError("--json is for one photo; of several, --json-lines prints a document for each face")
        recognizer = opened(model, detector, threads, min_face)
        _identify_many(photos, gallery, recognizer, far, threshold, csv, json_lines)
        return
    (photo,) = photos
    recognizer = opened(model, detector, threads, min_face)
    with Gallery.open(gallery, recognizer) as people:
        found = recognizer.identify(photo, people, far, threshold=threshold)
        note_doubts(recognizer, far, threshold, len(people))
    if json:
        print_json({"schema": 1, "faces": [asdict(face) for face in found]})
        return
    rows = [
        (
            "unknown" if face.name is None else face.name,
            *(("", f"{face.threshold:.3f}") if face.score is None else told_apart(face.score, face.threshold, 3)),
            " ".join(f"{side:.0f}" for side in face.box),
        )
        for face in found
    ]
    faces = "1 face" if len(found) == 1 else f"{len(found)} faces"
    print_table(f"{photo}: {faces}", ("who", "score", "threshold", "box"), rows)


def _identify_many(
    paths: list[Path],
    gallery: Path,
    recognizer: FaceRecognizer,
    far: float,
    threshold: float | None,
    csv: bool,
    json_lines: bool,
) -> None:
    from edgeface.batch import csv_writer, identify_all, json_writer
    from edgeface.photo_folders import every_photo
    from edgeface_runtime import Gallery

    photos = every_photo(paths, missing=True)
    refused = 0
    with Gallery.open(gallery, recognizer) as people:
        note_doubts(recognizer, far, threshold, len(people))
        rows = identify_all(recognizer, people, bar(ERR, photos, "identifying"), far, threshold)
        write: Callable[[FaceRow], None] | None = None
        for row in rows:
            # Only once the bar stands, which on a terminal puts itself in stdout's place to stay below the rows.
            if write is None:
                write = csv_writer(sys.stdout) if csv else json_writer(sys.stdout) if json_lines else _print_row
            write(row)
            refused += row.refused
    if refused:
        note(f"{refused} of {len(photos)} photos could not be read")
        raise typer.Exit(1)


def _print_row(row: FaceRow) -> None:
    who = row.identity
    if who is None:
        say(f"{row.photo}: {row.reason}")
    else:
        score = "" if who.score is None else f" {who.score:.3f}"
        say(f"{row.photo}: {'unknown' if who.name is None else who.name}{score}")
