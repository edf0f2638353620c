"""Folders of whole photos, where faces were asked for: their faces are found and aligned on the way."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from functools import partial
from pathlib import Path

from PIL import Image

from edgeface.progress import Progress, Reporter
from edgeface_runtime import ImageError, UsageError
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.files import is_unused, temporary_folder, write_text, write_whole
from edgeface_runtime.images import open_photo, shown

_SAID_EVERY = 10.0
_MARK = "made-on-the-way"


def align_into(made: Path, folder: Path, photos: list[Path], *, size: int, side: int, reporter: Reporter) -> None:
    """Writes the aligned faces of whole photos as ``<identity>/<photo>.png``.

    Args:
        made: where to.
        folder: of the photos, as it was named.
        photos: those of it, ``<identity>/<photo>``.
        size: height and width of the faces, in pixels.
        side: about how large the photos are, in pixels.
        reporter: told what is done, how far it is, and how many photos show no face.
    """
    reporter.say(f"{shown(folder)}: whole photos (about {side} pixels), not aligned faces: finding and aligning them")
    detector, told, missed = load_detector(threads=1), _progress(reporter), 0
    for number, photo in enumerate(photos):
        told(number, len(photos), "photos")
        with contextlib.suppress(ImageError):
            pixels = open_photo(photo)
            faces, _ = find_faces(pixels, detector)
            missed += not faces
            if faces:
                crop = align(pixels, most_central(faces, *pixels.shape[:2]).landmarks, size)
                target = made / photo.parent.name / f"{photo.name}.png"
                target.parent.mkdir(exist_ok=True)
                write_whole(target, partial(Image.fromarray(crop).save, format="PNG"))
    if missed:
        reporter.say(f"left out, no face: {missed}")


def prepared(folder: Path, photos: list[Path], *, size: int, side: int, reporter: Reporter) -> Path:
    """The folder beside ``folder`` that holds the aligned faces of its whole photos, made or found.

    Args:
        folder: of the photos, as it was named.
        photos: all of them, at whatever depth: where one has changed, the folder is made anew.
        size: height and width of the faces, in pixels.
        side: about how large the photos are, in pixels.
        reporter: told what is done, how far it is, and what was left out.

    Raises:
        UsageError: the folder cannot be written or is another's.
    """
    from edgeface.data.crops import CropSettings
    from edgeface.data.prepare import Options, prepare

    source = folder.resolve()
    target = source.with_name(source.name + (".faces" if size == 112 else f".faces-{size}"))
    reporter.say(
        f"{shown(folder)}: whole photos (about {side} pixels), not aligned faces: finding and aligning them into "
        f"{shown(target)}"
    )
    mark = target / ".prepare" / _MARK
    listed = hashlib.sha256(
        "\n".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in photos).encode(
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
    card = prepare(source, target, options, processes=_processes(len(photos)), progress=_progress(reporter))
    for reason, count in card["rejected"].items():
        reporter.say(f"left out, {reason}: {count}; see {shown(target / 'rejected.csv')}")
    return target


def _processes(photos: int) -> int:
    """One for a few photos: starting another takes longer than finding their faces."""
    return 1 if photos < 200 else os.cpu_count() or 1


def _progress(reporter: Reporter) -> Progress:
    said = time.monotonic()
    began: dict[str, tuple[float, int]] = {}

    def report(done: int, total: int, what: str) -> None:
        nonlocal said
        now = time.monotonic()
        start, first = began.setdefault(what, (now, done))
        if now - said > _SAID_EVERY and done > first:
            said = now
            left = (now - start) / (done - first) * (total - done)
            reporter.say(f"{done} of {total} {what}, {left:.0f} s left")

    return report
