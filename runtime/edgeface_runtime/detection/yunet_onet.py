"""The quickest detector: YuNet proposes at any size of photo, MTCNN's O-Net judges each face and says where it is.

Wu, Peng, Yu: "YuNet: A Tiny Millisecond-level Face Detector", 2023. Its boxes are steady enough for O-Net to need one
crop, seen as it is and mirrored; its own five points are not good enough to align by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime.detection.boxes import ProposalSettings, suppress
from edgeface_runtime.detection.pixels import Area, framed, require_rgb, resized
from edgeface_runtime.engines import Engine
from edgeface_runtime.faces import Face
from edgeface_runtime.images import Pixels

_STRIDES = np.array([8, 16, 32], np.float32)
_SEEN = 29  # pixels that the smallest face has where YuNet sees it
# Pixels of the longer and the shorter side that YuNet sees at once, and of the sides of tiles where the photo has more:
# memory does not grow with the photo.
_WHOLE, _TILE = (1408, 800), (1024, 800)
_SHARED = 160  # of them that neighbouring tiles share; what is larger is found in the photo at a quarter of the scale
_ENOUGH = 192  # pixels of the longer side in which a large face still has 20
_NEAREST = 1.5  # photos that shrink less lose no face when pixels are dropped, in a tenth of the time of a filter
# O-Net's square: in longer sides of YuNet's box, and where the middle of the box is in it.
_REACH, _MIDDLE = 0.95, np.array([0.5, 0.54], np.float32)
_CROP, _DETAIL = 48, 64
_HOPELESS = -2.2  # the logit of 0.1: what O-Net's first look gives less is no face
_OVERLAP = 0.3  # of two boxes that share more of their union, one stays; two heads that touch share less
_CLEAR = 0.5  # what a face has that is large in the photo
# So many proposals below that confidence are looked at, and what O-Net must say of them: texture can give hundreds, of
# which a few look like tiny faces.
_FAINT, _FAINT_MOST, _FAINT_SURE = 0.5, 8, 0.95
# O-Net's 15 numbers: a logit, how far the box is from its square, and where the points are in it, all x, then all y.
# These bring the last fourteen of a look, and of one at the mirror image, to shares of the square.
_FROM = np.array([0, 0, 1, 1, *[0] * 10], np.float32)
_OTHER = [3, 2, 1, 4, 6, 5, 7, 9, 8, 11, 10, 12, 14, 13]
_SIGN = np.array([-1, 1, -1, 1, *[-1] * 5, *[1] * 5], np.float32)
_AXES = [0, 1, 0, 1, *[0] * 5, *[1] * 5]
_ACROSS = np.array([0, 0, 1, 1, *[1] * 5, *[0] * 5], np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class YunetOnet(ProposalSettings):
    """YuNet takes (1, H + 1, W + 1, 3) int8, RGB less 128, with a first row and column of black."""

    yunet: Engine
    """Three maps, (1, H/8, W/8, 16) and so on: two logits, box in cells, five points in cells."""
    onet: Engine
    """(N, 3, 48, 48) → (N, 15), as in ``Mtcnn``."""
    proposal: float = 0.15
    """Confidence from which a proposal of YuNet is looked at, 0 to 1."""
    sure: float = 0.985
    """As in ``ProposalSettings``; two looks give a face that is upside down more than five do."""

    def detect(self, image: Pixels) -> list[Face]:
        """Faces in one (H, W, 3) uint8 RGB photo, the most confident first.

        Raises:
            ImageError: ``image`` has another shape or dtype.
        """
        require_rgb(image)
        tiles = self._tiles(image.shape[1::-1])
        return self._confirmed(image, [self._look(image, part, scale, self.proposal) for part, scale in tiles])

    def detect_large(self, image: Pixels, margin: float = 0.0) -> list[Face]:
        """Faces of at least a tenth of the photo's longer side, at a fraction of the time of ``detect``.

        Args:
            image: (H, W, 3) uint8 RGB.
            margin: black border that is put around the photo first, as a part of its longer side.

        Raises:
            ImageError: ``image`` has another shape or dtype.
        """
        require_rgb(image)
        longest = max(image.shape[:2])
        border = round(margin * longest)
        part = (-border, -border, longest + border, longest + border)
        scale = min(1.0, _ENOUGH / (longest + 2 * border))
        return self._confirmed(image, [self._look(image, part, scale, max(_CLEAR, self.proposal))])

    def follow(self, image: NDArray[np.uint8], face: Face) -> Face | None:
        """Where a face of the frame before is in this one, by O-Net at its last place; None where it has gone.

        Raises:
            ImageError: ``image`` has another shape or dtype.
        """
        require_rgb(image)
        found = self._judged(image, face.box)
        return found if found and found.score > self.threshold else None

    def _tiles(self, size: tuple[int, ...]) -> Iterator[tuple[Area, float]]:
        """Left, top, right and bottom of the parts that YuNet sees, and their scale: tiles, then all of it."""
        scale = min(1.0, _SEEN / self.min_face)
        while True:
            spans = []
            is_whole = max(size) * scale <= _WHOLE[0] and min(size) * scale <= _WHOLE[1]
            for length, tile in zip(size, _TILE if size[0] >= size[1] else _TILE[::-1], strict=True):
                count = 1 if is_whole else max(1, math.ceil((length * scale - _SHARED) / (tile - _SHARED)))
                side = math.ceil(min(length, (length + (count - 1) * _SHARED / scale) / count))
                spans.append(
                    [(start, start + side) for start in np.linspace(0, length - side, count).astype(int).tolist()]
                )
            for top, bottom in spans[1]:
                for left, right in spans[0]:
                    yield (left, top, right, bottom), scale
            if max(map(len, spans)) == 1:
                return
            scale /= 4

    def _look(
        self, photo: Pixels, part: Area, scale: float, least: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, 4) boxes in pixels of the photo and (N,) confidences, of what YuNet sees in a part of it."""
        wide, high = (max(1, round((part[axis + 2] - part[axis]) * scale)) for axis in (0, 1))
        left, top = max(0, part[0]), max(0, part[1])
        right, bottom = min(part[2], photo.shape[1]), min(part[3], photo.shape[0])
        x, y = round((left - part[0]) * scale), round((top - part[1]) * scale)
        size = (
            max(1, min(wide - x, round((right - left) * scale))),
            max(1, min(high - y, round((bottom - top) * scale))),
        )
        # What the photo does not fill is black, 0 less 128.
        canvas = np.full((1, -(-high // 32) * 32 + 1, -(-wide // 32) * 32 + 1, 3), -128, np.int8)
        seen = canvas.view(np.uint8)[0, y + 1 : y + 1 + size[1], x + 1 : x + 1 + size[0]]
        np.bitwise_xor(_shrunk(photo, (left, top, right, bottom), size), 128, out=seen)
        boxes, scores = _decoded(self.yunet.run(canvas), least)
        back = np.array([(right - left) / size[0], (bottom - top) / size[1]], np.float32)
        corners = (boxes.reshape(-1, 2, 2) - np.array([x, y], np.float32)) * back + np.array([left, top], np.float32)
        return corners.reshape(-1, 4), scores

    def _confirmed(self, photo: Pixels, looks: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> list[Face]:
        """The proposals that O-Net takes for faces, each once, the most confident first."""
        boxes, scores = (np.concatenate(parts) for parts in zip(*looks, strict=True))
        kept = suppress(boxes, scores, _OVERLAP)
        kept = kept[: int((scores[kept] >= _FAINT).sum()) + _FAINT_MOST]
        boxes, is_faint = boxes[kept], scores[kept] < _FAINT
        least = np.where(is_faint, max(self.threshold, _FAINT_SURE), self.threshold)
        judged = [(self._judged(photo, box), enough) for box, enough in zip(boxes, least, strict=True)]
        found = [face for face, enough in judged if face and face.score > enough]
        if len(found) < 2:
            return found
        placed, sure = np.stack([face.box for face in found]), np.array([face.score for face in found], np.float32)
        return [found[i] for i in suppress(placed, sure, _OVERLAP)]

    def _judged(self, photo: Pixels, proposed: NDArray[np.float32]) -> Face | None:
        """What O-Net makes of a (4,) box, YuNet's or its own; None where its first look sees no face.

        The mean of what it says of the crop and of its mirror image, each in a call of its own: it takes no longer
        than one for all, and LiteRT prepares its memory anew for each number of crops.
        """
        side = float((proposed[2:] - proposed[:2]).max()) * _REACH
        corner = (proposed[:2] + proposed[2:]) / 2 - np.float32(side) * _MIDDLE
        crop = _crop(photo, corner, side)
        values = crop.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(128) - np.float32(127.5 / 128)
        first = self.onet.run(values)[0][0]
        if first[0] < _HOPELESS:
            return None
        second = self.onet.run(np.ascontiguousarray(values[..., ::-1]))[0][0]
        score = sum(1 + math.tanh(logit / 2) for logit in (float(first[0]), float(second[0]))) / 4
        # Box and points of the square, x and y apart, as shares of its side.
        shares = (first[1:] + _FROM + second[_OTHER] * _SIGN + _ACROSS) / 2
        places = shares * np.float32(side) + corner[_AXES]
        return Face(places[:4], score, np.ascontiguousarray(places[4:].reshape(2, 5).T))


def _shrunk(photo: Pixels, part: Area, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A part of the photo at another size."""
    left, top, right, bottom = part
    if size == (right - left, bottom - top):
        return photo[top:bottom, left:right]
    if max((right - left) / size[0], (bottom - top) / size[1]) > _NEAREST:
        return resized(photo, part, size)
    return np.asarray(Image.fromarray(photo[top:bottom, left:right]).resize(size, Image.Resampling.NEAREST))


def _crop(photo: Pixels, corner: NDArray[np.float32], side: float) -> NDArray[np.uint8]:
    """(48, 48, 3): the square of the photo with that upper left corner."""
    shrink = max(1, int(side) // _DETAIL)
    (left, top), side = (corner / shrink).tolist(), side / shrink
    first = (math.floor(left) - 1, math.floor(top) - 1)  # a pixel around, for the filter to see
    frame = Image.fromarray(framed(photo, first, math.ceil(side) + 3, shrink))
    x, y = left - first[0], top - first[1]
    return np.asarray(frame.resize((_CROP, _CROP), Image.Resampling.BILINEAR, (x, y, x + side, y + side)))


def _decoded(maps: list[NDArray[np.float32]], threshold: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, 4) boxes in pixels of the net's input and (N,) confidences of the cells that reach ``threshold``."""
    least = math.log(threshold**2 / (1 - threshold**2))  # neither logit is lower where the geometric mean passes
    passed = [np.nonzero(np.minimum(answer[0, :, :, 0], answer[0, :, :, 1]) > least) for answer in maps]
    cells = np.concatenate([answer[0][at] for answer, at in zip(maps, passed, strict=True)])
    rows, columns = (np.concatenate(part).astype(np.float32) for part in zip(*passed, strict=True))
    strides = np.repeat(_STRIDES, [len(at[0]) for at in passed])[:, None]
    score = np.sqrt(1 / (1 + np.exp(-cells[:, :2])).prod(axis=1))
    centre = (np.stack([columns, rows], axis=1) + cells[:, 2:4]) * strides
    half = np.exp(cells[:, 4:6]) * (strides / 2)
    kept = score >= threshold
    return np.concatenate([centre - half, centre + half], axis=1)[kept], score[kept]
