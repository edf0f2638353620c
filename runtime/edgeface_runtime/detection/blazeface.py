"""The detector for devices: proposals from two small single-shot nets, landmarks from MTCNN's last net.

Bazarevsky et al.: "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019, in MediaPipe's
full-range and short-range forms. The first finds all but a few faces that fill the photo, which the second finds;
what is small in a large photo is looked for in tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.detection.boxes import ProposalSettings, read_onet, square, suppress
from edgeface_runtime.detection.pixels import area_crops, framed, require_rgb, resized, running_sums
from edgeface_runtime.engines import Engine
from edgeface_runtime.faces import Face
from edgeface_runtime.images import Pixels

_Grid = tuple[tuple[int, int], ...]
_NEAR_GRID: _Grid = ((8, 2), (16, 6))  # stride, anchors a cell
_WIDE_GRID: _Grid = ((4, 1),)
_REACH = 16  # a tile's side, in smallest faces: 192 / 16 = 12 pixels a face, where the net still finds most
_SEEN = 2  # neighbouring tiles share this many smallest faces, so that none is cut by both
_AROUND = 0.85  # half the square in which a face is looked at, in sides of its proposal
_NEARBY = 0.55  # the same for a face that was there a frame ago
_DETAIL = 64  # a face is looked at in this many to twice as many pixels a side: O-Net sees 48
_NEAR = 0.5  # the short-range net gives every upright face more; what has less seldom is one, and costs time
_HOPELESS = 0.1  # O-Net's first look below this: no face
# BlazeFace's boxes against those that O-Net learnt from: part of the side to grow, and to move up.
_GROW, _RAISE = np.float32(1.05), np.float32(0.05)
# Scale and shift, in parts of the side, of the crops whose landmarks are averaged: one look is off by twice as much.
_LOOKS = np.array([(0.94, 0.05, 0.05), (0.94, -0.05, 0.05), (1.06, 0.05, -0.05), (1.06, -0.05, -0.05)], np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlazeFace(ProposalSettings):
    """BlazeFace's two nets take (1, side, side, 3) float32, (x - 127.5) / 127.5; ``onet`` is MTCNN's."""

    near: Engine
    """Short range: (1, 128, 128, 3) → (1, 896, 16), (1, 896, 1)."""
    wide: Engine
    """Full range: (1, 192, 192, 3) → (1, 2304, 16), (1, 2304, 1)."""
    onet: Engine
    """(N, 3, 48, 48) → (N, 15), as in ``Mtcnn``."""
    proposal: float = 0.2
    """Confidence from which a proposal of BlazeFace is looked at, 0 to 1; of the short-range net, at least 0.5."""

    def detect(self, image: Pixels) -> list[Face]:
        """Faces in one (H, W, 3) uint8 RGB photo, the most confident first.

        Raises:
            ImageError: ``image`` has another shape or dtype.
        """
        require_rgb(image)
        tiles = list(self._tiles(image.shape[1::-1]))
        found = [_look(self.wide, _WIDE_GRID, image, tile, self.proposal) for tile in tiles]
        refused: set[bytes] = set()
        if len(tiles) == 1 and (faces := self._confirmed(image, found, refused)):
            return faces  # the common case, kept short: the second net costs a third of the first
        found.append(_look(self.near, _NEAR_GRID, image, tiles[0], max(_NEAR, self.proposal)))
        return self._confirmed(image, found, refused)

    def detect_large(self, image: Pixels, margin: float = 0.0) -> list[Face]:
        """Faces of at least a tenth of the photo's longer side, at a third of the time of ``detect`` or less.

        Args:
            image: (H, W, 3) uint8 RGB.
            margin: black border that is put around the photo first, as a part of its longer side.

        Raises:
            ImageError: ``image`` has another shape or dtype.
        """
        require_rgb(image)
        border = round(margin * max(image.shape[:2]))
        framed = (-border, -border, max(image.shape[:2]) + 2 * border)
        return self._confirmed(image, [_look(self.near, _NEAR_GRID, image, framed, max(_NEAR, self.proposal))], set())

    def _confirmed(self, photo: Pixels, found: list[NDArray[np.float32]], refused: set[bytes]) -> list[Face]:
        """The proposals that O-Net takes for faces, each once, the most confident first; others go to ``refused``."""
        proposals = np.concatenate(found)
        faces = []
        for box in proposals[suppress(proposals[:, :4], proposals[:, 4], 0.3), :4]:
            if box.tobytes() not in refused:
                if face := self._settle(photo, box):
                    faces.append(face)
                else:
                    refused.add(box.tobytes())
        if not faces:
            return []
        boxes, scores = np.stack([face.box for face in faces]), np.array([face.score for face in faces], np.float32)
        return [faces[i] for i in suppress(boxes, scores, 0.5, smaller=True)]

    def _tiles(self, size: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
        """Left, top and side of squares that cover the photo: one for all of it, then smaller ones.

        A level finds faces of one to two times its smallest whole in some tile; sides at most halve between levels,
        so no size is lost.
        """
        longest, smallest = max(size), _REACH * self.min_face
        levels = max(0, math.ceil(math.log2(longest / smallest)))
        for level in range(levels + 1):
            side = round(longest * (smallest / longest) ** (level / max(levels, 1))) if level else longest
            step = side - _SEEN * side // _REACH
            counts = [1 + max(0, -(-(length - side) // step)) for length in size]
            for top in np.linspace(0, max(0, size[1] - side), counts[1]).astype(int):
                for left in np.linspace(0, max(0, size[0] - side), counts[0]).astype(int):
                    yield int(left), int(top), side

    def follow(self, image: NDArray[np.uint8], face: Face) -> Face | None:
        """Where a face of the frame before is in this one: one look of O-Net at its last place; None where it has gone.

        Raises:
            ImageError: ``image`` has another shape or dtype.
        """
        require_rgb(image)
        view = _View(self.onet, image, face.box, _NEARBY)
        scores, boxes, landmarks = view.look(square(view.inside(face.box)))
        return view.face(scores, boxes, landmarks) if scores[0] > self.threshold else None

    def _settle(self, photo: Pixels, box: NDArray[np.float32]) -> Face | None:
        """One proposal looked at by O-Net, first as it is, then four times through the moved box; None if no face."""
        view = _View(self.onet, photo, box, _AROUND)
        start = square(view.inside(box))
        lifted = start - np.array([0, 1, 0, 1], np.float32) * _RAISE * (start[:, 2:3] - start[:, :1])
        scores, moved, _ = view.look(_varied(lifted, np.array([[_GROW, 0, 0]], np.float32)))
        if scores[0] < _HOPELESS:
            return None
        scores, boxes, landmarks = view.look(_varied(square(moved), _LOOKS))
        return view.face(scores, boxes, landmarks) if float(scores.mean()) > self.threshold else None


class _View:
    """The pixels around a box, shrunk by a whole factor, for looks of O-Net."""

    def __init__(self, onet: Engine, photo: Pixels, box: NDArray[np.float32], around: float) -> None:
        side = float((box[2:] - box[:2]).max())
        self.onet, self.shrink = onet, max(1, int(side) // _DETAIL)
        # A whole number of blocks, so that each stays the same block wherever the photo's edge cuts the square.
        corner = np.floor(((box[:2] + box[2:]) / 2 - around * side) / self.shrink).astype(np.intp)
        self.reach = math.ceil(2 * around * side / self.shrink) + 1
        left, top = corner.tolist()
        self.sums = running_sums(framed(photo, (left, top), self.reach, self.shrink))
        self.origin = (corner * self.shrink).astype(np.float32)

    def inside(self, box: NDArray[np.float32]) -> NDArray[np.float32]:
        """(1, 4): a box of the photo, in the view."""
        return np.asarray((box.reshape(1, 4) - np.tile(self.origin, 2)) / self.shrink, np.float32)

    def look(self, squares: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """What ``read_onet`` gives of (N, 4) squares of the view."""
        cells = np.rint(squares).astype(np.intp) - np.array([1, 1, 0, 0])  # the first pixel is numbered 1
        cells = np.clip(cells, 0, self.reach)
        cells[:, 2:] = np.maximum(cells[:, 2:], 1)
        cells[:, :2] = np.minimum(cells[:, :2], cells[:, 2:] - 1)
        return read_onet(self.onet.run(area_crops(self.sums, cells, 48))[0], squares)

    def face(self, scores: NDArray[np.float32], boxes: NDArray[np.float32], landmarks: NDArray[np.float32]) -> Face:
        """The mean of looks, in the photo."""
        points = landmarks.mean(axis=0) * self.shrink + (self.shrink - 1) / 2 + self.origin
        corners = boxes.mean(axis=0).reshape(2, 2) * self.shrink + self.origin
        return Face(corners.reshape(4).astype(np.float32), float(scores.mean()), points.astype(np.float32))


def _varied(squares: NDArray[np.float32], looks: NDArray[np.float32]) -> NDArray[np.float32]:
    """One square (1, 4) scaled and shifted (N, 3) in parts of its side: (N, 4)."""
    side = squares[:, 2:3] - squares[:, :1]
    centre = (squares[:, :2] + squares[:, 2:]) / 2 + looks[:, 1:] * side
    half = looks[:, :1] * side / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _look(net: Engine, grid: _Grid, photo: Pixels, tile: tuple[int, int, int], threshold: float) -> NDArray[np.float32]:
    """(N, 5): boxes in pixels of the photo and confidences, of what the net sees in one square of it.

    What of the square lies outside the photo is black, as much on either side.
    """
    size = int(net.input_shape[1] or 0)
    left, top, side = tile
    right, bottom = min(left + side, photo.shape[1]), min(top + side, photo.shape[0])
    left, top = max(0, left), max(0, top)
    wide, high = (max(1, round((end - start) * size / side)) for start, end in ((left, right), (top, bottom)))
    canvas = np.full((1, size, size, 3), -1, np.float32)
    x, y = (size - wide) // 2, (size - high) // 2
    view = resized(photo, (left, top, right, bottom), (wide, high)).astype(np.float32)
    canvas[0, y : y + high, x : x + wide] = view / np.float32(127.5) - np.float32(1)
    regressed, logits = sorted(net.run(canvas), key=lambda output: -output.shape[-1])
    passed = np.flatnonzero(logits[0, :, 0] > np.log(threshold / (1 - threshold)))
    centre = regressed[0, passed, :2] + _anchors(size, grid)[passed]
    half = regressed[0, passed, 2:4] / 2
    corners = np.stack([centre - half, centre + half], axis=1)
    scale = np.array([(right - left) / wide, (bottom - top) / high], np.float32)
    boxes = (corners - np.array([x, y], np.float32)) * scale + np.array([left, top], np.float32)
    scores = 1 / (1 + np.exp(-logits[0, passed]))
    return np.concatenate([boxes.reshape(-1, 4), scores], axis=1).astype(np.float32)


@cache
def _anchors(size: int, grid: _Grid) -> NDArray[np.float32]:
    """(N, 2) centres of all anchors, in pixels of the net's input, in the order of its outputs."""
    layers = []
    for stride, count in grid:
        middles = (np.arange(size // stride, dtype=np.float32) + np.float32(0.5)) * stride
        y, x = np.meshgrid(middles, middles, indexing="ij")
        layers.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), count, axis=0))
    return np.concatenate(layers)
