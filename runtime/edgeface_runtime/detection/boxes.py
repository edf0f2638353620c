"""What detectors share: settings, and boxes as (N, 4) float32 x0, y0, x1, y1: overlap, suppression, O-Net's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.errors import UsageError

SMALLEST = 12
"""Pixels: no detector finds a smaller face."""
_BLOCK = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class ProposalSettings:
    """Settings of the detectors that O-Net or its like has the last word in."""

    min_face: float = 40.0
    """Smallest face to look for, in pixels of the photo; the time goes with the square of its inverse."""
    proposal: float = 0.2
    """Confidence from which a proposal is looked at, 0 to 1."""
    threshold: float = 0.7
    """Least confidence of the judging net that it is a face, 0 to 1."""
    sure: float = 0.97
    """Where no face of a photo is as confident, ``find_faces`` also looks at its quarter turns; 0: never."""

    def __post_init__(self) -> None:
        require_min_face(self.min_face)
        require_shares(proposal=self.proposal, threshold=self.threshold)


def require_min_face(value: float) -> None:
    """Raises UsageError unless a face of so many pixels can be looked for."""
    if not SMALLEST <= value < math.inf:
        raise UsageError(f"min_face is {value}; no face below {SMALLEST} pixels is found")


def require_shares(**values: float) -> None:
    """Raises UsageError unless each lies between 0 and 1."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise UsageError(f"{name} is {value}; it must lie between 0 and 1")


def overlap(
    a: NDArray[np.float32], b: NDArray[np.float32], *, smaller: bool = False, edge: int = 0
) -> NDArray[np.float32]:
    """(N, M) shared area of each pair, over its union or over the smaller of the two.

    Args:
        a: (N, 4) boxes.
        b: (M, 4) boxes.
        smaller: divide by the smaller box's area and not by the union.
        edge: 1 where a box's last pixel belongs to it, as in MTCNN's last stage.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low + edge, 0)
    shared = sides[..., 0] * sides[..., 1]
    area_a = ((a[:, 2] - a[:, 0] + edge) * (a[:, 3] - a[:, 1] + edge))[:, None]
    area_b = (b[:, 2] - b[:, 0] + edge) * (b[:, 3] - b[:, 1] + edge)
    whole = np.minimum(area_a, area_b) if smaller else area_a + area_b - shared
    return np.asarray(shared / np.maximum(whole, np.float32(1e-9)), np.float32)


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    threshold: float,
    *,
    smaller: bool = False,
    edge: int = 0,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the boxes that stay, the best first.

    A box goes when a better one that stays overlaps it by more than ``threshold`` (``overlap`` says how). Works
    through blocks, so that memory stays small however many boxes come.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[NDArray[np.intp]] = []
    while order.size:
        block, order = order[:_BLOCK], order[_BLOCK:]
        near = overlap(boxes[block], boxes[block], smaller=smaller, edge=edge) > threshold
        alive = np.ones(len(block), bool)
        for i in range(len(block)):
            if alive[i]:
                alive[i + 1 :] &= ~near[i, i + 1 :]
        kept.append(block[alive])
        if order.size:
            gone = overlap(boxes[kept[-1]], boxes[order], smaller=smaller, edge=edge) > threshold
            order = order[~gone.any(axis=0)]
    return np.concatenate(kept) if kept else order


def square(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each box grown to a square of its longer side about its centre."""
    sides = boxes[:, 2:4] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + sides * np.float32(0.5) - longer * np.float32(0.5)
    return np.concatenate([corner, corner + longer], axis=1)


def regress(boxes: NDArray[np.float32], offsets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes moved by (N, 4) offsets, given in parts of each box's width and height."""
    sides = np.tile(boxes[:, 2:4] - boxes[:, :2] + np.float32(1), 2)
    return boxes + offsets * sides


def read_onet(
    answer: NDArray[np.float32], boxes: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """O-Net's (N, 15) answer as confidences (N,), moved boxes (N, 4), landmarks (N, 5, 2) in pixels of the photo."""
    sides = boxes[:, 2:4] - boxes[:, :2] + np.float32(1)
    points = answer[:, 5:].reshape(-1, 2, 5).transpose(0, 2, 1)
    landmarks = points * sides[:, None] + boxes[:, None, :2] - np.float32(1)
    return confidence(answer[:, 0]), regress(boxes, answer[:, 1:5]), landmarks


def confidence(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits as probabilities, in 32 bits: many round to 1, and ties must stay ties to match the original."""
    return np.float32(1) / (np.float32(1) + np.exp(-logits))
