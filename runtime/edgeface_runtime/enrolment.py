"""Is a photo good enough to know somebody by? One bad enrolment matches strangers ever after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import Color
from edgeface_runtime.errors import NoFaceError, UsageError
from edgeface_runtime.find import find_faces, most_central
from edgeface_runtime.images import ImageLike, called, open_rgb
from edgeface_runtime.quality import face_sharpness, face_size, pose
from edgeface_runtime.recognizer import FaceRecognizer

MIN_SHARPNESS = 40.0
"""Of ``face_sharpness``: 99 % of AT&T and Pins are over 80; blurred by 2 % of the face, 95 % are under 32."""
MIN_SIZE = 40.0
"""Pixels."""
MAX_YAW, MAX_PITCH = 45.0, 40.0
"""Degrees to either side."""
ENROLMENT_FAR = 1e-2
_COPY = 0.99  # where the contract has no thresholds, only a copy of somebody's photo is surely that person


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo as it may be enrolled."""

    embedding: NDArray[np.float32]
    """(D,), of length 1."""
    sharpness: float
    size: float
    """Of the face, pixels."""
    yaw: float
    """Degrees."""
    pitch: float
    """Degrees."""
    concerns: tuple[str, ...]
    """Why the photo should not be enrolled; empty where it is good."""


def examine(recognizer: FaceRecognizer, photo: ImageLike, *, color: Color = "rgb") -> Sample:
    """Embeds the largest central face of a photo and looks at its quality.

    Raises:
        ImageError: the photo cannot be read.
        NoFaceError: it shows no face.
    """
    pixels = open_rgb(photo, color=color)
    faces = find_faces(pixels, recognizer.detector)[0]
    if not faces:
        raise NoFaceError(f"{called(photo)}: no face found")
    face = most_central(faces, *pixels.shape[:2])
    sharp, size, turn = face_sharpness(pixels, face), face_size(face), pose(face.landmarks)
    checks = (
        (len(faces) > 1, f"{len(faces)} faces, and only one can be enrolled: cut the photo"),
        (sharp < MIN_SHARPNESS, f"blurred (sharpness {sharp:.0f}, at least {MIN_SHARPNESS:.0f})"),
        (size < MIN_SIZE, f"the face is small ({size:.0f} pixels, at least {MIN_SIZE:.0f})"),
        (abs(turn.yaw) > MAX_YAW, f"turned aside (yaw {turn.yaw:.0f} degrees, at most {MAX_YAW:.0f})"),
        (abs(turn.pitch) > MAX_PITCH, f"turned up or down (pitch {turn.pitch:.0f} degrees, at most {MAX_PITCH:.0f})"),
    )
    row = recognizer.embed(pixels, [face])[0]
    return Sample(row, sharp, size, turn.yaw, turn.pitch, tuple(text for applies, text in checks if applies))


def disagreements(recognizer: FaceRecognizer, name: str, best: dict[str, float], comparisons: int) -> tuple[str, ...]:
    """Why a photo may not show whom it is said to show.

    Args:
        recognizer: knows the thresholds.
        name: who it is said to show.
        best: of each person, the photo's best score, −1 to 1.
        comparisons: number of photos behind ``best``.
    """
    own = best.get(name)
    other, score = max(((who, value) for who, value in best.items() if who != name), key=_score, default=("", -1.0))
    concerns = []
    if own is not None and own < (limit := _threshold(recognizer, 1, -1.0)):
        concerns.append(f"not like the other photos of {name} (score {own:.2f}, at least {limit:.2f})")
    if other and (score > own if own is not None else score >= _threshold(recognizer, comparisons, _COPY)):
        concerns.append(f"looks like {other} (score {score:.2f})")
    return tuple(concerns)


def _score(item: tuple[str, float]) -> float:
    return item[1]


def _threshold(recognizer: FaceRecognizer, comparisons: int, otherwise: float) -> float:
    try:
        return recognizer.threshold(ENROLMENT_FAR, comparisons).value
    except UsageError:
        return otherwise
