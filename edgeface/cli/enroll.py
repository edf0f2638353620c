"""``edgeface enroll``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import ERR, Json, bar, note, opened, print_json, print_table
from edgeface_runtime.model import tried_model

if TYPE_CHECKING:
    from edgeface_runtime import FaceRecognizer
    from edgeface_runtime import Gallery as OpenGallery

Gallery = Annotated[Path, typer.Option("--gallery", "-g", help="Gallery file; created if it does not exist.")]
Model = Annotated[
    Path,
    typer.Option(
        "--model", "-m", parser=tried_model, metavar="MODEL", help="Model file, or a name that `models` lists."
    ),
]
GalleryModel = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        parser=tried_model,
        metavar="MODEL",
        help="Model file, or a name that `models` lists.  [default: the listed one that the gallery was made "
        "with; mobilefacenet for a new one]",
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(
        help="yunet, blazeface, mtcnn, or a YuNet .onnx file.  [default: the gallery's; yunet for a new one]",
    ),
]
FreeDetector = Annotated[str, typer.Option("--detector", help="yunet, blazeface, mtcnn, or a YuNet .onnx file.")]
MinFace = Annotated[
    float | None,
    typer.Option(
        min=12,
        help="Smallest face to look for, in pixels; default: 40, mtcnn 20. Half of it takes up to four times as long.",
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads for detection and embedding.")]


def enroll(
    photos: Annotated[list[Path], typer.Argument(help="Photos, a person's folder, or a folder of <name>/<photo>.")],
    gallery: Gallery,
    model: GalleryModel = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Person's name; default: name of the photo's folder.")
    ] = None,
    face: Annotated[
        str | None, typer.Option(help="Of several faces: largest, a point X,Y or a box X0,Y0,X1,Y1 in pixels.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Enroll photos that the quality checks would refuse.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Create the gallery with 8-bit embeddings, a quarter of the size.")
    ] = False,
    detector: Detector = None,
    min_face: MinFace = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Enroll people from their photos, one face per photo.

    Of each photo the embedding is kept and the photo is not. A photo without a face, of several faces,
    dark, blurred, small, turned away, unlike the person's other photos or like somebody else is refused.
    A person's photos are compared with each other: the largest group that is alike counts, in any order. Photos are
    taken from folders of people, <name>/<photo>; what lies beside or deeper is named and passed over.
    The exit code is 1 where a photo or a person was left out. A photo that is already there is left as
    it is, so that a stopped command goes on.

    \b
    Examples:
      edgeface enroll ada1.jpg ada2.jpg --name Ada --gallery people.gallery
      edgeface enroll family/ -g people.gallery -m net.int8.tflite
      edgeface enroll party.jpg --name Bob --face 310,120 -g people.gallery
    """
    from dataclasses import asdict

    from edgeface.photo_folders import enroll_all, named_photos

    listing = named_photos(photos, name)
    recognizer = opened(model, detector, threads, min_face)
    with _gallery(gallery, recognizer, int8) as people:
        done = enroll_all(
            people,
            listing.photos,
            face=_face(face),
            force=force,
            progress=lambda named: bar(ERR, named, "enrolling"),
        )
    if not gallery.exists():
        note(f"{gallery}: not made, since nobody was enrolled")
    for refusal in done.refused:
        note(refusal.reason)
    for passed in listing.passed_over:
        note(f"{passed.path}: passed over: {passed.reason}")
    if done.notice:
        note(done.notice)
    kinds = ([photo for photo in done.photos if photo.new], [photo for photo in done.photos if not photo.new])
    if json:
        fields = ("id", "name", "source", "added", "sharpness", "size", "yaw", "pitch")
        enrolled, already = ([{key: getattr(photo, key) for key in fields} for photo in kind] for kind in kinds)
        print_json(
            {
                "schema": 1,
                "gallery": str(gallery),
                "enrolled": enrolled,
                "already_there": already,
                "refused": [asdict(refusal) for refusal in done.refused],
                "passed_over": [{"path": passed.path, "reason": passed.reason} for passed in listing.passed_over],
                "notice": done.notice,
            }
        )
    else:
        names = sorted({who for who, _ in listing.photos})
        rows = [(who, *(sum(row.name == who for row in kind) for kind in (*kinds, done.refused))) for who in names]
        print_table(str(gallery), ("person", "enrolled", "already there", "refused"), rows)
    if done.refused or any(passed.missed for passed in listing.passed_over):
        raise typer.Exit(1)


@contextlib.contextmanager
def _gallery(path: Path, recognizer: FaceRecognizer, int8: bool) -> Iterator[OpenGallery]:
    """The gallery; a new one in which nobody was enrolled is removed again."""
    from edgeface_runtime import Gallery

    is_new = not path.exists()
    with Gallery.open(path, recognizer, precision="int8" if int8 else None) as people:
        try:
            yield people
        finally:
            if is_new and not len(people):
                path.unlink()


def _face(text: str | None) -> str | list[float] | None:
    if text in (None, "largest"):
        return text
    try:
        return [float(number) for number in text.replace(",", " ").split()]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: largest, or numbers: a point X,Y or a box X0,Y0,X1,Y1") from error
