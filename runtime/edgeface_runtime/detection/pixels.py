"""Parts of a photo at other sizes: by Pillow's filters, and by area averaging from a table of running sums."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime.errors import ImageError

_PIECE = 1 << 20  # pixels that Pillow gets at once: it keeps four bytes of each
# What MTCNN's nets expect: (x - 127.5) / 128.
_SCALE, _SHIFT = np.float32(1 / 128), np.float32(127.5 / 128)


def require_rgb(image: object) -> None:
    """Raises ImageError unless ``image`` is an (H, W, 3) uint8 array with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ImageError(f"a photo must be a numpy array, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"a photo must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")


def reduced(image: NDArray[np.uint8], factors: tuple[int, int]) -> NDArray[np.uint8]:
    """``Image.reduce``: each pixel the mean of a block of that many columns and rows, in whole numbers.

    Works through pieces of the photo: Pillow's own copy of all of it would be a third larger than the photo.
    """
    if factors == (1, 1):
        return image
    across, down = factors
    wide = max(1, _PIECE // down // across) * across
    high = max(1, _PIECE // min(wide, image.shape[1]) // down) * down
    rows = []
    for top in range(0, image.shape[0], high):
        band = image[top : top + high]
        pieces = (Image.fromarray(band[:, left : left + wide]) for left in range(0, image.shape[1], wide))
        rows.append(np.concatenate([np.asarray(piece.reduce(factors)) for piece in pieces], axis=1))
    return np.concatenate(rows)


def resized(image: NDArray[np.uint8], box: tuple[int, int, int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A part of the photo at another size: ``Image.resize``, bilinear, with ``reducing_gap=1.0``, to the byte.

    Args:
        image: (H, W, 3) uint8.
        box: left, top, right and bottom of the part.
        size: width and height that it gets.
    """
    sides = (box[2] - box[0], box[3] - box[1])
    factors = (max(1, sides[0] // size[0]), max(1, sides[1] // size[1]))
    left, top, right, bottom = 0, 0, image.shape[1], image.shape[0]
    if max(factors) > 1:  # the blocks begin so far before the part as the filter reaches
        reach = [0.5 * side / new for side, new in zip(sides, size, strict=True)]
        left, top = (max(0, int(box[axis] - reach[axis])) for axis in (0, 1))
        right, bottom = (math.ceil(box[axis + 2] + reach[axis]) for axis in (0, 1))
    small = Image.fromarray(reduced(image[top:bottom, left:right], factors))
    start_x, end_x = ((edge - left) / factors[0] for edge in box[::2])
    start_y, end_y = ((edge - top) / factors[1] for edge in box[1::2])
    return np.asarray(small.resize(size, Image.Resampling.BILINEAR, (start_x, start_y, end_x, end_y)))


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


def _windows(length: int | NDArray[np.intp], cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
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
