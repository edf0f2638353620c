"""The faces of whatever folder of photos a person names: prepared, aligned crops, or whole photos.

Whole photos scaled to a face's size give other embeddings than the aligned faces that a device feeds, and figures that
hold for neither. They are recognized by a look at a sample, and prepared on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from edgeface.data.dataset import FaceData, load_data, load_unlabeled
from edgeface.progress import SILENT, Reporter
from edgeface_runtime import ImageError, UsageError
from edgeface_runtime.align import TEMPLATE, align
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.files import is_unused, temporary_folder, write_text
from edgeface_runtime.images import SUFFIXES, open_photo, shown

SAMPLE = 16
ALIGNED = 6.5
"""Pixels of a 112 px crop that the landmarks lie off the template on average, in the median photo of a sample: 2 to 4
in aligned sets, 9 in AT&T's tight crops, 10 to 31 in LFW, Pins, Families in the Wild, CelebA and portraits."""
SMALL = 140
"""Photos whose longer side has no more pixels are crops of faces, aligned or not: nothing is gained by a search."""
_SAID_EVERY = 10.0
_MARK = "made-on-the-way"


@dataclass(frozen=True)
class Sampled:
    """What a sample of the photos of a folder looks like."""

    offset: float | None
    """Median distance of the landmarks from the template, in pixels of a 112 px crop; infinite where most photos are
    not square, which aligned faces are; None where half of the photos show no face."""
    side: int
    """Median of the longer sides, in pixels."""

    @property
    def is_aligned(self) -> bool:
        """True where the photos are aligned faces."""
        return self.offset is not None and self.offset <= ALIGNED

    def is_whole(self, size: int) -> bool:
        """True where they are photos in which faces of ``size`` pixels are yet to be found."""
        return not self.is_aligned and self.side > max(SMALL, 1.25 * size)


def look(photos: list[Path]) -> Sampled:
    """Looks at a sample, drawn with a fixed seed; the detector at its square photos, since only these can be aligned.

    Raises:
        UsageError: none of the photos can be read.
    """
    rng, detector = np.random.default_rng(0), None
    offsets, sides = [], []
    for row in rng.permutation(len(photos)):
        with contextlib.suppress(ImageError):
            pixels = open_photo(photos[row])
            height, width = pixels.shape[:2]
            sides.append(max(height, width))
            if height != width:
                offsets.append(math.inf)
            else:
                detector = detector or load_detector(threads=1)
                if faces := find_faces(pixels, detector)[0]:
                    points = most_central(faces, height, width).landmarks * (112 / width)
                    offsets.append(float(np.linalg.norm(points - TEMPLATE, axis=1).mean()))
        if len(sides) == SAMPLE:
            break
    if not sides:
        raise UsageError(f"{shown(photos[0].parent)}: none of its photos can be read")
    return Sampled(float(np.median(offsets)) if 2 * len(offsets) >= len(sides) else None, int(np.median(sides)))


def open_faces(folder: str | Path, *, size: int = 112, reporter: Reporter = SILENT) -> FaceData:
    """As ``load_data``; the faces of whole photos are found and aligned first, into ``FOLDER.faces`` beside the folder.

    That folder is like any that ``data prepare`` makes: a run that was stopped goes on, the next command finds it
    finished, and it is made anew where the photos have changed. Without the extra ``data``, as on a device, nothing is
    kept: the faces are found and aligned each time.

    Args:
        folder: prepared, or ``<identity>/<photo>``.
        size: height and width of the returned faces, in pixels.
        reporter: told what the photos are, where they are no aligned faces, and how far the preparation is.

    Raises:
        UsageError: as ``load_data``; or the folder beside it cannot be written or is another's.
    """
    folder = Path(folder)
    photos = _photos(folder, "*/*")
    if not photos or (folder / "faces.csv").exists():
        return load_data(folder, size=size)
    seen = look(photos)
    if seen.is_whole(size):
        if not all(map(importlib.util.find_spec, ("imagehash", "scipy"))):  # what `data prepare` takes
            return _aligned(folder, photos, size, seen, reporter)
        return load_data(_prepared(folder, size, seen, reporter), size=size)
    data = load_data(folder, size=size)
    if seen.is_aligned or seen.offset is None:
        return data
    reporter.say(
        f"{shown(folder)}: crops of about {seen.side} pixels that are not aligned: taken as they are, though a device "
        "feeds aligned faces, so figures may differ there; edgeface data prepare aligns them"
    )
    return replace(data, is_aligned=False)


