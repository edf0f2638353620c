"""``edgeface gallery``: who is enrolled, and how to rename and remove them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import Json, print_json, print_table
from edgeface.cli.gallery_check import check

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who is enrolled; check, rename, remove, export.")
app.command("check")(check)

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

    with Gallery.open(gallery) as people:
        photos, model, precision = people.photos(), people.binding, people.precision
    if json:
        print_json(
            {
                "schema": 1,
                "gallery": str(gallery),
                "model": asdict(model),
                "embeddings": precision,
                "photos": [asdict(photo) for photo in photos],
            }
        )
        return
    rows = [
        (photo.name, photo.id, photo.source, photo.added, f"{photo.size:.0f}", f"{photo.sharpness:.0f}")
        for photo in photos
    ]
    print_table(
        f"{gallery}: {model.called}, {precision} embeddings",
        ("person", "photo", "file", "added", "pixels", "sharpness"),
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
    if json:
        print_json({"schema": 1, "path": str(output), "photos": count})
    else:
        typer.echo(output)
