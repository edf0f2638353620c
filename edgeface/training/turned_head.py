"""Faces seen from the side: frontal faces turned about the neck's axis, on the shape of a generic head.

Photos of turned heads are rare. What a person looks like from 40 degrees can be made from a frontal photo roughly:
each pixel lies at some depth on a head, the head turns, and what comes to lie behind something else is hidden. The
shape is an ellipsoid with a nose, scaled to the points that faces are aligned to.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgeface_runtime.align import TEMPLATE, similarity

STEP = 3.0
"""Degrees between the angles that grids are made for."""
SIDE = 112
"""Side of the square that ``TEMPLATE`` and the head below are measured in."""
_CENTER = (56.0, 62.0)
_RADII = (44.0, 66.0, 52.0)
"""Of the ellipsoid, pixels across, down and in depth: a head of 15 cm where the eyes are 63 mm apart."""
_NOSE = (56.0, 68.0, 5.5, 10.0, 13.0)
"""Where it is highest, its widths across and down, its height; pixels."""
_FINE = 4
"""Places a pixel, along a row, of which is asked where they go."""


def turned(faces: Tensor, degrees: Tensor) -> Tensor:
    """Faces as they would look after their head has turned.

    Args:
        faces: (N, C, S, S), aligned.
        degrees: (N,) angle of each, on any device; to the nearest of ``STEP``. The far side is hidden, and the face is
            aligned anew, by the five points where they then are.

    Returns:
        (N, C, S, S); a face with an angle of 0 is unchanged.
    """
    steps = torch.round(degrees / STEP).long().cpu()
    chosen = torch.nonzero(steps).squeeze(1)
    if not len(chosen):
        return faces
    grids = np.stack([grid(int(step)) for step in steps[chosen]])
    chosen = chosen.to(faces.device)
    placed = torch.from_numpy(grids).to(faces.device, faces.dtype)
    if faces.shape[-1] != SIDE:
        placed = F.interpolate(placed.permute(0, 3, 1, 2), faces.shape[-2:], mode="bilinear").permute(0, 2, 3, 1)
    result = faces.clone()
    result[chosen] = F.grid_sample(faces[chosen], placed, padding_mode="border", align_corners=False)
    return result


def depth(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far in front of the neck's axis the head is at pixels of an aligned face, in pixels."""
    across, down = (x - _CENTER[0]) / _RADII[0], (y - _CENTER[1]) / _RADII[1]
    skull = _RADII[2] * np.sqrt(np.clip(1 - across**2 - down**2, 0, None))
    at_x, at_y, wide, high, rise = _NOSE
    result: NDArray[np.float64] = skull + rise * np.exp(-(((x - at_x) / wide) ** 2 + ((y - at_y) / high) ** 2) / 2)
    return result


@functools.cache
def grid(step: int) -> NDArray[np.float32]:
    """(S, S, 2) for ``grid_sample``: where the pixels of a face turned by ``step`` · ``STEP`` degrees come from."""
    angle = np.radians(step * STEP)
    cos, sin = np.cos(angle), np.sin(angle)

    def place(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        z = depth(x, y)
        return _CENTER[0] + (x - _CENTER[0]) * cos + z * sin, z * cos - (x - _CENTER[0]) * sin

    # ---- along each row: which place is seen at each fifth of a pixel, once the head has turned
    fine = np.arange(0, SIDE, 1 / (4 * _FINE))
    slots = np.arange(-SIDE // 2, SIDE * 3 // 2, 1 / _FINE)
    every = np.arange(len(slots))
    seen = np.empty((SIDE, len(slots)))
    for row in range(SIDE):
        across, front = place(fine, np.full_like(fine, row))
        order = np.argsort(front)  # what lies in front is written last
        at = np.clip(((across[order] - slots[0]) * _FINE).round().astype(int), 0, len(slots) - 1)
        line, height = np.full((2, len(slots)), np.nan)
        line[at], height[at] = fine[order], front[order]
        known = np.flatnonzero(~np.isnan(line))
        # Where nothing was seen before the turn, what lies behind goes on.
        left = np.maximum.accumulate(np.where(np.isnan(line), known[0], every))
        right = np.minimum.accumulate(np.where(np.isnan(line), known[-1], every)[::-1])[::-1]
        seen[row] = line[np.where(height[left] < height[right], left, right)]
        seen[row, : known[0]], seen[row, known[-1] + 1 :] = 0, SIDE - 1  # beyond the head: the photo's edge

    # ---- aligned again: each pixel of the result, taken back to before the alignment
    points = TEMPLATE.astype(np.float64)
    moved = np.stack([place(points[:, 0], points[:, 1])[0], points[:, 1]], 1)
    back = np.linalg.inv(np.vstack([similarity(moved.astype(np.float32)), [0, 0, 1]]))
    down, right = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    x, y = (back[index, 0] * right + back[index, 1] * down + back[index, 2] for index in (0, 1))
    row = np.clip(y.round().astype(int), 0, SIDE - 1)
    column = np.clip(((x - slots[0]) * _FINE).round().astype(int), 0, len(slots) - 1)
    pair = np.stack([seen[row, column], y], 2)
    result: NDArray[np.float32] = ((2 * pair + 1) / SIDE - 1).astype(np.float32)
    return result
