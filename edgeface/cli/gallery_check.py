"""``edgeface gallery check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import ERR, Json, bar, note, one_line, opened, print_json, print_table, say
from edgeface.cli.enroll import Detector, GalleryModel, MinFace, Threads
from edgeface.cli.identify import Fpir

if TYPE_CHECKING:
    from edgeface_runtime import GalleryCheck, UnknownCheck
    from edgeface_runtime.rates import Rate

File = Annotated[Path, typer.Argument(metavar="GALLERY", help="Gallery file that `enroll` made.")]


def check(
    gallery: File,
    model: GalleryModel = None,
    far: Fpir = 0.01,
    unknown: Annotated[
        Path | None, typer.Option(help="Folder of photos of people who are not enrolled, to see what they score.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of <name>/<photo> that was enrolled: adds light, and faces to the page.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    repair: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a copy without damaged photos to this new file, and end.")
    ] = None,
    detector: Detector = None,
    min_face: MinFace = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Check whether a gallery works: wrong names, people who are alike, photos that are missing.

    Each photo is searched for as if it were not enrolled. A photo that is not like the person's others, photos
    of two people under one name and of one person under two names are mistakes, with which the exit code is 1.
    What is advice does not change it. Needs no photos: embeddings suffice. A photo whose entry in the file is
    damaged is named and passed over, and the exit code is 1; --repair copies the others.

    \b
    Examples:
      edgeface gallery check people.gallery
      edgeface gallery check people.gallery --unknown visitors/ --photos family/ --report check.html
      edgeface gallery check people.gallery --far 0.001 --json
      edgeface gallery check people.gallery --repair sound.gallery
    """
    from dataclasses import asdict
    from functools import partial

    from edgeface.photo_folders import named_photos
    from edgeface_runtime import Gallery, GalleryError, check_gallery, check_unknown, look_again
    from edgeface_runtime.files import check_target

    if report is not None:
        # Imported now: a missing extra is said before the work.
        from edgeface.report.gallery import write_page

        check_target(report)
    if not gallery.exists():
        raise GalleryError(f"{gallery}: no such gallery; `edgeface enroll` makes one")
    if repair is not None:
        with Gallery.open(gallery) as people:
            left = people.repair(repair)
        with Gallery.open(repair) as people:
            kept = len(people)
        if json:
            print_json({"schema": 1, "gallery": str(gallery), "copy": str(repair), "photos": kept, "left_out": left})
        else:
            say(f"{repair}: {kept} photos; {len(left)} damaged left out")
        return
    files = {} if photos is None else {(name, path.name): path for name, path in named_photos([photos]).photos}
    strangers = [] if unknown is None else [path for _, path in named_photos([unknown], "unknown").photos]
    recognizer = opened(model, detector, threads, min_face)
    with Gallery.open(gallery, recognizer) as people:
        looks = look_again(people, recognizer, files, progress=partial(bar, ERR, title="looking")) if files else {}
        found = check_gallery(people, recognizer, far, looks=looks)
        wrap = partial(bar, ERR, title="searching")
        seen = check_unknown(people, recognizer, strangers, far, progress=wrap) if strangers else None
        enrolled, damaged = people.photos(), people.damaged
    if photos is not None and len(looks) < len(enrolled):
        note(f"{photos}: {len(enrolled) - len(looks)} of {len(enrolled)} enrolled photos were not found in it again")
    for failure in seen.failed if seen else ():
        note(failure)
    if seen and seen.enrolled:
        first, count = seen.enrolled[0], len(seen.enrolled)
        shows = f"{count} {'photo shows' if count == 1 else 'photos show'}"
        who = f"{first.photo} (score {first.score:.2f} with {first.name})"
        note(f"{unknown}: {shows} somebody who is probably enrolled, such as {who}; the FPIR is too high by them")
    if report is not None:
        write_page(report, gallery.name, found, seen, enrolled, looks)
        note(f"wrote {report}")
    if json:
        print_json(
            {
                "schema": 1,
                "gallery": str(gallery),
                "model": asdict(people.binding),
                "far": far,
                "threshold": found.threshold.value,
                "extrapolated": found.threshold.extrapolated,
                "photos": len(enrolled),
                "named": _document(found.named),
                "fpir": _document(found.fpir),
                "damaged": damaged,
                "findings": [{"fault": row.is_fault, **asdict(row)} for row in found.findings],
                "people": [asdict(row) for row in found.people],
                "unknown": asdict(seen) if seen else None,
            }
        )
    else:
        _print(gallery, found, seen)
    if found.faults or damaged:
        raise typer.Exit(1)


def _document(rate: Rate | None) -> dict[str, object] | None:
    from dataclasses import asdict

    return None if rate is None else asdict(rate)


def _print(gallery: Path, found: GalleryCheck, seen: UnknownCheck | None) -> None:
    rows = [
        (
            person.name,
            person.photos,
            "" if person.named is None else f"{person.named} of {person.photos}",
            person.nearest or "",
            "" if person.nearest_score is None else f"{person.nearest_score:.2f}",
            ", ".join(person.missing),
        )
        for person in found.people
    ]
    columns = ("person", "photos", "named", "most like", "score", "missing")
    print_table(f"{gallery}: threshold {found.threshold.value:.3f} at FPIR {found.far:g}", columns, rows)
    typer.echo("")
    for title, rate in (
        ("named rightly when the photo is left out", found.named),
        ("named wrongly when the person is left out (FPIR)", found.fpir),
        ("unknown people who get a name (FPIR)", seen.fpir if seen else None),
    ):
        if rate is not None:
            typer.echo(f"{title}: {rate} of {rate.photos} photos, 95 % interval over {rate.people} people")
    if seen and seen.highest:
        top = seen.highest[0]
        say(f"unknown people score {top.score:.3f} at most: {top.photo}, with {top.name}")
    if len(found.people) == 1:
        typer.echo("one person is enrolled, so nothing says whether two are told apart")
    for title, kind in (("mistakes", found.faults), ("advice", [row for row in found.findings if not row.is_fault])):
        typer.echo(f"\n{title}: {len(kind) or 'none'}")
        for row in kind:
            typer.echo(f"  {one_line(row.text)}\n    → {one_line(row.remedy)}")
