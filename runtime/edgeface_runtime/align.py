"""From a photo and five landmarks to the upright square crop that recognizers expect.

The same photo and landmarks give the same bytes on every machine: coordinates are separate float64 additions
and multiplications, which IEEE 754 fixes to the last bit, and pixels are blended in integers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.detection.pixels import reduced, require_rgb
from edgeface_runtime.errors import ImageError, UsageError
from edgeface_runtime.images import Pixels

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) where ArcFace's training crops of 112 pixels have the eyes, the nose tip and the mouth's corners."""
TEMPLATE.setflags(write=False)

_SUB = 1024  # steps of a pixel in which coordinates are counted; two weights and a pixel fit 32 bits
_SMALLEST, _LARGEST = 8, 1024


def similarity(landmarks: NDArray[np.floating], size: int = 112) -> NDArray[np.float64]:
    """The rotation, scale and shift that bring five landmarks nearest to the template, in the least-squares sense.

    Umeyama: "Least-squares estimation of transformation parameters between two point patterns", 1991; in two
    dimensions and without reflection its equations (40) to (42) need no singular values.

    Args:
        landmarks: (5, 2) x, y in pixels of the photo, in the order of ``Face.landmarks``.
        size: side of the crop in pixels; the template grows with it.

    Returns:
        (2, 3) float64: crop coordinates = matrix @ (x, y, 1).

    Raises:
        ImageError: the landmarks have another shape, are not finite, or all coincide.
        UsageError: ``size`` is not between 8 and 1024.
    """
    if not _SMALLEST <= size <= _LARGEST:
        raise UsageError(f"a crop's size is {size}; it must lie between {_SMALLEST} and {_LARGEST} pixels")
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ImageError(f"landmarks must be five finite points (5, 2), not {points.shape}")
    source, target = points.tolist(), (TEMPLATE * (size / 112)).tolist()
    x, y, u, v = (math.fsum(point[i] for point in side) / 5 for side in (source, target) for i in (0, 1))
    pairs = [(a - x, b - y, c - u, d - v) for (a, b), (c, d) in zip(source, target, strict=True)]
    # Exact sums: the same on every machine, in whatever order the terms are added.
    spread = math.fsum(term for a, b, _, _ in pairs for term in (a * a, b * b))
    cosine = math.fsum(term for a, b, c, d in pairs for term in (a * c, b * d))
    sine = math.fsum(term for a, b, c, d in pairs for term in (a * d, -b * c))
    if spread < 1e-6 or math.hypot(cosine, sine) < 1e-9 * spread:
        raise ImageError("the landmarks lie on one spot or have no upright shape; the face cannot be aligned")
    cosine, sine = cosine / spread, sine / spread
    return np.array([[cosine, -sine, u - (cosine * x - sine * y)], [sine, cosine, v - (sine * x + cosine * y)]])


def align(
    image: Pixels, landmarks: NDArray[np.floating], size: int = 112, *, extend: bool = False
) -> NDArray[np.uint8]:
    """The face turned upright, (size, size, 3) uint8 RGB; what lies outside the photo is black.

    Bilinear; where the face is larger than the crop, the photo is first shrunk by a whole factor, each pixel the
    mean of a block, so that fine texture does not alias.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: (5, 2) x, y in pixels of the photo.
        size: side of the crop in pixels, 112 or 224 for most recognizers.
        extend: beyond its edge the photo goes on as it ends, in place of black.

    Raises:
        ImageError: ``image`` or ``landmarks`` has another shape or dtype, or the landmarks coincide.
        UsageError: ``size`` is not between 8 and 1024.
    """
    require_rgb(image)
    matrix = similarity(landmarks, size)
    (a, b, shift_x), (c, d, shift_y) = matrix.tolist()
    determinant = a * d - b * c
    # So many pixels of the photo go to one of the crop, to the nearest whole number.
    block = max(1, math.floor(1 / math.sqrt(determinant) + 0.5))
    across = np.arange(size, dtype=np.float64) - shift_x
    down = (np.arange(size, dtype=np.float64) - shift_y)[:, None]
    x = (across * d - down * b) / determinant
    y = (down * a - across * c) / determinant
    photo, x, y = _shrunk(image, x, y, block)
    return _bilinear(photo, x, y, extend)


def _shrunk(
    image: Pixels, x: NDArray[np.float64], y: NDArray[np.float64], block: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """The part of the photo under the coordinates, block × block pixels made one; coordinates to match."""
    left, top = (max(0, math.floor(float(axis.min())) - block) // block * block for axis in (x, y))
    right, bottom = (math.ceil(float(axis.max())) + 2 * block for axis in (x, y))
    # The mean of each block in whole numbers is the same everywhere too.
    part = reduced(image, (block, block), (left, top, max(right, left + 1), max(bottom, top + 1)))
    middle = (block - 1) / 2
    return part, (x - left - middle) / block, (y - top - middle) / block


def _bilinear(
    photo: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64], extend: bool
) -> NDArray[np.uint8]:
    height, width = photo.shape[:2]
    framed = np.zeros((height + 2, width + 2, 3), np.int32)  # a black frame: no special case at the edges
    framed[1:-1, 1:-1] = photo
    if extend and photo.size:
        framed[[0, -1]] = framed[[1, -2]]
        framed[:, [0, -1]] = framed[:, [1, -2]]
    steps_x, steps_y = (
        np.clip(np.floor(axis * _SUB + 0.5), -_SUB, limit * _SUB).astype(np.int32) + _SUB
        for axis, limit in ((x, width), (y, height))
    )
    column, row = (np.minimum(steps // _SUB, limit) for steps, limit in ((steps_x, width), (steps_y, height)))
    right, under = (steps_x - column * _SUB)[..., None], (steps_y - row * _SUB)[..., None]
    flat, start, stride = framed.reshape(-1, 3), row * (width + 2) + column, width + 2
    corners = [np.take(flat, start + step, axis=0) for step in (0, 1, stride, stride + 1)]
    upper = corners[0] * (_SUB - right) + corners[1] * right
    lower = corners[2] * (_SUB - right) + corners[3] * right
    blended = upper * (_SUB - under) + lower * under
    return np.asarray((blended + _SUB * _SUB // 2) // (_SUB * _SUB), np.uint8)
