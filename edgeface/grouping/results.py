"""What ``edgeface group`` leaves in its folder: JSON, CSV, a page, and a folder of each person's photos."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from edgeface.grouping.cache import FaceCache, SeenFace
from edgeface.grouping.collection import Collection, PersonGroup
from edgeface.grouping.page import page_of
from edgeface_runtime import UsageError
from edgeface_runtime.files import make_folder, replacing, spreadsheet_safe
from edgeface_runtime.images import shown

Folders = Literal["link", "copy", "none"]
"""What the folders of people hold: links to the photos, copies of them, or there are none."""
_COLUMNS = ("group", "name", "photo", "x0", "y0", "x1", "y1", "detection", "sharpness", "score", "note")


def write_results(folder: Path, cache: FaceCache, found: Collection, folders: Folders) -> None:
    """Writes ``groups.html``, ``groups.json``, ``faces.csv`` and ``people/``, readable by the owner alone.

    Of what earlier runs wrote, what is out of date is removed; other files in the folder are left alone.

    Raises:
        UsageError: a file cannot be written.
    """
    cache.hide()
    files = {
        "groups.json": json.dumps(document(folder, found), indent=2, ensure_ascii=False) + "\n",
        "faces.csv": _table(found),
        "groups.html": page_of(folder, found, cache.tile),
    }
    try:
        for name, text in files.items():
            with replacing(folder / name) as part:
                part.touch(mode=0o600)
                part.write_text(text, encoding="utf-8", newline="")
        _make_folders(folder, cache, {} if folders == "none" else _places(found), folders)
    except OSError as error:
        where = shown(error.filename) if error.filename else shown(folder)
        hint = "; --folders copy makes no links" if folders == "link" and isinstance(error.filename2, str) else ""
        raise UsageError(f"{where}: cannot be written ({error.strerror}){hint}") from error
    cache.show({group.number: [face.id for face in group.faces] for group in found.groups}, found.joined)


def document(folder: Path, found: Collection) -> dict[str, object]:
    """What ``--json`` prints."""
    return {
        "schema": 1,
        "output": shown(folder),
        "photos": found.photos,
        "faces": sum(len(group.faces) for group in found.groups) + len(found.alone) + len(found.unclear),
        "threshold": found.threshold.value,
        "far": found.threshold.far,
        "groups": [
            {
                "group": group.number,
                "name": group.name,
                "photos": len(group.photos),
                "faces": [
                    {**_place(face), "score": score} for face, score in zip(group.faces, group.scores, strict=True)
                ],
            }
            for group in found.groups
        ],
        "seen_once": [_place(face) for face in found.alone],
        "unclear": [_place(face) for face in found.unclear],
        "refused": [{"photo": shown(photo), "reason": reason} for photo, reason in found.refused.items()],
    }


def _place(face: SeenFace) -> dict[str, object]:
    return {
        "photo": shown(face.photo),
        "box": face.face.box.tolist(),
        "detection": float(face.face.score),
        "sharpness": face.sharpness,
    }


def _table(found: Collection) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for group in found.groups:
        for face, score in zip(group.faces, group.scores, strict=True):
            writer.writerow(_row(group, face, f"{score:.4f}", ""))
    for kind, note in ((found.alone, "seen once"), (found.unclear, "too small or blurred")):
        writer.writerows(_row(None, face, "", note) for face in kind)
    for photo, reason in found.refused.items():
        writer.writerow(spreadsheet_safe(["", "", shown(photo), *[""] * 7, reason]))
    return text.getvalue()


def _row(group: PersonGroup | None, face: SeenFace, score: str, note: str) -> list[object]:
    numbers = [f"{side:.1f}" for side in face.face.box.tolist()]
    # Numbers first become text here, and a minus in front makes no formula of a number.
    start = [group.number if group else "", (group and group.name) or "", shown(face.photo)]
    return [*spreadsheet_safe(start), *numbers, f"{face.face.score:.4f}", f"{face.sharpness:.1f}", score, note]


def _places(found: Collection) -> dict[str, Path]:
    """Where each person's photos are to be, as ``people/<folder>/<file>``, and the photos."""
    places: dict[str, Path] = {}
    taken: set[str] = set()
    for group in found.groups:
        # Of two people who are called alike on a file system that ignores case, the second is numbered.
        called = _file_name(group.name) if group.name else f"group {group.number:03d}"
        if called.casefold() in taken:
            called += f" {group.number:03d}"
        taken.add(called.casefold())
        for photo in group.photos:
            places[next(name for name in _names(f"people/{called}/{photo.name}") if name not in places)] = photo
    return places


def _names(first: str) -> Iterator[str]:
    yield first
    path = PurePosixPath(first)
    number = 2
    while True:
        yield str(path.with_stem(f"{path.stem}-{number}"))
        number += 1


def _file_name(name: str) -> str:
    """A person's name as a folder's, also where that is on a Windows disk."""
    return re.sub(r'[<>:"/\\|?*]', "_", name).strip(" .") or "_"


def _make_folders(folder: Path, cache: FaceCache, places: dict[str, Path], folders: Folders) -> None:
    before = cache.made()
    cache.set_made(sorted({*before, *places}))  # what a kill leaves half made is known to the next run
    for name in before:
        if name not in places or not _is_made(folder / name, places[name], folders):
            (folder / name).unlink(missing_ok=True)
    for name, photo in places.items():
        place = folder / name
        if _is_made(place, photo, folders):
            continue
        make_folder(place.parent)
        if folders == "link":
            place.symlink_to(photo.resolve())
        else:
            with replacing(place) as part:
                shutil.copy2(photo, part)
    for parent in sorted({(folder / name).parent for name in before} | {folder / "people"}, reverse=True):
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
    cache.set_made(sorted(places))


def _is_made(place: Path, photo: Path, folders: Folders) -> bool:
    if folders == "link":
        return place.is_symlink() and place.readlink() == photo.resolve()
    if place.is_symlink() or not place.is_file():
        return False
    mine, its = place.stat(), photo.stat()
    return (mine.st_size, mine.st_mtime_ns) == (its.st_size, its.st_mtime_ns)
