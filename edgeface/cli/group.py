"""``edgeface group``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import ERR, Json, bar, note, opened, print_json, print_table
from edgeface.cli.enroll import MinFace, Threads
from edgeface_runtime.model import tried_model

if TYPE_CHECKING:
    from edgeface.grouping.collection import Collection
    from edgeface_runtime import Enrollment

_SHOWN = 20


def group(
    photos: Annotated[
        list[Path] | None, typer.Argument(help="Photos, and folders of them.  [default: those of the last run]")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("groups"),
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            "-n",
            metavar="GROUP=NAME",
            help="Whom a group on the page shows, 3=Anna; Anna=Eva renames; may repeat.",
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(
            "--gallery", "-g", help="Enroll those whom --name names, or all who have a name, in this gallery file."
        ),
    ] = None,
    photos_each: Annotated[int, typer.Option(min=1, help="Photos that --gallery enrolls of each person.")] = 10,
    folders: Annotated[
        str, typer.Option(help="What a folder of each person's photos holds: link, copy, or none for no folders.")
    ] = "link",
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            parser=tried_model,
            metavar="MODEL",
            help="Model file, or a name that `models` lists.  [default: the listed one that the folder or the gallery "
            "was made with; else mobilefacenet]",
        ),
    ] = None,
    far: Annotated[
        float | None,
        typer.Option(
            help="FMR, 0 to 1: share of pairs of two people's faces that are linked.  "
            "[default: 0.0001; above 5,000 faces 0.5 / faces]"
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Score (cosine) that links two faces, in place of --far.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order in which faces are looked at.")] = 0,
    forget: Annotated[
        bool, typer.Option("--forget", help="Drop what another model found, and names whose photos are all gone.")
    ] = False,
    detector: Annotated[
        str | None,
        typer.Option(
            help="yunet, blazeface, mtcnn, or a YuNet .onnx file; default: that of the folder, or of the gallery."
        ),
    ] = None,
    min_face: MinFace = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Group the faces of photos by person, with nobody enrolled.

    Writes to --output: groups.html, a page with the faces of each group; people/, a folder of each person's
    photos; faces.csv and groups.json, a row for each face; faces.db, the embeddings, so that a stopped command
    goes on and a later one looks at new photos only. No photo is moved or changed. Name groups by their
    numbers on the page, which they keep; two of one name become one. The exit code is 1 where a photo
    could not be read, or none of somebody's can be enrolled.

    \b
    Examples:
      edgeface group photos/
      edgeface group --name 3=Anna --name 5=Ben --gallery people.gallery
      edgeface group photos/ more/ --output who --folders copy
    """
    from dataclasses import asdict

    from edgeface.grouping.run import enroll_named, found_with, group_photos
    from edgeface.photo_folders import every_photo
    from edgeface_runtime import Enrollment, Gallery
    from edgeface_runtime.detection.find import name_of

    if folders not in ("link", "copy", "none"):
        raise typer.BadParameter(f"{folders!r}: link, copy or none", param_hint="--folders")
    names: dict[int | str, str] = {}
    for key, its in map(_named, name or []):
        if names.setdefault(key, its) != its:
            raise typer.BadParameter(f"{key} cannot be both {names[key]} and {its}", param_hint="--name")
    files = every_photo(photos, but=output) if photos else None
    last, last_detector = (None, None) if forget else found_with(output)
    if model is None and last:
        model = last.file
        if last.newest:
            anew = f"--model {last.newest} --forget looks at all photos anew"
            note(f"{output}: made with {last.name}, an older version, which is taken; {anew}")
    recognizer = opened(model, detector or last_detector, threads, min_face)
    with contextlib.ExitStack() as stack:
        # Before the work: one of another model is refused, else its model and detector are taken.
        people = stack.enter_context(Gallery.open(gallery, recognizer)) if gallery and gallery.exists() else None
        detector = detector or name_of(recognizer.detector)
        found = group_photos(
            files,
            output,
            recognizer,
            detector=detector if min_face is None else f"{detector} --min-face {min_face:g}",
            names=names,
            far=far,
            threshold=threshold,
            folders=folders,  # type: ignore[arg-type]
            seed=seed,
            forget=forget,
            progress=lambda left: bar(ERR, left, "looking"),
        )
        for reason in found.refused.values():
            note(reason)
        enrolled = Enrollment([], [])
        if gallery:
            people = stack.enter_context(Gallery.open(gallery, recognizer)) if people is None else people
            enrolled = enroll_named(
                people, found, names.values(), photos_each, progress=lambda groups: bar(ERR, groups, "enrolling")
            )
    for line in (*(refusal.reason for refusal in enrolled.refused), *filter(None, [enrolled.notice])):
        note(line)
    if json:
        from edgeface.grouping.results import document

        fields = ("id", "name", "source", "new", "sharpness", "size", "yaw", "pitch")
        print_json(
            {
                **document(output, found),
                "enrolled": [{key: getattr(photo, key) for key in fields} for photo in enrolled.photos],
                "not_enrolled": [asdict(refusal) for refusal in enrolled.refused],
                "notice": enrolled.notice,
            }
        )
    else:
        _print(found, output)
        if gallery:
            _print_enrolled(gallery, enrolled)
    left_out = {refusal.name for refusal in enrolled.refused} - {photo.name for photo in enrolled.photos}
    if found.refused or left_out:
        raise typer.Exit(1)


def _named(text: str) -> tuple[int | str, str]:
    from edgeface_runtime.gallery.enrollment import checked_name

    group, equals, name = text.partition("=")
    if not equals or not group.strip():
        raise typer.BadParameter(
            f"{text!r}: a group's number on the page and a name, 3=Anna, or two names, Anna=Eva", param_hint="--name"
        )
    return int(group) if group.strip().isdecimal() else checked_name(group), checked_name(name)


def _print(found: Collection, output: Path) -> None:
    rows = [(group.name or f"group {group.number}", group.number, len(group.photos)) for group in found.groups[:_SHOWN]]
    more = len(found.groups) - len(rows)
    print_table(f"{found.photos} photos", ("who", "group", "photos"), rows)
    rest = [f"{more} smaller groups"] if more > 0 else []
    rest += [f"{len(found.alone)} faces seen once", f"{len(found.unclear)} too small or blurred"]
    typer.echo(f"{', '.join(rest)}; {output / 'groups.html'} shows them")


def _print_enrolled(gallery: Path, enrolled: Enrollment) -> None:
    names = sorted({photo.name for photo in enrolled.photos} | {refusal.name for refusal in enrolled.refused})
    rows = []
    for name in names:
        new = [photo.new for photo in enrolled.photos if photo.name == name]
        rows.append((name, sum(new), len(new) - sum(new)))
    print_table(str(gallery), ("person", "enrolled", "already there"), rows)
