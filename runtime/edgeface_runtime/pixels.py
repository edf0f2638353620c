"""Crops and pyramid levels by area averaging, many at once, from one table of running sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.errors import ImageError

# What MTCNN's nets expect: (x - 127.5) / 128.
_SCALE, _SHIFT = np.float32(1 / 128), np.float32(127.5 / 128)


def require_rgb(image: Any) -> None:
    """Raises ImageError unless ``image`` is an (H, W, 3) uint8 array with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ImageError(f"a photo must be a numpy array, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"a photo must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")


def running_sums(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(H + 1, 3, W + 1) sums over all pixels above and left of a corner.

    Sums wrap around on photos of more than 8 million pixels; the difference of two corners stays right as
    long as the rectangle between them has fewer.
    """
    height, width = image.shape[:2]
    sums = np.empty((height + 1, 3, width + 1), np.int32)
    sums[0] = 0
    sums[:, :, 0] = 0
    sums[1:, :, 1:] = image.transpose(0, 2, 1)
    np.cumsum(sums, axis=2, out=sums)
    for y in range(2, height + 1):  # a row at a time is contiguous; cumsum along axis 0 is not
        np.add(sums[y], sums[y - 1], out=sums[y])
    return sums


def _windows(length: Any, cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First pixel and one past the last of each cell, as adaptive average pooling lays them."""
    steps = np.arange(cells)
    return steps * length // cells, -(-(steps + 1) * length // cells)


def area_level(sums: NDArray[np.int32], height: int, width: int) -> NDArray[np.float32]:
    """(1, 3, height, width) of the whole photo, each cell the mean of its pixels, scaled for MTCNN's nets."""
    top, bottom = _windows(sums.shape[0] - 1, height)
    left, right = _windows(sums.shape[2] - 1, width)
    rows = sums[bottom] - sums[top]
    cells = np.take(rows, right, axis=2) - np.take(rows, left, axis=2)
    weights = _SCALE / ((bottom - top)[:, None] * (right - left)).astype(np.float32)
    level = cells.transpose(1, 0, 2).astype(np.float32, order="C")
    level *= weights
    level -= _SHIFT
    return level[None]


def area_crops(sums: NDArray[np.int32], boxes: NDArray[np.intp], size: int) -> NDArray[np.float32]:
    """(N, 3, size, size) of (N, 4) whole-pixel boxes x0, y0, x1, y1 inside the photo, scaled for MTCNN's nets."""
    left, right = (edge + boxes[:, :1] for edge in _windows((boxes[:, 2] - boxes[:, 0])[:, None], size))
    top, bottom = (edge + boxes[:, 1:2] for edge in _windows((boxes[:, 3] - boxes[:, 1])[:, None], size))
    stride = sums.shape[2]
    flat = sums.reshape(-1)
    channels = (np.arange(3) * stride)[:, None, None]
    upper, lower = ((edge * 3 * stride)[:, None, :, None] + channels for edge in (top, bottom))
    left_N11X, right_N11X = left[:, None, None, :], right[:, None, None, :]
    cells = flat[lower + right_N11X] - flat[lower + left_N11X] - flat[upper + right_N11X] + flat[upper + left_N11X]
    weights = _SCALE / ((bottom - top)[:, :, None] * (right - left)[:, None, :]).astype(np.float32)
    crops: NDArray[np.float32] = cells.astype(np.float32)
    crops *= weights[:, None]
    crops -= _SHIFT
    return crops
