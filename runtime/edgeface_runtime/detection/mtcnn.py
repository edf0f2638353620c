"""MTCNN: three small nets, each more exact than the one before, over a pyramid of the photo.

Zhang, Zhang, Li, Qiao: "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks", 2016. Thresholds, rounding and weights are facenet-pytorch's, so that results agree with it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.detection.boxes import (
    confidence,
    read_onet,
    regress,
    require_min_face,
    require_shares,
    square,
    suppress,
)
from edgeface_runtime.detection.pixels import AreaTable, area_cells, area_crops, reduced, require_rgb
from edgeface_runtime.engines import Engine
from edgeface_runtime.errors import UsageError
from edgeface_runtime.faces import Face
from edgeface_runtime.images import Pixels

_STRIDE, _CELL = 2, 12
_BATCH = 32
_LEVEL = 128  # side in pixels of the squares of a pyramid level in which P-Net sees large photos
_ENOUGH = 320  # pixels of the longer side in which a large face still has 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Mtcnn:
    """The reference detector. Nets take (N, 3, side, side) float32, (x - 127.5) / 128."""

    pnet: Engine
    """(1, 3, H, W) → (1, h, w, 5): face logit, then four offsets, for each 12-pixel window in steps of 2."""
    rnet: Engine
    """(N, 3, 24, 24) → (N, 5): face logit, four offsets."""
    onet: Engine
    """(N, 3, 48, 48) → (N, 15): face logit, four offsets, five x, five y."""
    min_face: float = 20.0
    """Smallest face to look for, in pixels of the photo."""
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    """Confidence that a window must reach in each of the three stages, 0 to 1."""
    factor: float = 0.709
    """Ratio of one pyramid level to the level before, 0 to 1."""

    def __post_init__(self) -> None:
        require_min_face(self.min_face)
        require_shares(factor=self.factor)
        if not all(0 < threshold < 1 for threshold in self.thresholds):
            raise UsageError(f"thresholds are {self.thresholds}; each must lie between 0 and 1")

    def detect(self, image: Pixels) -> list[Face]:
        """Faces in one (H, W, 3) uint8 RGB photo, the most confident first; none below 20 pixels a side.

        Raises:
            ImageError: ``image`` has another shape or dtype.
        """
        require_rgb(image)
        height, width = image.shape[:2]
        table = AreaTable(image)
        boxes = self._propose(table)
        boxes = self._refine(table, boxes)
        boxes, cells = inside(boxes, width, height)
        if not len(boxes):
            return []
        scores, boxes, landmarks = read_onet(_answers(self.onet, table, cells, 48), boxes)
        passed = np.flatnonzero(scores > self.thresholds[2])[::-1]  # of equals the original takes the last
        scores, boxes, landmarks = scores[passed], boxes[passed], landmarks[passed]
        kept = suppress(boxes, scores, 0.7, smaller=True, edge=1)
        return [Face(boxes[i], float(scores[i]), landmarks[i]) for i in kept]

    def detect_large(self, image: Pixels, margin: float = 0.0) -> list[Face]:
        """Faces of at least a tenth of the photo's longer side, at a fraction of the time of ``detect``.

        Args:
            image: (H, W, 3) uint8 RGB.
            margin: black border that is put around the photo first, as a part of its longer side.

        Raises:
            ImageError: ``image`` has another shape or dtype.
        """
        require_rgb(image)
        block = max(1, max(image.shape[:2]) // _ENOUGH)
        small = reduced(image, (block, block))
        border = round(margin * max(small.shape[:2]))
        framed = np.pad(small, ((border, border), (border, border), (0, 0))) if border else small
        faces = replace(self, min_face=max(self.min_face, max(small.shape[:2]) / 10)).detect(framed)
        middle = np.float32((block - 1) / 2)
        return [
            Face((face.box - border) * np.float32(block), face.score, (face.landmarks - border) * block + middle)
            for face in faces
        ]

    def _propose(self, table: AreaTable) -> NDArray[np.float32]:
        height, width = table.shape
        found = [np.empty((0, 9), np.float32)]
        scale = _CELL / self.min_face
        while min(height, width) * scale >= _CELL:
            windows = self._level(table, (int(height * scale + 1), int(width * scale + 1)), scale)
            found.append(windows[suppress(windows[:, :4], windows[:, 4], 0.5)])
            scale *= self.factor
        windows = np.concatenate(found)
        windows = windows[suppress(windows[:, :4], windows[:, 4], 0.7)]
        sides = np.tile(windows[:, 2:4] - windows[:, :2], 2)
        return square(windows[:, :4] + windows[:, 5:] * sides)

    def _level(self, table: AreaTable, size: tuple[int, int], scale: float) -> NDArray[np.float32]:
        """The windows of one pyramid level; of a large photo in squares, for the net's layers take 0.5 KB a pixel."""
        height, width = table.shape
        counts = [-(-(side - 2) // _STRIDE) - 4 for side in size]
        steps = counts if table.sums is not None else [_LEVEL // _STRIDE] * 2
        found = []
        for row, column in itertools.product(
            *(range(0, count, step) for count, step in zip(counts, steps, strict=True))
        ):
            rows, columns = (
                range(first * _STRIDE, min((first + step - 1) * _STRIDE + _CELL, side))
                for first, step, side in zip((row, column), steps, size, strict=True)
            )
            answer = self.pnet.run(area_cells(table, (0, 0, width, height), size, (rows, columns)))[0][0]
            found.append(_windows(answer, (row, column), scale, self.thresholds[0]))
        return np.concatenate(found)

    def _refine(self, table: AreaTable, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        boxes, cells = inside(boxes, table.shape[1], table.shape[0])
        if not len(boxes):
            return boxes
        answer = _answers(self.rnet, table, cells, 24)
        scores = confidence(answer[:, 0])
        passed = scores > self.thresholds[1]
        scores, boxes, offsets = scores[passed], boxes[passed], answer[passed, 1:]
        kept = suppress(boxes, scores, 0.7)
        return square(regress(boxes[kept], offsets[kept]))


def inside(boxes: NDArray[np.float32], width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The boxes that touch the photo, and the whole-pixel part of each that lies in it.

    The first pixel is numbered 1, as in the Matlab code that MTCNN came from.
    """
    cells = boxes.astype(np.intp)
    cells[:, :2] = np.maximum(cells[:, :2], 1) - 1
    cells[:, 2:] = np.minimum(cells[:, 2:], [width, height])
    touching = (cells[:, 2:] > cells[:, :2]).all(axis=1)
    return boxes[touching], cells[touching]


def _windows(
    answer: NDArray[np.float32], first: tuple[int, int], scale: float, threshold: float
) -> NDArray[np.float32]:
    """(N, 9): box in pixels of the photo, confidence, four offsets, for each window that passes.

    ``first`` is the first window's row and column in its level.
    """
    rows, columns = np.nonzero(answer[:, :, 0] >= np.log(threshold / (1 - threshold)))
    start = np.stack([columns + first[1], rows + first[0]], axis=1).astype(np.float32) * _STRIDE
    corners = [np.floor((start + edge) / np.float32(scale)) for edge in (1, _CELL)]
    passed = answer[rows, columns]
    return np.concatenate([*corners, confidence(passed[:, :1]), passed[:, 1:]], axis=1)


def _answers(engine: Engine, table: AreaTable, cells: NDArray[np.intp], size: int) -> NDArray[np.float32]:
    """The net's answer for each crop, a bounded number at a time so that memory stays flat."""

    def crops(boxes: NDArray[np.intp]) -> NDArray[np.float32]:
        if table.sums is not None:
            return area_crops(table.sums, boxes, size)
        return np.concatenate([area_cells(table, (x0, y0, x1, y1), (size, size)) for x0, y0, x1, y1 in boxes.tolist()])

    starts = range(0, len(cells), _BATCH)
    return np.concatenate([engine.run(crops(cells[i : i + _BATCH]))[0] for i in starts])
