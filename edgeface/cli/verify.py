"""``edgeface verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import Json, note, print_json, refuse_idle
from edgeface.cli.enroll import FreeDetector, MinFace, Model, Threads
from edgeface.cli.identify import ONE_LIMIT, Limit, note_doubts
from edgeface_runtime.model import DEFAULT


def verify(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(metavar="A", help="Photo; its largest central face is compared.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Photo to compare it with.")],
    model: Model = Path(DEFAULT),
    far: Annotated[float, typer.Option(help="FMR, 0 to 1: share of impostor pairs that may be accepted.")] = 0.001,
    threshold: Limit = None,
    detector: FreeDetector = "yunet",
    min_face: MinFace = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Say whether two photos show the same person; exit code 1 when not.

    Of a photo with several faces the largest central one is compared, and stderr says which that is.

    \b
    Examples:
      edgeface verify passport.jpg selfie.jpg
      edgeface verify passport.jpg selfie.jpg -m net.int8.tflite --far 0.0001 --json
    """
    from dataclasses import asdict

    from edgeface_runtime import FaceRecognizer
    from edgeface_runtime.thresholds import told_apart

    refuse_idle(context, ONE_LIMIT)
    recognizer = FaceRecognizer(model, detector, threads, min_face=min_face)
    match = recognizer.verify(a, b, far, threshold=threshold)
    note_doubts(recognizer, far, threshold)
    for photo, count, box in zip((a, b), match.faces, match.boxes, strict=True):
        if count > 1:
            place = " ".join(f"{side:.0f}" for side in box)
            note(f"{photo}: {count} faces; compared the largest central one, in the box {place}; crop it for another")
    if json:
        print_json({"schema": 1, **asdict(match)})
    else:
        answer = "same person" if match.same else "not the same person"
        score, limit = told_apart(match.score, match.threshold, 3)
        typer.echo(f"{answer} (score {score}, threshold {limit})")
    if not match.same:
        raise typer.Exit(1)