def open_unlabeled(folder: str | Path, *, size: int = 112) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """As ``load_unlabeled``, for aligned faces or small crops only.

    Raises:
        UsageError: as ``load_unlabeled``; or the photos are whole.
    """
    folder = Path(folder)
    photos = _photos(folder, "**/*")
    if photos and not (folder / "faces.csv").exists() and look(photos).is_whole(size):
        name = shown(folder)
        raise UsageError(
            f"{name}: whole photos, not aligned faces; align them: edgeface data prepare {name} {name}.faces"
        )
    return load_unlabeled(folder, size=size)


def _photos(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file())


def _aligned(folder: Path, photos: list[Path], size: int, seen: Sampled, reporter: Reporter) -> FaceData:
    """The faces of whole photos, found and aligned for this once."""
    reporter.say(
        f"{shown(folder)}: whole photos (about {seen.side} pixels), not aligned faces: finding and aligning them"
    )
    detector, told, missed = load_detector(threads=1), _progress(reporter), 0
    with temporary_folder() as made:
        for number, photo in enumerate(photos):
            told(number, len(photos))
            with contextlib.suppress(ImageError):
                pixels = open_photo(photo)
                faces, _ = find_faces(pixels, detector)
                missed += not faces
                if faces:
                    crop = align(pixels, most_central(faces, *pixels.shape[:2]).landmarks, size)
                    target = Path(made) / photo.parent.name / f"{photo.name}.png"
                    target.parent.mkdir(exist_ok=True)
                    Image.fromarray(crop).save(target)
        if missed:
            reporter.say(f"left out, no face: {missed}")
        return load_data(made, size=size)


def _prepared(folder: Path, size: int, seen: Sampled, reporter: Reporter) -> Path:
    """The folder of the aligned faces of whole photos, made or found."""
    from edgeface.data.crops import CropSettings
    from edgeface.data.prepare import Options, prepare

    source = folder.resolve()
    target = source.with_name(source.name + (".faces" if size == 112 else f".faces-{size}"))
    reporter.say(
        f"{shown(folder)}: whole photos (about {seen.side} pixels), not aligned faces: finding and aligning them into "
        f"{shown(target)}"
    )
    mark = target / ".prepare" / _MARK
    listed = hashlib.sha256(
        "\n".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in _photos(source, "**/*")).encode(
            errors="surrogateescape"
        )
    ).hexdigest()
    if mark.exists() and mark.read_text() != listed:
        with temporary_folder(target.parent, target.name) as old:  # whole or gone, should a kill come
            target.rename(Path(old) / target.name)
    if not target.exists() or is_unused(target):
        try:
            target.mkdir(mode=0o700, exist_ok=True)  # faces are nobody else's business
            mark.parent.mkdir(exist_ok=True)
        except OSError as error:
            how = f"edgeface data prepare {shown(folder)} ELSEWHERE, then name ELSEWHERE"
            raise UsageError(f"{shown(target)}: cannot be made ({error.strerror}); {how}") from error
        write_text(mark, listed)
    options = Options(crops=CropSettings(size=size))
    photos = len(_photos(source, "**/*"))
    card = prepare(source, target, options, processes=_processes(photos), progress=_progress(reporter))
    for reason, count in card["rejected"].items():
        reporter.say(f"left out, {reason}: {count}; see {shown(target / 'rejected.csv')}")
    return target


def _processes(photos: int) -> int:
    """One for a few photos: starting another takes longer than finding their faces."""
    return 1 if photos < 200 else os.cpu_count() or 1


def _progress(reporter: Reporter) -> Callable[[int, int], None]:
    began = said = time.monotonic()
    first: int | None = None

    def report(done: int, total: int) -> None:
        nonlocal said, first
        first, now = done if first is None else first, time.monotonic()
        if now - said > _SAID_EVERY and done > first:
            said = now
            left = (now - began) / (done - first) * (total - done)
            reporter.say(f"{done} of {total} photos, {left:.0f} s left")

    return report
