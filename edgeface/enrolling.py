"""Enrols folders of photos: who is on which photo, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeface_runtime import EnrollmentError, Gallery, ImageError, Photo, UsageError
from edgeface_runtime.images import SUFFIXES, shown


@dataclass(frozen=True)
class Refusal:
    """A photo that was not enrolled."""

    name: str
    photo: str
    reason: str


def named_photos(paths: Sequence[Path], name: str | None = None) -> list[tuple[str, Path]]:
    """Each photo with the name of whom it shows, in the order of the paths and then of the names.

    Args:
        paths: photos, which need ``name``; folders of one person's photos; folders of such folders.
        name: whom all show; the name of the photo's folder where None.

    Raises:
        UsageError: nothing there, a photo without a name, or a folder without photos.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise UsageError(f"{shown(path)}: no such file or folder")
            if name is None:
                raise UsageError(f"{shown(path)}: say whom it shows with --name, or name the folder <name>/<photo>")
            found.append((name, path))
            continue
        photos = sorted(_photos(path)) or sorted(photo for folder in path.iterdir() for photo in _photos(folder))
        if not photos:
            raise UsageError(f"{shown(path)}: no photo in it, nor in its folders")
        found += [(name or photo.absolute().parent.name, photo) for photo in photos]
    return found


def enroll_all(
    gallery: Gallery, photos: Iterable[tuple[str, Path]], *, force: bool = False
) -> tuple[list[Photo], list[Refusal]]:
    """Enrols photos one by one, each kept as soon as it is done; what cannot be used is passed over.

    Raises:
        GalleryError: the gallery cannot be written.
    """
    enrolled, refused = [], []
    for name, path in photos:
        try:
            enrolled.append(gallery.enroll(name, path, force=force))
        except (EnrollmentError, ImageError) as error:
            refused.append(Refusal(name, shown(path), str(error)))
    return enrolled, refused


def _photos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
