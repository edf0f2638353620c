"""Augmentation of a batch on the device it lies on.

All random numbers of a batch are drawn on the CPU for the whole batch, so that every device and every
number of processes sees the same faces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeface.training.config import AugmentConfig
from edgeface.training.devices import onto
from edgeface.training.turned_head import turned


@dataclass(frozen=True, eq=False)
class Draw:
    """The random numbers of one batch, (N,) each; ``-1…1`` unless said otherwise."""

    mirror: Tensor
    """0…1."""
    angle: Tensor
    zoom: Tensor
    shift_x: Tensor
    shift_y: Tensor
    contrast: Tensor
    brightness: Tensor
    blur: Tensor
    """0…1."""
    downscale: Tensor
    """0…1."""
    erase: Tensor
    """(N, 5), 0…1: whether, top, left, height, width."""
    turn: Tensor
    """(N, 2), 0…1: whether, and how far to which side."""

    def part(self, index: slice, device: torch.device) -> Draw:
        """The numbers of some faces of the batch, on their device."""
        columns = {name: value[index].reshape(-1, value[0].numel()) for name, value in vars(self).items()}
        packed = onto(torch.cat(list(columns.values()), 1), device)  # one copy, not one each
        widths = [column.shape[1] for column in columns.values()]
        parts = [packed[:, end - width : end] for width, end in zip(widths, accumulate(widths), strict=True)]
        return Draw(**{name: part.squeeze(1) for name, part in zip(columns, parts, strict=True)})


def draw(count: int, generator: torch.Generator) -> Draw:
    """The random numbers for ``count`` faces."""

    def both() -> Tensor:
        return torch.rand(count, generator=generator) * 2 - 1

    def unit(*more: int) -> Tensor:
        return torch.rand(count, *more, generator=generator)

    return Draw(unit(), both(), both(), both(), both(), both(), both(), unit(), unit(), unit(5), unit(2))


def augment(faces: Tensor, drawn: Draw, config: AugmentConfig) -> Tensor:
    """Mirrors, turns (in the picture and to the side), scales, shifts, recolours, blurs, coarsens and hides parts.

    Args:
        faces: (N, 3, H, W) float, normalised.
        drawn: random numbers of these N faces, on their device.
        config: how much of each.
    """
    if config.turn_prob > 0:
        degrees = config.turn_degrees * (2 * drawn.turn[:, 1] - 1)
        faces = turned(faces, degrees * (drawn.turn[:, 0] < config.turn_prob))
    faces = _warp(faces, drawn, config)
    if config.downscale_prob > 0:
        coarse = F.interpolate(F.avg_pool2d(faces, 4), size=faces.shape[-2:], mode="bilinear")
        faces = _where(drawn.downscale < config.downscale_prob, coarse, faces)
    if config.blur_prob > 0:
        soft = F.avg_pool2d(F.pad(faces, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        faces = _where(drawn.blur < config.blur_prob, soft, faces)
    contrast, brightness = 1 + config.color_jitter * drawn.contrast, config.color_jitter * drawn.brightness
    faces = faces * contrast[:, None, None, None] + brightness[:, None, None, None]
    return _erase(faces, drawn.erase, config.erase_prob) if config.erase_prob > 0 else faces


def _warp(faces: Tensor, drawn: Draw, config: AugmentConfig) -> Tensor:
    angle, zoom = math.radians(config.rotation_degrees) * drawn.angle, 1 + config.scale_jitter * drawn.zoom
    mirror = 1 - 2 * (drawn.mirror < config.flip_prob).float()
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # affine_grid's coordinates span −1…1, so a shift of a share of the side is twice that share.
    x, y = 2 * config.translate_ratio * drawn.shift_x, 2 * config.translate_ratio * drawn.shift_y
    theta = torch.stack([mirror * cos, -sin, x, mirror * sin, cos, y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def _erase(faces: Tensor, numbers: Tensor, share: float) -> Tensor:
    """Grey rectangles of a fifth to half of each side, on a share of the faces."""
    side = faces.shape[-1]
    height, width = (side * (0.2 + 0.3 * numbers[:, index]) for index in (3, 4))
    top, left = numbers[:, 1] * (side - height), numbers[:, 2] * (side - width)
    line = torch.arange(side, device=faces.device)
    rows = (line >= top[:, None]) & (line < (top + height)[:, None])
    columns = (line >= left[:, None]) & (line < (left + width)[:, None])
    hidden = rows[:, None, :, None] & columns[:, None, None, :] & (numbers[:, 0] < share)[:, None, None, None]
    return faces.masked_fill(hidden, 0.0)


def _where(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], yes, no)


def normalize(faces: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(N, H, W, 3) uint8 on any device → (N, 3, H, W) float: (pixel − mean) / std."""
    pixels = faces.permute(0, 3, 1, 2).float()
    statistics = onto(torch.tensor([mean, std]), faces.device).view(2, 3, 1, 1)
    return (pixels - statistics[0]) / statistics[1]
