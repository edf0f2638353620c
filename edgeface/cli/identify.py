"""``edgeface identify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import Json, note, print_json, print_table
from edgeface.cli.enroll import Detector, Model, Threads
from edgeface_runtime.shipped_models import DEFAULT

if TYPE_CHECKING:
    from edgeface_runtime import FaceRecognizer

Enrolled = Annotated[Path, typer.Option("--gallery", "-g", help="Gallery file that `enroll` made.")]
Fpir = Annotated[
    float,
    typer.Option(help="FPIR, 0 to 1: share of unenrolled people's photos that may get a name, over the gallery."),
]
Limit = Annotated[float | None, typer.Option(min=-1, max=1, help="Score (cosine) that is enough, in place of --far.")]


def note_extrapolated(
    recognizer: FaceRecognizer, far: float, threshold: float | None, comparisons: int | None = None
) -> None:
    """Says on stderr that the threshold for ``far`` rests on larger rates than any that were measured."""
    from edgeface_runtime.gallery.enrollment import EXTRAPOLATED

    if threshold is None and (at := recognizer.threshold(far, comparisons)).extrapolated:
        over = "" if comparisons is None else f" over {comparisons:,} photos"
        note(f"the threshold {at.value:.3f} for a rate of {far:g}{over} is {EXTRAPOLATED}")


def identify(
    photo: Annotated[Path, typer.Argument(help="Photo to identify the faces of.")],
    gallery: Enrolled,
    model: Model = Path(DEFAULT),
    far: Fpir = 0.01,
    threshold: Limit = None,
    detector: Detector = "blazeface",
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Say who is in a photo; people who are not enrolled are "unknown".

    \b
    Examples:
      edgeface identify door.jpg --gallery people.gallery
      edgeface identify door.jpg -g people.gallery -m net.int8.tflite --far 0.001 --json
    """
    from dataclasses import asdict

    from edgeface_runtime import FaceRecognizer, Gallery, GalleryError
    from edgeface_runtime.thresholds import told_apart

    if not gallery.exists():
        raise GalleryError(f"{gallery}: no such gallery; `edgeface enroll` makes one")
    recognizer = FaceRecognizer(model, detector, threads)
    with Gallery.open(gallery, recognizer) as people:
        found = recognizer.identify(photo, people, far, threshold=threshold)
        note_extrapolated(recognizer, far, threshold, len(people))
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
