"""Samples of a call's duration and what may be said of them. Pure: the clocks come from the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeface_devices.figures import Figure, Source

LEAST_FOR_P90 = 10
LEAST_FOR_P99 = 100
"""With fewer samples the percentile would be the largest sample, or a guess beyond it."""
_LEAST_ROUNDS = 10


@dataclass(frozen=True)
class Latency:
    """Percentiles of the duration of one call, in milliseconds."""

    p50_ms: Figure
    p90_ms: Figure | None
    """None with fewer than 10 samples."""
    p99_ms: Figure | None
    """None with fewer than 100 samples."""
    calls: int


def sample(call: Callable[[], object], *, calls: int, clocks: Sequence[Callable[[], int]]) -> list[list[float]]:
    """Durations of ``calls`` successive calls.

    Args:
        call: what is timed; its result is dropped.
        calls: how many times, at least 1.
        clocks: each gives nanoseconds from any fixed origin, as ``time.perf_counter_ns`` does.

    Returns:
        For each clock a list of ``calls`` durations in milliseconds, in the order of the calls.
    """
    durations: list[list[float]] = [[] for _ in clocks]
    for _ in range(calls):
        starts = [clock() for clock in clocks]
        call()
        # Read in reverse, so that the first clock spans the others.
        ends = [clock() for clock in reversed(clocks)][::-1]
        for kept, start, end in zip(durations, starts, ends, strict=True):
            kept.append((end - start) / 1e6)
    return durations


def summarise(samples: Sequence[float], source: Source = "measured") -> Latency:
    """Percentiles of durations in milliseconds, in any order, by linear interpolation between samples.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("no samples")
    p50, p90, p99 = (Figure(float(value), source) for value in np.percentile(samples, [50, 90, 99]))
    count = len(samples)
    return Latency(p50, p90 if count >= LEAST_FOR_P90 else None, p99 if count >= LEAST_FOR_P99 else None, count)


def spread(samples: Sequence[float], rounds: int) -> tuple[float, float] | None:
    """The 10th and 90th percentile of the medians of ``rounds`` equal parts; None with fewer than 10 parts."""
    if rounds < _LEAST_ROUNDS:
        return None
    medians = np.median(np.reshape(samples, (rounds, -1)), axis=1)
    low, high = np.percentile(medians, [10, 90])
    return float(low), float(high)
