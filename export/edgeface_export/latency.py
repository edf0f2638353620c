"""Whether a file is faster than another: their calls take turns in one thread, by that thread's processor time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from edgeface_devices.bench.timing import sample, summarise
from edgeface_runtime.model import Model

CALLS = 30
FASTER = 0.95
"""A ratio above it is no gain that a user would notice, or that a second measurement would surely show."""
_WARM_UP = 3


def compare(models: Sequence[Model], *, calls: int = CALLS) -> list[float]:
    """Median processor time of embedding one face, in ms, for each of the models.

    Args:
        models: opened with one thread, so that the calling thread does all the work.
        calls: of each model that count.
    """
    size = models[0].contract.input.size
    face = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    times: list[list[float]] = [[] for _ in models]
    for turn in range(_WARM_UP + calls):
        for model, kept in zip(models, times, strict=True):
            (took,) = sample(lambda model=model: model.embed(face), calls=1, clocks=[time.thread_time_ns])  # type: ignore[misc]
            if turn >= _WARM_UP:
                kept += took
    return [summarise(kept).p50_ms.value for kept in times]
