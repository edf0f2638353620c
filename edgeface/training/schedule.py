"""What a run does when: rate, margin, size and order of the faces, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeface.training.config import TrainConfig
from edgeface.training.training_state import Epoch


def learning_rate(progress: float, config: TrainConfig) -> float:
    """Rate at a share 0…1 of the run: a linear rise over ``warmup_ratio``, then half a cosine down to 0.

    With ``progressive_size`` that happens once for each size, at ``full_size_lr_scale`` of the rate for the full one:
    faces that grow are another scale to the filters, which a rate that has died away does not let them learn.
    """
    peak, small = config.optim.lr, small_epochs(config) / config.schedule.epochs
    if small and progress >= small:
        progress, peak = (progress - small) / (1 - small), config.schedule.full_size_lr_scale * config.optim.lr
    elif small:
        progress /= small
    if progress < config.schedule.warmup_ratio:
        return peak * (0.04 + 0.96 * progress / config.schedule.warmup_ratio)
    return (
        peak
        * 0.5
        * (1 + math.cos(math.pi * (progress - config.schedule.warmup_ratio) / (1 - config.schedule.warmup_ratio)))
    )


def margin_at(progress: float, config: TrainConfig) -> float:
    """Margin in radians at a share 0…1 of the run: a linear rise over ``margin_warmup_ratio``."""
    return (
        config.head.margin
        if progress >= config.head.margin_warmup_ratio
        else config.head.margin * progress / config.head.margin_warmup_ratio
    )


def small_epochs(config: TrainConfig) -> int:
    """How many epochs, the first ones, see faces of ``progressive_size`` pixels."""
    return (
        math.ceil(config.schedule.progressive_ratio * config.schedule.epochs) if config.schedule.progressive_size else 0
    )


def side_at(epoch: int, config: TrainConfig) -> int:
    """Side in pixels of the faces in an epoch, counted from 0: ``progressive_size`` first, then the full size."""
    return config.schedule.progressive_size if epoch < small_epochs(config) else config.model.input_size


def epoch_order(
    rows: NDArray[np.int64], labels: NDArray[np.int64], config: TrainConfig, epoch: int
) -> NDArray[np.int64]:
    """The rows of one pass: a permutation, or drawn with each identity equally likely."""
    rng = np.random.default_rng((config.system.seed, epoch))
    if not config.data.balanced_sampling:
        return rng.permutation(rows)
    known = rows[rows < len(labels)]
    counts = np.bincount(labels[known])
    weights = np.ones(len(rows)) / max(1, len(np.unique(labels[known])))
    weights[: len(known)] = 1 / counts[labels[known]]
    return rng.choice(rows, len(rows), p=weights / weights.sum())


def step_seed(seed: int, epoch: int, step: int) -> int:
    """A seed for one step's augmentation, the same in every process and after every resume."""
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0])


def stalled(curves: Sequence[Epoch], patience: int) -> bool:
    """True when the best epoch lies ``patience`` epochs back."""
    if not patience or not curves:
        return False
    best = max(range(len(curves)), key=lambda index: curves[index].score())
    return len(curves) - 1 - best >= patience
