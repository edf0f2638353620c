"""Enrolls folders of photos: who is on which photo, and what became of it."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import (
    Binding,
    Enrollment,
    EnrollmentError,
    Face,
    FaceRecognizer,
    Gallery,
    ImageError,
    NoFaceError,
    Precision,
    Refusal,
    UsageError,
)
from edgeface_runtime.detection.find import name_of
from edgeface_runtime.gallery.database import new_gallery
from edgeface_runtime.gallery.enrollment import WhichFace, checked_name, stored_name
from edgeface_runtime.gallery.transfer import read_source
from edgeface_runtime.gallery.versions import shipped_for
from edgeface_runtime.images import SUFFIXES, open_photo, shown

_LITTER = frozenset({"thumbs.db", "desktop.ini"})
"""What file managers leave beside photos."""
_NAMED = 5
_SAME_FACE = 0.95
"""Cosine of one face in one photo, embedded by a model's TFLite and ONNX files: 0.985 at least (docs/gallery.md)."""

Named = tuple[str, Path]
"""Whom a photo shows, and its file."""


@dataclass(frozen=True)
class PassedOver:
    """A file or folder from which nothing is enrolled."""

    path: str
    reason: str
    missed: bool
    """True where photos, or all that there is of a person, are left out."""


@dataclass(frozen=True)
class NamedPhotos:
    """The photos of some folders."""

    photos: list[Named] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)


@dataclass(frozen=True)
class Move:
    """What became of a gallery's photos under another model."""

    people: dict[str, tuple[int, int]]
    """Of each person of the old gallery, how many photos are in the new one, and how many there were."""
    refused: list[Refusal]

    @property
    def left(self) -> dict[str, int]:
        """Who has photos that are in the old gallery alone, and how many."""
        return {name: total - moved for name, (moved, total) in self.people.items() if moved < total}


@dataclass(frozen=True)
class _Contents:
    photos: list[Path]
    others: list[Path]
    folders: list[Path]

    def __bool__(self) -> bool:
        """Whether there is a photo, at whatever depth."""
        return bool(self.photos) or any(_contents(folder) for folder in self.folders)


def named_photos(paths: Sequence[Path], name: str | None = None) -> NamedPhotos:
    """Each photo with the name of whom it shows, in the order of the paths and then of the names.

    A folder is one person's, or where folders in it hold photos, a folder of people.

    Args:
        paths: photos, which need ``name``; folders of one person's photos; folders of such folders.
        name: whom all show, however deep in a folder; the name of the photo's folder where None.

    Raises:
        UsageError: nothing there, a photo without a name, a name that cannot be used, or a folder without photos.
    """
    listing = NamedPhotos()
    name = None if name is None else checked_name(name)
    for path in paths:
        if path.is_dir():
            contents = _contents(path)
            if not contents:
                found = f" but {_list(contents.others)}" if contents.others else ""
                raise UsageError(f"{shown(path)}: no photo in it, nor in its folders{found}")
            _add_folder(listing, path, contents, name)
        elif not path.exists():
            raise UsageError(f"{shown(path)}: no such file or folder")
        elif name is None:
            raise UsageError(f"{shown(path)}: say whom it shows with --name, or name the folder <name>/<photo>")
        else:
            listing.photos.append((name, path))
    return listing


