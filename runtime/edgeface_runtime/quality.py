"""How good a found face is: sharpness, size and head pose, as numbers that a threshold can be put on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgeface_runtime.align import align
from edgeface_runtime.faces import Face
from edgeface_runtime.images import Pixels

# A mean adult head in eye distances (x to the photo's right, y down, z away from the camera), points
# in the order of Face.landmarks. The nose tip stands out, which is what shows the turn of the head.
_HEAD = np.array(
    [[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.0, 0.05, -0.42], [-0.38, 0.55, -0.05], [0.38, 0.55, -0.05]], np.float64
)
_HEAD_CENTRED = _HEAD - _HEAD.mean(axis=0)

_INNER = np.s_[32:104, 24:88]
"""From brow to chin in an aligned crop of 112 pixels."""
BLURS = (1.0, 1.4, 2.0, 2.8)
"""Deviations of Gaussian blurs, in pixels of that crop; the first and third, second and fourth bound an octave."""

_REACH = 8
"""Pixels on either side that a blur takes in: as many as there are between the inner part and the crop's edge."""


@dataclass(frozen=True)
class Pose:
    """Head pose in degrees, estimated from five points: good to about 10 degrees, enough to sort by."""

    yaw: float
    """Positive where the nose points to the photo's right."""
    pitch: float
    """Positive where the nose points down."""
    roll: float
    """Positive where the head is turned clockwise in the photo."""


def sharpness(crop: NDArray[np.uint8]) -> float:
    """How much fine detail a face has for its coarse detail, in percent; low is blurred.

    The standard deviation of the luma between Gaussian blurs of 1 and 2 pixels, over that between 1.4 and 2.8: the
    slope of the image's spectrum, which is alike in all sharp photos (D. Field, "Relations between the statistics of
    natural images and the response properties of cortical cells", JOSA A 1987) and steep in blurred ones. As a ratio
    it does not change with contrast and brightness. The share of pixel noise in both, known from the finest
    differences, is taken off: noise does not make a blurred photo sharp, as it does by the variance of the Laplacian.

    Args:
        crop: (112, 112, 3) uint8 RGB, an aligned face.
    """
    luma = _luma(crop)
    # J. Immerkaer, "Fast noise variance estimation", CVIU 1996, with the median, which edges do not move. Aligning has
    # blended pixels with their neighbors: what is left of noise in the finest differences is about half.
    finest = np.diff(np.diff(luma[_INNER], 2, axis=0), 2, axis=1) / 6
    noise = 2 * (1.4826 * float(np.median(np.abs(finest)))) ** 2
    blurred = _blurred(luma)
    fine, coarse = (
        max(float((blurred[band] - blurred[band + 2]).var()) - noise * _white(*BLURS[band : band + 3 : 2]), 0.0)
        for band in (0, 1)
    )
    return 100 * math.sqrt(fine / max(coarse, 0.01))


def brightness(crop: NDArray[np.uint8]) -> float:
    """Luma, 0 to 255, that a twentieth of an aligned (112, 112, 3) uint8 RGB face's inner part exceeds; low is dark."""
    return float(np.percentile(_luma(crop)[_INNER], 95))


def _luma(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    luma: NDArray[np.float32] = crop.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return luma


def _white(fine: float, coarse: float) -> float:
    """Variance of what lies between two Gaussian blurs of white noise of variance 1."""
    return (1 / fine**2 + 1 / coarse**2 - 4 / (fine**2 + coarse**2)) / (4 * math.pi)


def _blurred(luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """(4, 72, 64): the inner part of a crop, blurred by each of ``BLURS``."""
    steps = np.arange(-_REACH, _REACH + 1)
    taps = np.exp(-((steps / np.array(BLURS)[:, None]) ** 2) / 2)
    taps = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
    # Not by matrix products: so small ones are slowed down by the library's threads where processes share the cores.
    rows, columns = (slice(part.start - _REACH, part.stop + _REACH) for part in _INNER)
    down = np.einsum("yxk,bk->byx", sliding_window_view(luma[rows, columns], len(steps), axis=0), taps)
    across: NDArray[np.float32] = np.einsum("byxk,bk->byx", sliding_window_view(down, len(steps), axis=2), taps)
    return across


def face_crop(photo: Pixels, face: Face) -> NDArray[np.uint8]:
    """(112, 112, 3) uint8 RGB of the face, aligned; beyond its edge the photo goes on as it ends.

    The step to black in a recognizer's crop is sharp in every photo.

    Args:
        photo: (H, W, 3) uint8 RGB.
        face: where it is in the photo.

    Raises:
        ImageError: the landmarks have no upright shape.
    """
    return align(photo, face.landmarks, 112, extend=True)


def face_size(face: Face) -> float:
    """Side in pixels of the square with the area of the face's box."""
    x0, y0, x1, y1 = map(float, face.box)
    return float(np.sqrt(max(0.0, x1 - x0) * max(0.0, y1 - y0)))


def pose(landmarks: NDArray[np.float32]) -> Pose:
    """Yaw, pitch and roll from (5, 2) landmarks.

    Fits the weak-perspective camera that takes a mean head to the points (least squares), makes its
    two rows the nearest orthonormal ones and reads the angles of R = Rz(roll) · Ry(−yaw) · Rx(pitch).
    """
    points = np.asarray(landmarks, np.float64)
    camera = np.linalg.lstsq(_HEAD_CENTRED, points - points.mean(axis=0), rcond=None)[0].T
    left, _, right = np.linalg.svd(camera, full_matrices=False)
    rows = left @ right
    rotation = np.vstack([rows, np.cross(rows[0], rows[1])])
    return Pose(
        yaw=float(np.degrees(np.arcsin(np.clip(rotation[2, 0], -1, 1)))),
        pitch=float(np.degrees(np.arctan2(rotation[2, 1], rotation[2, 2]))),
        roll=float(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))),
    )
