"""From a photo and five landmarks to the upright square crop that recognizers expect.

The same photo and landmarks give the same bytes on every machine: coordinates are separate float64 additions
and multiplications, which IEEE 754 fixes to the last bit, and pixels are blended in integers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime.detection.pixels import reduced, require_rgb
from edgeface_runtime.errors import ImageError, UsageError
from edgeface_runtime.images import Pixels

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) where ArcFace's training crops of 112 pixels have the eyes, the nose tip and the mouth's corners."""
TEMPLATE.setflags(write=False)

_BITS = 10
_SUB = 1 << _BITS  # steps of a pixel in which coordinates are counted; two weights and a pixel fit 32 bits
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
    corners = np.stack([axis[:: size - 1, :: size - 1].ravel() for axis in (x, y)])  # where the extremes are
    (least_x, least_y), (most_x, most_y) = corners.min(axis=1).tolist(), corners.max(axis=1).tolist()
    left, top = (max(0, math.floor(least) - block) // block * block for least in (least_x, least_y))
    right, bottom = (max(start + 1, math.ceil(most) + 2 * block) for start, most in ((left, most_x), (top, most_y)))
    # The mean of each block in whole numbers is the same everywhere too.
    part = reduced(image, (block, block), (left, top, right, bottom))
    is_inside = least_x >= 0 and least_y >= 0 and most_x < image.shape[1] - 1 and most_y < image.shape[0] - 1
    right_steps, under = (
        _steps(axis, start + (block - 1) / 2, block, None if is_inside else length)
        for axis, start, length in ((x, left, part.shape[1]), (y, top, part.shape[0]))
    )
    return _bilinear(part, right_steps, under, extend)


def _bilinear(
    photo: NDArray[np.uint8], right: NDArray[np.int32], under: NDArray[np.int32], extend: bool
) -> NDArray[np.uint8]:
    """The photo at places counted in steps of 1/_SUB pixel from the upper left of a frame around it."""
    height, width = photo.shape[:2]
    # A black frame, one wider at the end: no special case at the edges. A pixel is one number, so that one index serves
    # all three channels.
    framed = np.zeros((height + 3, width + 3), "<i4")
    if photo.size:
        packed = Image.fromarray(photo).tobytes("raw", "RGBX")
        framed[1:-2, 1:-2] = np.frombuffer(packed, "<i4").reshape(height, width)
    if extend and photo.size:
        framed[[0, -2]] = framed[[1, -3]]
        framed[:, [0, -2]] = framed[:, [1, -3]]
    start = (under >> _BITS).astype(np.intp) * (width + 3) + (right >> _BITS)
    right &= _SUB - 1
    under &= _SUB - 1
    far = right * under
    weights = [_SUB * (_SUB - right - under) + far, _SUB * right - far, _SUB * under - far, far]
    table = framed.reshape(-1)
    # None is outside; the check would take longer.
    corners = [np.take(table, start + step, mode="wrap") for step in (0, 1, width + 3, width + 4)]
    crop = np.empty((*start.shape, 3), np.uint8)
    for channel in range(3):
        blended = np.full(start.shape, _SUB * _SUB // 2, np.int32)
        for corner, weight in zip(corners, weights, strict=True):
            value = corner & 0xFF
            value *= weight
            blended += value
            corner >>= 8
        blended >>= 2 * _BITS
        crop[..., channel] = blended
    return crop


def _steps(axis: NDArray[np.float64], first: float, block: int, limit: int | None) -> NDArray[np.int32]:
    """Coordinates of the photo in whole steps of 1/_SUB pixel of its part, from the part's frame.

    Args:
        axis: coordinates; changed on the way.
        first: where the part's first pixel has its middle.
        block: pixels of the photo that are one of the part.
        limit: the part's pixels where coordinates may lie outside; they go no further than the frame.
    """
    axis -= first
    if block & (block - 1):
        axis /= block
        axis *= _SUB
    else:
        axis *= _SUB / block  # the same to the bit
    axis += 0.5
    np.floor(axis, out=axis)
    if limit is not None:
        np.maximum(np.minimum(axis, limit * _SUB, out=axis), -_SUB, out=axis)  # np.clip takes longer to call
    axis += _SUB
    return axis.astype(np.int32)
