"""``edgeface gallery``: who is enrolled, how to rename and remove them, and how galleries travel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import ERR, Json, bar, note, print_json, print_table
from edgeface.cli.enroll import Detector, MinFace, Threads
from edgeface.cli.gallery_check import check
from edgeface_runtime.model import tried_model

if TYPE_CHECKING:
    from edgeface_runtime import Merge

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Who is enrolled; check, rename, remove, copy, merge, import, move, export.",
)
app.command("check")(check)

Model = Annotated[
    Path | None,
    typer.Option(
        "--model", "-m", parser=tried_model, metavar="MODEL", help="Model file, or a name that `models` lists."
    ),
]
Int8 = Annotated[bool, typer.Option("--int8", help="Store 8-bit embeddings, a quarter of the size.")]
Force = Annotated[bool, typer.Option("--force", help="Leave nobody out.")]
File = Annotated[Path, typer.Argument(metavar="GALLERY", help="Gallery file that `enroll` made.")]


@app.command("list")
def list_photos(gallery: File, json: Json = False) -> None:
    """Show the people of a gallery and the photos that they are known by.

    \b
    Examples:
      edgeface gallery list people.gallery
      edgeface gallery list people.gallery --json
    """
    from dataclasses import asdict

    from edgeface_runtime import Gallery
    from edgeface_runtime.gallery.versions import named, shipped_for

    with Gallery.open(gallery) as people:
        photos, model, precision = people.photos(), people.binding, people.precision
    if json:
        print_json(
            {
                "schema": 1,
                "gallery": str(gallery),
                "model": asdict(model),
                "belongs_to": own.name if (own := shipped_for(model)) else None,
                "embeddings": precision,
                "photos": [asdict(photo) for photo in photos],
            }
        )
        return
    rows = [
        (photo.name, photo.id, photo.source, photo.added[:10], f"{photo.size:.0f}", f"{photo.sharpness:.0f}")
        for photo in photos
    ]
    print_table(
        f"{gallery}: {named(model).called}, {precision} embeddings",
        ("person", "photo", "from file", "added", "pixels", "sharpness"),
        rows,
    )


@app.command()
def remove(
    gallery: File,
    name: Annotated[str, typer.Argument(help="Person's name.")],
    photo: Annotated[int | None, typer.Option(help="Number of one photo, as `list` shows it.  [default: all]")] = None,
    json: Json = False,
) -> None:
    """Remove a person, or one photo of a person, and overwrite what the file held of it.

    \b
    Examples:
      edgeface gallery remove people.gallery Ada
      edgeface gallery remove people.gallery Ada --photo 3
    """
    from edgeface_runtime import Gallery

    with Gallery.open(gallery) as people:
        removed = people.remove(name, photo)
    if json:
        print_json({"schema": 1, "gallery": str(gallery), "name": name, "removed": removed})
    else:
        typer.echo(f"removed {removed} {'photo' if removed == 1 else 'photos'} of {name}")


@app.command()
def rename(
    gallery: File,
    name: Annotated[str, typer.Argument(help="Person's name.")],
    new: Annotated[str, typer.Argument(help="New name.")],
    json: Json = False,
) -> None:
    """Give a person another name, and overwrite the old one in the file.

    \b
    Examples:
      edgeface gallery rename people.gallery Ada "Ada Lovelace"
    """
    from edgeface_runtime import Gallery

    with Gallery.open(gallery) as people:
        people.rename(name, new)
    if json:
        print_json({"schema": 1, "gallery": str(gallery), "name": new, "was": name})
    else:
        typer.echo(f"{name} is {new} now")


@app.command()
def export(
    gallery: File,
    output: Annotated[Path, typer.Argument(help="File to write: .json or .csv.")],
    json: Json = False,
) -> None:
    """Write everything that a gallery stores, embeddings and all, for other programs to read.

    \b
    Examples:
      edgeface gallery export people.gallery people.csv
      edgeface gallery export people.gallery people.json
    """
    from edgeface_runtime import Gallery

    with Gallery.open(gallery) as people:
        people.export(output)
        count = len(people)
    _print_written(output, count, json)


@app.command()
def backup(
    gallery: File,
    output: Annotated[Path, typer.Argument(help="File to write; must not exist.")],
    json: Json = False,
) -> None:
    """Copy a gallery as it is at one moment, whoever reads or writes meanwhile.

    A copy of the file that is made by other means while somebody writes may be damaged.

    \b
    Examples:
      edgeface gallery backup people.gallery people.backup
    """
    from edgeface_runtime import Gallery

    with Gallery.open(gallery) as people:
        people.backup(output)
    with Gallery.open(output) as people:
        count = len(people)
    _print_written(output, count, json)


@app.command()
def merge(
    gallery: File,
    others: Annotated[list[Path], typer.Argument(metavar="OTHER...", help="Galleries of the same model.")],
    force: Force = False,
    json: Json = False,
) -> None:
    """Add the people of other galleries to a gallery.

    People of one name are one person, whose photos are united. Left out, and named, is who disagrees with the
    gallery: of a name that it has, but unlike that person's photos; or new, and like somebody of another name. The
    exit code is 1 then.

    \b
    Examples:
      edgeface gallery merge people.gallery door.gallery office.gallery
    """
    from edgeface.photo_folders import bundled
    from edgeface_runtime import Gallery

    with Gallery.open(gallery) as people:
        recognizer = bundled(people.binding)
    with Gallery.open(gallery, recognizer) as people:
        _print_merges(gallery, [(other, people.merge(other, force=force)) for other in others], json)


@app.command("import")
def import_photos(
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="Gallery file; created if it does not exist.")],
    source: Annotated[Path, typer.Argument(help=".json or .csv that `gallery export` wrote, .npz, or a gallery.")],
    model: Model = None,
    int8: Int8 = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Add people from a file of embeddings: an export, or what another program wrote.

    A .csv file needs the columns name, e0, e1 and so on; an .npz file the arrays names (N,) and embeddings (N, D).
    These do not say which model made the embeddings: name it with --model where the gallery is new. In a gallery
    that exists, people are left out as in `merge`.

    \b
    Examples:
      edgeface gallery import people.gallery people.json
      edgeface gallery import people.gallery people.csv --model mobilefacenet
    """
    from edgeface.photo_folders import bundled
    from edgeface_runtime import Gallery, import_gallery, load

    opened = load(model) if model else None
    if not gallery.exists():
        found = import_gallery(source, gallery, opened, precision="int8" if int8 else "float32")
    else:
        with Gallery.open(gallery, precision="int8" if int8 else None) as people:
            if opened:
                people.require(opened)
            recognizer = bundled(people.binding)
        with Gallery.open(gallery, recognizer) as people:
            found = people.merge(source, force=force)
    _print_merges(gallery, [(source, found)], json)