def every_photo(paths: Sequence[Path], but: Path | None = None, *, missing: bool = False) -> list[Path]:
    """Each photo once, those of folders at whatever depth, in the order of the paths and then of the names.

    Args:
        paths: files, which are taken for photos whatever their names, and folders.
        but: a folder of results to leave out.
        missing: list paths too where nothing is, for whoever opens them to say so.

    Raises:
        UsageError: nothing there, a folder without photos, or the one to leave out.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            if not (missing or path.exists()):
                raise UsageError(f"{shown(path)}: no such file or folder")
            found[path] = None
            continue
        if but and path.resolve() == but.resolve():
            raise UsageError(f"{shown(path)}: holds the photos and cannot take the results; name another --output")
        photos = list(_deep(path, but and but.resolve()))
        if not photos:
            raise UsageError(f"{shown(path)}: no photo in it, nor in its folders")
        found |= dict.fromkeys(photos)
    return list(found)


def enroll_all(
    gallery: Gallery,
    photos: Sequence[Named],
    *,
    face: WhichFace | None = None,
    force: bool = False,
    progress: Callable[[Sequence[Named]], Iterable[Named]] = iter,
) -> Enrollment:
    """Enrolls photos person by person, each kept as soon as the person is done; what cannot be used is passed over.

    Whoever has most photos comes first: a wrong photo among few of somebody cannot then keep out whom it shows.

    Args:
        gallery: where to.
        photos: with whom they show.
        face: of each photo with several faces, ``"largest"``; of one photo, whatever ``Gallery.enroll`` takes.
        force: take photos that would be refused.
        progress: wraps the photos in the order in which they are looked at.

    Raises:
        UsageError: a place of a face and several photos.
        GalleryError: the gallery cannot be written.
    """
    done, notice = Enrollment([], []), ""
    if face is not None and face != "largest":
        if len(photos) != 1:
            raise UsageError(f"one face is meant, but there are {len(photos)} photos: name one, or take the largest")
        ((name, path),) = photos
        try:
            done.photos.append(gallery.enroll(name, path, face=face, force=force))
            notice = done.photos[0].notice
        except (EnrollmentError, ImageError) as error:
            done.refused.append(Refusal(name, shown(path), str(error)))
        return replace(done, notice=notice)
    counts = Counter(name for name, _ in photos)  # in the order in which the names come
    place = {name: turn for turn, (name, _) in enumerate(counts.most_common())}
    ordered = sorted(photos, key=lambda named: place[named[0]])
    for name, group in itertools.groupby(progress(ordered), lambda named: named[0]):
        found = gallery.enroll_all(name, (path for _, path in group), face=face, force=force)
        done.photos.extend(found.photos)
        done.refused.extend(found.refused)
        notice = found.notice or notice
    return replace(done, notice=notice)


def move(
    old: Path,
    photos: Sequence[Named],
    path: Path,
    recognizer: FaceRecognizer,
    former: FaceRecognizer | None = None,
    *,
    precision: Precision = "float32",
    progress: Callable[[Sequence[Named]], Iterable[Named]] = iter,
) -> Move:
    """Writes a new gallery of another model from the photos of an old one, which stays as it is.

    A photo is one of the old gallery's if its person and the name of its file are the same.

    Args:
        old: the gallery whose people are moved.
        photos: with whom they show; others than the old gallery's are passed over.
        path: the new gallery, which appears whole or not at all.
        recognizer: of the new model.
        former: of the old model: then of each photo the face is taken that was enrolled, whatever the photo's
            quality, and only if it is that photo. Where None, the photos are judged as in any enrollment.
        precision: how the new gallery stores embeddings.
        progress: wraps the photos in the order in which they are looked at.

    Raises:
        UsageError: none of the photos is one of the old gallery's.
        GalleryError: the old gallery cannot be read, ``former`` is of another model, or ``path`` is there or cannot be
            written.
    """
    if former:
        with Gallery(old, former):
            pass  # it is of that model, and ``former`` finds faces as the enrolled ones were found
    known: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
    for photo in read_source(old)[1]:
        known.setdefault((photo.name, photo.details[0]), []).append(photo.embedding)
    wanted = [(name, file) for name, file in photos if (name, stored_name(file)) in known]
    if not wanted:
        raise UsageError(f"{shown(old)}: none of its photos is there: <name>/<photo> as `gallery list` shows them")
    with new_gallery(path) as part, Gallery(part, recognizer, precision=precision) as new:
        if former is None:
            done = enroll_all(new, wanted, progress=progress)
        else:
            done = Enrollment([], [])
            is_found_alike = name_of(former.detector) == name_of(recognizer.detector)
            for name, file in progress(wanted):
                try:
                    face = _enrolled_face(former, file, np.stack(known[name, stored_name(file)]))
                    which = face if is_found_alike else face.box.tolist()
                    done.photos.append(new.enroll(name, file, face=which, force=True))
                except (EnrollmentError, ImageError) as error:
                    done.refused.append(Refusal(name, shown(file), str(error)))
        moved = Counter(photo.name for photo in new.photos())
    total: Counter[str] = Counter()
    for (name, _), embeddings in known.items():
        total[name] += len(embeddings)
    return Move({name: (moved[name], total[name]) for name in sorted(total)}, done.refused)


def _enrolled_face(former: FaceRecognizer, file: Path, embeddings: NDArray[np.float32]) -> Face:
    pixels = open_photo(file)
    faces = former.faces(pixels)
    if not faces:
        raise NoFaceError(f"{shown(file)}: no face found")
    # As galleries keep it, and as older ones do, without the mirror image.
    rows = np.stack([former.embed(pixels, faces, mirror=mirror) for mirror in (True, False)])
    best = (rows @ embeddings.T).max(axis=(0, 2))
    if best.max() < _SAME_FACE:
        raise EnrollmentError(f"{shown(file)}: not the photo that was enrolled (score {best.max():.2f})")
    return faces[int(best.argmax())]


def bundled(binding: Binding, opened: Callable[[Path], FaceRecognizer] = FaceRecognizer) -> FaceRecognizer | None:
    """A recognizer, by ``opened``, of the shipped model whose embeddings fit; None where they are of no such model."""
    model = shipped_for(binding)
    return opened(model.file) if model else None


def _deep(folder: Path, but: Path | None) -> Iterator[Path]:
    if folder.resolve() != but:
        contents = _contents(folder)
        yield from contents.photos
        for deeper in contents.folders:
            yield from _deep(deeper, but)


def _add_folder(listing: NamedPhotos, top: Path, contents: _Contents, name: str | None) -> None:
    people = [folder for folder in contents.folders if _contents(folder)]
    if name is not None:
        _add_photos(listing, top, contents, name)
        for folder in people:
            _add_folder(listing, folder, _contents(folder), name)
    elif people:
        reason = "beside the folders of people; put it into the folder of whom it shows, or give all one --name"
        listing.passed_over.extend(PassedOver(shown(photo), reason, missed=True) for photo in contents.photos)
        _pass_over(listing, top, contents.others)
        for folder in contents.folders:
            _add_person(listing, folder, _contents(folder))
    else:
        _add_photos(listing, top, contents, (top.resolve() if top.name in ("", "..") else top).name)


def _add_person(listing: NamedPhotos, folder: Path, contents: _Contents) -> None:
    for deeper in filter(_contents, contents.folders):
        who = f"enroll {_quoted(folder)} --name {_quoted(folder.name)}"
        reason = f"deeper than <name>/<photo>; if it shows {folder.name}: {who}"
        listing.passed_over.append(PassedOver(shown(deeper), reason, missed=True))
    if not contents:
        listing.passed_over.append(PassedOver(shown(folder), "no photo in it", missed=True))
    _add_photos(listing, folder, contents, folder.name)


def _add_photos(listing: NamedPhotos, folder: Path, contents: _Contents, name: str) -> None:
    _pass_over(listing, folder, contents.others)
    try:
        name = checked_name(name)
    except UsageError as error:
        listing.passed_over.append(PassedOver(shown(folder), str(error), missed=True))
    else:
        listing.photos.extend((name, photo) for photo in contents.photos)


def _pass_over(listing: NamedPhotos, folder: Path, others: list[Path]) -> None:
    if others:
        listing.passed_over.append(PassedOver(shown(folder), f"no photos: {_list(others)}", missed=False))


def _list(files: list[Path]) -> str:
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(shown(file.name) for file in files[:_NAMED]) + more


def _quoted(path: str | Path) -> str:
    return shlex.quote(shown(path))


def _contents(folder: Path) -> _Contents:
    """What is in a folder, but for hidden files.

    Raises:
        UsageError: it cannot be read.
    """
    found = _Contents([], [], [])
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        for path in paths:
            if path.is_dir():
                if not (path.is_symlink() and folder.resolve().is_relative_to(path.resolve())):  # a loop
                    found.folders.append(path)
            elif path.suffix.lower() in SUFFIXES:
                found.photos.append(path)
            elif path.name.lower() not in _LITTER:
                found.others.append(path)
    except OSError as error:
        raise UsageError(f"{shown(folder)}: {error.strerror}") from error
    return found
