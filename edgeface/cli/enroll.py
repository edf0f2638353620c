"""``edgeface enroll``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import ERR, Json, bar, note, print_json, print_table
from edgeface_runtime.models import DEFAULT, find_model

Gallery = Annotated[Path, typer.Option("--gallery", "-g", help="Gallery file; made where there is none.")]
Model = Annotated[
    Path,
    typer.Option("--model", "-m", parser=find_model, metavar="MODEL", help="Exported file, or a name of `models`."),
]
Detector = Annotated[str, typer.Option(help="fast, mtcnn, or a detector's file.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the engines.")]


def enroll(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders: <name>/<photo>, or of one person.")],
    gallery: Gallery,
    model: Model = Path(DEFAULT),
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Whom all photos show; else the folder says.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take photos that would be refused.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="New gallery: embeddings in 8 bits, a quarter of the size.")
    ] = False,
    detector: Detector = "fast",
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Learn people by their photos, one face a photo.

    Of each photo the embedding is kept and the photo is not. A photo without a face, of several faces,
    blurred, small, turned away, unlike the person's other photos or like somebody else is refused, and
    the exit code is 1. A photo that is already there is passed over, so that a stopped command goes on.

    \b
    Examples:
      edgeface enroll ada1.jpg ada2.jpg --name Ada --gallery people.gallery
      edgeface enroll family/ -g people.gallery -m net.int8.tflite
    """
    from dataclasses import asdict

    from edgeface.enrolling import enroll_all, named_photos
    from edgeface_runtime import FaceRecognizer
    from edgeface_runtime import Gallery as OpenGallery

    chosen = named_photos(photos, name)
    recognizer = FaceRecognizer(model, detector, threads)
    with OpenGallery.open(gallery, recognizer, precision="int8" if int8 else None) as people:
        enrolled, refused = enroll_all(people, bar(ERR, chosen, "enrolling"), force=force)
    for refusal in refused:
        note(refusal.reason)
    if json:
        print_json(
            {
                "schema": 1,
                "gallery": str(gallery),
                "enrolled": [asdict(photo) for photo in enrolled],
                "refused": [asdict(refusal) for refusal in refused],
            }
        )
    else:
        names = sorted({who for who, _ in chosen})
        counts = [(who, *(sum(row.name == who for row in rows) for rows in (enrolled, refused))) for who in names]
        print_table(str(gallery), ("person", "enrolled", "refused"), counts)
    if refused:
        raise typer.Exit(1)
