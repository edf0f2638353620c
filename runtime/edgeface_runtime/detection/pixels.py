"""Parts of a photo at other sizes: by Pillow's filters, and by area averaging from a table of running sums."""

from __future__ import annotations

import itertools
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime.errors import ImageError
from edgeface_runtime.images import DecodedPhoto, Pixels

Area: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of a photo, in whole pixels."""

_PIECE = 1 << 20  # pixels that Pillow gets at once: it keeps four bytes of each
_TILE = 1 << 10  # side of the squares in which large photos are summed up
_GREY = 128
# What MTCNN's nets expect: (x - 127.5) / 128.
_SCALE, _SHIFT = np.float32(1 / 128), np.float32(127.5 / 128)


def require_rgb(image: object) -> None:
    """Raises ImageError unless ``image`` is an (H, W, 3) uint8 photo with at least one pixel."""
    if isinstance(image, DecodedPhoto):
        return
    if not isinstance(image, np.ndarray):
        raise ImageError(f"a photo must be a numpy array, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"a photo must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")


def reduced(image: Pixels, factors: tuple[int, int], box: Area | None = None) -> NDArray[np.uint8]:
    """``Image.reduce``: each pixel the mean of a block of that many columns and rows, in whole numbers.

    Works through pieces of the photo: Pillow's own copy of all of it would be a third larger than the photo.

    Args:
        image: (H, W, 3) uint8.
        factors: columns and rows of a block; of those at the right and lower edge, what there is.
        box: the part that is wanted, which may reach outside; all where None.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box or (0, 0, width, height)
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(x1, width), min(y1, height)
    if factors == (1, 1) or x0 >= x1 or y0 >= y1:
        return image[y0:y1, x0:x1]
    across, down = factors
    columns = _cuts(x0, x1, across, max(1, _PIECE // down // across))
    rows = _cuts(y0, y1, down, max(1, _PIECE // max(end - start for start, end in columns) // down))
    means = [[_means(image, factors, (left, top, right, bottom)) for left, right in columns] for top, bottom in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in means])


def _cuts(start: int, end: int, block: int, most: int) -> list[tuple[int, int]]:
    """Pieces of at most so many whole blocks, and what is left over at the end."""
    whole = start + (end - start) // block * block
    edges = [*range(start, whole, most * block), whole, end]
    return [(a, b) for a, b in itertools.pairwise(edges) if a < b]


def _means(image: Pixels, factors: tuple[int, int], area: Area) -> NDArray[np.uint8]:
    left, top, right, bottom = area
    if isinstance(image, DecodedPhoto) and not ((right - left) % factors[0] or (bottom - top) % factors[1]):
        return image.reduced(factors, area)
    return np.asarray(Image.fromarray(image[top:bottom, left:right]).reduce(factors))


def resized(image: Pixels, box: Area, size: tuple[int, int]) -> NDArray[np.uint8]:
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
    small = Image.fromarray(reduced(image, factors, (left, top, right, bottom)))
    start_x, end_x = ((edge - left) / factors[0] for edge in box[::2])
    start_y, end_y = ((edge - top) / factors[1] for edge in box[1::2])
    return np.asarray(small.resize(size, Image.Resampling.BILINEAR, (start_x, start_y, end_x, end_y)))


def framed(photo: Pixels, corner: tuple[int, int], reach: int, shrink: int) -> NDArray[np.uint8]:
    """(reach, reach, 3): a square of the photo with shrink × shrink pixels made one; ``corner`` counts such blocks.

    Grey beyond the photo's edge: O-Net's landmarks go astray on a face that is cut or stretched.
    """
    (left, top), (height, width) = corner, photo.shape[:2]
    area = (left * shrink, top * shrink, (left + reach) * shrink, (top + reach) * shrink)
    if left >= 0 and top >= 0 and area[2] <= width and area[3] <= height:
        return reduced(photo, (shrink, shrink), area)
    canvas = np.full((reach, reach, 3), _GREY, np.uint8)
    part = reduced(photo, (shrink, shrink), area)
    x, y = max(0, -left), max(0, -top)
    canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
    return canvas


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


class AreaTable:
    """Sums over rectangles of a photo; of a large one those of the part in hand, for they take 12 bytes a pixel."""

    def __init__(self, photo: Pixels) -> None:
        self.shape = photo.shape[:2]
        self._photo = photo
        self.sums = running_sums(photo[:, :]) if self.shape[0] * self.shape[1] <= _PIECE else None
        """Of the whole photo; None of a large one."""

    def part(self, area: Area) -> NDArray[np.int32]:
        """(h + 1, 3, w + 1) whose differences are the sums over rectangles within the area."""
        left, top, right, bottom = area
        if self.sums is None:
            return running_sums(self._photo[top:bottom, left:right])
        return self.sums[top : bottom + 1, :, left : right + 1]


def area_cells(
    table: AreaTable, area: Area, size: tuple[int, int], part: tuple[range, range] | None = None
) -> NDArray[np.float32]:
    """(1, 3, height, width) of a part of the photo, each cell the mean of its pixels, scaled for MTCNN's nets.

    Args:
        table: of the photo.
        area: the part.
        size: height and width in cells.
        part: rows and columns of the cells that are wanted; all where None.
    """
    rows, columns = part or (range(size[0]), range(size[1]))
    top, bottom = (area[1] + edge[rows.start : rows.stop] for edge in _windows(area[3] - area[1], size[0]))
    left, right = (area[0] + edge[columns.start : columns.stop] for edge in _windows(area[2] - area[0], size[1]))
    cells = np.empty((3, len(rows), len(columns)), np.float32)
    high, wide = cells.shape[1:]
    if table.sums is None:
        high, wide = (max(1, _TILE // int((end - start).max())) for start, end in ((top, bottom), (left, right)))
    for y in range(0, len(rows), high):
        upper, lower = top[y : y + high], bottom[y : y + high]
        for x in range(0, len(columns), wide):
            start, end = left[x : x + wide], right[x : x + wide]
            sums = table.part((int(start[0]), int(upper[0]), int(end[-1]), int(lower[-1])))
            band = sums[lower - upper[0]] - sums[upper - upper[0]]
            means = np.take(band, end - start[0], axis=2) - np.take(band, start - start[0], axis=2)
            cells[:, y : y + high, x : x + wide] = means.transpose(1, 0, 2)
    cells *= _SCALE / ((bottom - top)[:, None] * (right - left)).astype(np.float32)
    cells -= _SHIFT
    return cells[None]


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
