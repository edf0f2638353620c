"""The best picture of each visit, as files."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime import Event, Face, FrameResult, ImageError, Person, UsageError
from edgeface_runtime.files import make_folder, remove_leftovers, replacing, write_whole
from edgeface_runtime.quality import face_crop, face_size, pose, sharpness

_AROUND = 0.4  # of the box's sides that is kept on each side of it
_FORGET = 60.0  # seconds after which a face that no event told of is forgotten
_OFTEN = 0.2  # seconds from one look at how good a face is to the next


@dataclass
class _Best:
    path: Path
    landmarks: tuple[tuple[float, float], ...]
    looked: float
    value: float = -1.0
    picture: NDArray[np.uint8] | None = None
    is_written: bool = False


class Snapshots:
    """Keeps one picture a visit in memory, and writes it when the visit is named or unknown, and better at its end."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder, readable by its owner alone, where there is none.

        Raises:
            UsageError: it cannot be made.
        """
        is_new = not folder.exists()
        make_folder(folder)
        if is_new:
            folder.chmod(0o700)
        remove_leftovers(folder)
        self.folder = folder
        self._best: dict[tuple[str, int], _Best] = {}

    def see(self, camera: str, result: FrameResult) -> None:
        """Takes the faces of a frame that are better than those before."""
        now = time.monotonic()
        for person in result.people:
            best = self._best.get((camera, person.track))
            if best is None:
                place = re.sub(r"\W+", "-", camera).strip("-")
                path = self.folder / f"{datetime.now():%Y%m%dT%H%M%S}-{place}-{person.track}.jpg"
                best = self._best[camera, person.track] = _Best(path, (), -_OFTEN)
            # Landmarks are of the frame only where the face was detected in it.
            if person.landmarks and person.landmarks != best.landmarks and now - best.looked >= _OFTEN:
                best.landmarks, best.looked = person.landmarks, now
                value = _value(result.frame.pixels, person)
                if value > best.value:
                    best.value, best.picture, best.is_written = value, _cut(result.frame.pixels, person), False
        for key in [key for key, best in self._best.items() if now - best.looked > _FORGET]:
            self._write(self._best.pop(key))

    def written(self, camera: str, event: Event) -> str | None:
        """The file of the visit that the event is of; None where there is none yet.

        Raises:
            UsageError: it cannot be written.
        """
        best = self._best.get((camera, event.person.track))
        if best is None or best.picture is None or event.kind == "appeared":
            return None
        self._write(best)
        if event.kind == "left":
            del self._best[camera, event.person.track]
        return str(best.path)

    def close(self) -> None:
        """Writes what is still better in memory of those who are there.

        Raises:
            UsageError: it cannot be written.
        """
        for best in self._best.values():
            if best.path.exists():
                self._write(best)

    def _write(self, best: _Best) -> None:
        if best.picture is None or best.is_written:
            return
        try:
            with replacing(best.path) as part:
                part.touch(mode=0o600)
                write_whole(part, partial(Image.fromarray(best.picture).save, format="JPEG", quality=90))
        except OSError as error:
            raise UsageError(f"{best.path}: cannot be written ({error.strerror or error})") from error
        best.is_written = True


def _value(pixels: NDArray[np.uint8], person: Person) -> float:
    """Large, frontal and sharp is good."""
    face = Face(np.array(person.box, np.float32), 1.0, np.array(person.landmarks, np.float32))
    turn = pose(face.landmarks)
    frontal = max(0.0, 1 - (abs(turn.yaw) + abs(turn.pitch)) / 90)
    try:
        return face_size(face) * frontal * sharpness(face_crop(pixels, face))
    except ImageError:  # points of no upright face
        return 0.0


def _cut(pixels: NDArray[np.uint8], person: Person) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = person.box
    wide, high = _AROUND * (x1 - x0), _AROUND * (y1 - y0)
    left, top = max(0, int(x0 - wide)), max(0, int(y0 - high))
    right, bottom = min(width, int(x1 + wide) + 1), min(height, int(y1 + high) + 1)
    return pixels[top : max(bottom, top + 1), left : max(right, left + 1)].copy()