@app.command()
def move(
    gallery: File,
    photos: Annotated[list[Path], typer.Argument(help="Folders of <name>/<photo> that were enrolled.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New gallery; must not exist.")],
    model: Annotated[Path, typer.Option("--model", "-m", parser=tried_model, metavar="MODEL", help="The new model.")],
    former: Annotated[
        Path | None,
        typer.Option(
            "--from", parser=tried_model, metavar="MODEL", help="The old model.  [default: a bundled one that fits]"
        ),
    ] = None,
    int8: Int8 = False,
    detector: Detector = None,
    min_face: MinFace = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Enroll a gallery's people anew with another model, from their photos, in a new file.

    The old gallery stays as it is. Whose photos are not given is named, and the exit code is 1. With the old model at
    hand, of each photo the face is taken that was enrolled, if the same detector finds it; without it, photos are
    judged as in `enroll`.

    \b
    Examples:
      edgeface gallery move people.gallery family/ --output new.gallery --model net.int8.tflite
    """
    from dataclasses import asdict
    from functools import partial

    from edgeface.photo_folders import bundled, named_photos
    from edgeface.photo_folders import move as moved_to
    from edgeface_runtime import FaceRecognizer, Gallery
    from edgeface_runtime.detection.find import DETECTORS

    listing = named_photos(photos)
    opened = partial(FaceRecognizer, threads=threads, min_face=min_face)
    with Gallery.open(gallery) as people:
        before = opened(former) if former else bundled(people.binding, opened)
        detector = detector or (people.detector if people.detector in DETECTORS else None)
    found = moved_to(
        gallery,
        listing.photos,
        output,
        opened(model, detector),
        before,
        precision="int8" if int8 else "float32",
        progress=lambda named: bar(ERR, named, "moving"),
    )
    for refusal in found.refused:
        note(refusal.reason)
    for name, count in found.left.items():
        note(f"{name}: {count} of {found.people[name][1]} photos not moved, which {gallery} still has")
    if json:
        people_json = [{"name": who, "moved": now, "photos": all_} for who, (now, all_) in found.people.items()]
        refused = [asdict(refusal) for refusal in found.refused]
        print_json({"schema": 1, "gallery": str(output), "people": people_json, "refused": refused})
    else:
        rows = [(who, now, all_ - now) for who, (now, all_) in found.people.items()]
        print_table(str(output), ("person", "moved", "left"), rows)
    if found.left:
        raise typer.Exit(1)


def _print_written(output: Path, photos: int, json: bool) -> None:
    if json:
        print_json({"schema": 1, "path": str(output), "photos": photos})
    else:
        typer.echo(output)


def _print_merges(gallery: Path, merges: list[tuple[Path, Merge]], json: bool) -> None:
    from dataclasses import asdict

    refused = [refusal for _, found in merges for refusal in found.refused]
    for refusal in refused:
        note(refusal.reason)
    if json:
        rows_json = [{"source": str(source), **asdict(found)} for source, found in merges]
        print_json({"schema": 1, "gallery": str(gallery), "merged": rows_json})
    else:
        rows = [(str(source), found.added, found.already_there, len(found.refused)) for source, found in merges]
        print_table(str(gallery), ("from", "photos added", "already there", "people left out"), rows)
    if refused:
        raise typer.Exit(1)
