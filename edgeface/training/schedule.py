"""What a run does when: rate, margin, size and order of the faces; its epochs, how long they take, when it ends."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeface.progress import Reporter
from edgeface.training.config import TrainConfig
from edgeface_runtime import UsageError
from edgeface_runtime.checks import build, read_text, shown
from edgeface_runtime.files import replacing

T = TypeVar("T")
CURVES = "curves.csv"
_FIRST_STEPS = 20
"""Of the first epoch, after which the time of the whole run is told."""


@dataclass(frozen=True)
class Epoch:
    """One row of ``curves.csv``."""

    epoch: int
    train_loss: float
    train_accuracy: float | None
    """Of the head on augmented faces, with the margin; None where nothing is classified."""
    train_cosine: float | None
    """Mean cosine to the teachers' outputs; None without one."""
    val_loss: float | None
    val_accuracy: float | None
    val_cosine: float | None
    lr: float
    margin: float
    side: int
    """Of the faces of this epoch, trained on and validated on, in pixels."""
    seconds: float | None = field(default=None, compare=False, repr=False)
    """How long it took, validation included; None in runs of an older edgeface."""

    def score(self) -> tuple[float, ...]:
        """What makes an epoch the best: full size, validation accuracy (or cosine to the teachers), the lower loss."""
        if self.val_loss is None:
            return self.side, self.epoch
        first = self.val_cosine if self.val_accuracy is None else self.val_accuracy
        return self.side, first or 0.0, -self.val_loss


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


def best_epoch(curves: Sequence[Epoch]) -> Epoch | None:
    """The epoch whose net a run keeps; None where there is none yet."""
    return max(curves, key=Epoch.score, default=None)


def stalled(curves: Sequence[Epoch], patience: int) -> bool:
    """True when the best epoch lies ``patience`` epochs back."""
    best = best_epoch(curves)
    return bool(patience) and best is not None and curves[-1].epoch - best.epoch >= patience


class Clock:
    """How long epochs take, and how long those that are left will, by the faces' sizes."""

    def __init__(self, config: TrainConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts with the first epoch.

        Args:
            config: of the run.
            clock: gives seconds.
        """
        self.config, self.clock = config, clock
        self.began = clock()

    def lap(self) -> float:
        """Seconds since the last call, or since the start."""
        began, self.began = self.began, self.clock()
        return self.began - began

    def work(self, first: int, last: int) -> int:
        """Pixels of a face through the epochs from ``first`` up to ``last``, counted from 0."""
        return sum(side_at(epoch, self.config) ** 2 for epoch in range(first, last))

    def left(self, curves: Sequence[Epoch]) -> float | None:
        """Seconds that the rest of the run takes at most (it may stop early); None before an epoch was timed."""
        timed = [row for row in curves if row.seconds is not None]
        done = sum(row.side**2 for row in timed)
        rest = self.work(len(curves), self.config.schedule.epochs)
        return rest * sum(row.seconds or 0.0 for row in timed) / done if done else None

    def rest(self, curves: Sequence[Epoch]) -> str:
        """``left`` to be put behind a line: ``, 12 min left``, or nothing."""
        left = self.left(curves)
        return f", {in_words(left)} left" if left else ""

    def track(self, items: Sequence[T], curves: Sequence[Epoch], reporter: Reporter) -> Iterator[T]:
        """The steps of the next epoch, while the reporter shows how many are done and what is left of the run."""
        epochs, began = self.config.schedule.epochs, 0.0
        for step, item in enumerate(reporter.track(items, f"epoch {len(curves) + 1}/{epochs}{self.rest(curves)}")):
            # Without the first step, which compiles and allocates; and from one look at the loss to the next, since a
            # GPU is behind in between.
            began = self.clock() if step == 1 else began
            if step == _FIRST_STEPS + 1 and not curves:
                epoch = (self.clock() - began) / _FIRST_STEPS * len(items) / self.work(len(curves), len(curves) + 1)
                reporter.say(f"about {in_words(epoch * self.work(len(curves), epochs))} in all, validation not counted")
            yield item


def in_words(seconds: float) -> str:
    """A time as ``40 s``, ``12 min`` or ``3 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def write_curves(curves: Sequence[Epoch], path: Path) -> None:
    """Writes the curves as CSV, whole or not at all."""
    with replacing(path) as beside, beside.open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=[item.name for item in fields(Epoch)])
        table.writeheader()
        table.writerows(asdict(row) for row in curves)


def read_curves(path: Path) -> list[Epoch]:
    """The curves that ``write_curves`` wrote; empty where no epoch is done.

    Raises:
        UsageError: damaged.
    """
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(read_text(path).splitlines()))
    except csv.Error as error:
        raise UsageError(f"{shown(path)}: not CSV: {error}") from error
    return [
        build(Epoch, {key: _value(text) for key, text in row.items()}, f"{shown(path)}: epoch {number}")
        for number, row in enumerate(rows, 1)
    ]


def _value(text: object) -> object:
    """A cell of ``curves.csv``: a whole number, a number, nothing, or what it says."""
    for kind in (int, float):
        try:
            return kind(str(text))
        except ValueError:
            continue
    return text or None
