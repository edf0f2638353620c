"""One run over a collection: looks at the photos, groups the faces, writes what was found, enrolls who has a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgeface.grouping.cache import NAME, FaceCache, last_made_by
from edgeface.grouping.collection import Collection, PersonGroup, enroll_group, people_of_photos
from edgeface.grouping.results import Folders, write_results
from edgeface_runtime import Enrollment, FaceRecognizer, Gallery, UsageError
from edgeface_runtime.detection.find import DETECTORS
from edgeface_runtime.files import make_folder
from edgeface_runtime.gallery.versions import shipped_for
from edgeface_runtime.images import shown
from edgeface_runtime.model import Shipped

ENROLLED = 10
"""Photos of each person."""


def group_photos(
    photos: Sequence[Path] | None,
    folder: Path,
    recognizer: FaceRecognizer,
    *,
    detector: str = "yunet",
    names: Mapping[int | str, str] | None = None,
    far: float | None = None,
    threshold: float | None = None,
    folders: Folders = "link",
    seed: int = 0,
    forget: bool = False,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> Collection:
    """Groups the faces of photos by person and writes what it found; photos themselves are never moved or changed.

    Stopped at any moment, the next run goes on with the photos that are left.

    Args:
        photos: files; None for those of the last run.
        folder: where to write; made where it is absent.
        recognizer: finds and embeds faces.
        detector: what the recognizer's detector is called.
        names: whom groups show, by their numbers on the page that the last run wrote, or by the names that they have,
            which are then renamed.
        far: as in ``people_of_photos``.
        threshold: as in ``people_of_photos``.
        folders: ``"link"``, ``"copy"`` or ``"none"``: what the folders of people hold.
        seed: of the order in which faces are looked at.
        forget: drop what another model or detector found, and names whose photos are gone.
        progress: wraps the photos that are still to be looked at.

    Raises:
        UsageError: no such group, one that has another name, no last run, another model or detector, names that would
            be lost, an option does not fit, or the folder cannot be written to.
    """
    if far is not None and threshold is not None:
        raise UsageError("--threshold is the score itself, --far the rate that it follows from: give one of them")
    if photos is None and forget:
        raise UsageError("--forget goes with photos: those that are there from now on")
    if (photos is None or names) and not (folder / NAME).is_file():
        raise UsageError(f"{shown(folder)}: nothing was grouped there yet; run `edgeface group PHOTOS` first")
    is_new = not folder.exists()
    make_folder(folder)
    if is_new:
        folder.chmod(0o700)
    with FaceCache(folder, recognizer, detector, forget=forget) as cache:
        if names:
            cache.name(names)
        looked = cache.photos() if photos is None else photos
        refused = cache.look(looked, progress)
        found = people_of_photos(
            cache.faces(),
            recognizer.model.contract,
            photos=len(looked),
            refused=refused,
            far=far,
            threshold=threshold,
            seed=seed,
            last_number=cache.last_number(),
        )
        write_results(folder, cache, found, folders)
    return found


def found_with(folder: Path) -> tuple[Shipped | None, str | None]:
    """The package's model and the named detector of the last run; None for one of the user's own, or without a run."""
    known = last_made_by(folder)
    if known is None:
        return None, None
    return shipped_for(known[0]), known[1] if known[1] in DETECTORS else None


def enroll_named(
    gallery: Gallery,
    found: Collection,
    names: Iterable[str] = (),
    count: int = ENROLLED,
    progress: Callable[[Sequence[PersonGroup]], Iterable[PersonGroup]] = iter,
) -> Enrollment:
    """Enrolls the most telling photos of groups that have a name.

    Args:
        gallery: where to.
        found: the groups.
        names: of whom; all that have a name where empty.
        count: photos of each.
        progress: wraps the groups.

    Raises:
        GalleryError: the gallery cannot be written.
    """
    wanted = set(names)
    groups = [group for group in found.groups if group.name is not None and (not wanted or group.name in wanted)]
    done, notice = Enrollment([], []), ""
    for group in progress(groups):
        part = enroll_group(gallery, group, group.name or "", count)
        done.photos.extend(part.photos)
        done.refused.extend(part.refused)
        notice = next((photo.notice for photo in reversed(part.photos) if photo.notice), notice)
    return replace(done, notice=notice)
