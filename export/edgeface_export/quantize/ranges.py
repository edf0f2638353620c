"""Activation ranges for static int8, from calibration faces: one definition of each method for all formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import ModelError

Range = tuple[float, float]
"""The least and the greatest value that a tensor's 8 bits tell apart."""

Runs = Callable[[], Iterable[Mapping[str, NDArray[np.float32]]]]
"""Runs the model over the calibration faces anew, one face a step: tensor → its values."""

BINS = 2048
LEVELS = 256
"""Numbers that 8 bits can tell apart."""
BIAS_LIMIT = 2**30
"""The largest bias that int8 files may hold: their sums of products have 32 bits and need the rest."""
DEAD = 1e-8
"""A tensor with no value beyond is taken for zeros."""
SAMPLED = 16384
"""About how many values of a tensor are counted of each face."""
OUTSIDE = 1e-4
"""The share of values that the percentile method cuts off, half of it at each end."""
_TRIED = 49
"""How many narrowings the entropy and the mse method compare."""


@dataclass(frozen=True, eq=False)
class Spread:
    """How the values of one tensor lie over all calibration faces."""

    low: float
    high: float
    mean_low: float
    """Mean over the faces of each face's least value."""
    mean_high: float
    counts: NDArray[np.int64]
    """(BINS,) values in equal steps from ``low`` to ``high``."""


def observe(runs: Runs) -> dict[str, Spread]:
    """The spread of each tensor. The model is run twice: first for the ends, then for what lies between.

    Raises:
        ModelError: a tensor whose values are not finite.
    """
    ends: dict[str, list[Range]] = {}
    for values in runs():
        for name, value in values.items():
            found = float(value.min()), float(value.max())
            if not np.isfinite(found).all():
                raise ModelError(
                    f"{name}: its values are not finite, and int8 has no range for them. A max-pool with padding is a "
                    "cause: pad with zeros after ReLU, and pool without padding"
                )
            ends.setdefault(name, []).append(found)
    low = {name: min(pair[0] for pair in pairs) for name, pairs in ends.items()}
    high = {name: max(pair[1] for pair in pairs) for name, pairs in ends.items()}
    counts = {name: np.zeros(BINS, np.int64) for name in ends}
    for values in runs():
        for name, value in values.items():
            step = _step(low[name], high[name])
            # Of a large tensor every few values are enough; an odd stride falls on all columns of a map.
            some = value.reshape(-1)[:: value.size // SAMPLED | 1]
            places = ((some - np.float32(low[name])) * np.float32(1 / step)).astype(np.int32)
            counts[name] += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)
    means = {name: np.mean(pairs, axis=0) for name, pairs in ends.items()}
    return {
        name: Spread(low[name], high[name], float(means[name][0]), float(means[name][1]), counts[name]) for name in ends
    }


def minmax(spread: Spread) -> Range:
    """From the least to the greatest value of all faces: nothing is cut off, one odd face widens the steps."""
    return spread.low, spread.high


def moving_average(spread: Spread) -> Range:
    """From the mean of each face's least value to the mean of each face's greatest."""
    return spread.mean_low, spread.mean_high


def percentile(spread: Spread) -> Range:
    """Without the outermost ``OUTSIDE`` of the values."""
    share = np.cumsum(spread.counts) / spread.counts.sum()
    first = int(np.searchsorted(share, OUTSIDE / 2, side="right"))
    last = int(np.searchsorted(share, 1 - OUTSIDE / 2))
    step = (spread.high - spread.low) / BINS
    return spread.low + first * step, spread.low + (last + 1) * step


def entropy(spread: Spread) -> Range:
    """The narrowing whose 8-bit histogram tells least apart from the whole one.

    Values beyond ±t are counted at ±t, and the t with the least Kullback–Leibler divergence is taken
    (S. Migacz, 8-bit inference with TensorRT, GTC 2017), here for ranges that need not be symmetric.
    """
    counts = spread.counts.copy()
    step = _step(spread.low, spread.high)
    zero = int(-spread.low / step)
    if 0 <= zero < BINS:
        # Half of what a ReLU gives is zero, which every range holds exactly: it must not decide.
        counts[zero] = counts[max(zero - 1, 0) : zero + 2].min()
    return min(_narrowings(spread), key=lambda ends: _divergence(counts, *_bins(spread, ends)))


def mse(spread: Spread) -> Range:
    """The narrowing with the least mean squared error: of rounding inside, of clipping outside."""
    edges = np.linspace(spread.low, spread.high, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2

    def error(ends: Range) -> float:
        step = (ends[1] - ends[0]) / (LEVELS - 1)
        # Rounding errs evenly within a step, with a variance of step² / 12; clipping by the whole distance.
        beyond = np.maximum(np.maximum(ends[0] - middles, middles - ends[1]), 0)
        return float((spread.counts * np.where(beyond > 0, beyond**2, step**2 / 12)).sum())

    return min(_narrowings(spread), key=error)


def _narrowings(spread: Spread) -> list[Range]:
    """The range cut at ±t, for t from what is furthest from zero down to a sixteenth of it, in equal ratios."""
    bounds = max(-spread.low, spread.high) * 2.0 ** np.linspace(0, -4, _TRIED)
    ends = ((max(spread.low, -bound), min(spread.high, bound)) for bound in bounds.tolist())
    # Where all values have one sign, the end near zero stays.
    return [(min(low, spread.high), max(high, spread.low)) for low, high in ends]


def _step(low: float, high: float) -> float:
    """Width of a bin; any will do where there is but one value."""
    step = (high - low) / BINS
    return step if step > 1e-30 else 1.0


def _bins(spread: Spread, ends: Range) -> tuple[int, int]:
    step = _step(spread.low, spread.high)
    first, last = (round((end - spread.low) / step) for end in ends)
    return min(max(first, 0), BINS - LEVELS), max(min(last, BINS), LEVELS)


def _divergence(counts: NDArray[np.int64], first: int, last: int) -> float:
    """Of the bins ``first`` to ``last``, with what lies outside at their ends, from their 8-bit rendering."""
    if last - first < LEVELS:
        return float("inf")
    inside = counts[first:last].astype(float)
    whole = inside.copy()
    whole[0] += counts[:first].sum()
    whole[-1] += counts[last:].sum()
    level = np.arange(len(inside)) * LEVELS // len(inside)
    filled = inside > 0
    share = np.bincount(level, inside, LEVELS) / np.maximum(np.bincount(level, filled, LEVELS), 1)
    rendered = np.where(filled, share[level], 0)
    here = whole > 0
    # A filled end bin of nothing but outliers is rendered as nothing: a divergence without bound, so a large one.
    p, q = whole[here] / whole.sum(), np.maximum(rendered[here] / max(rendered.sum(), 1), 1e-12)
    return float((p * np.log(p / q)).sum())


METHODS: dict[str, Callable[[Spread], Range]] = {
    "moving-average": moving_average,
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def ranges(spreads: Mapping[str, Spread], method: str) -> dict[str, Range]:
    """Tensor → its range by one of ``METHODS``; 0 to 1 where all values are 0.

    The few channels inside an attention block may all lie below a ReLU. A range of nothing would give a scale so small
    that LiteRT's XNNPACK does not open the file, and any holds a 0.
    """
    return {
        name: METHODS[method](spread) if max(-spread.low, spread.high) > DEAD else (0.0, 1.0)
        for name, spread in spreads.items()
    }


def channel_scales(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """What int8 files multiply a channel's whole numbers with, for channels on ``axis``; the other sides are 1."""
    others = tuple(side for side in range(weights.ndim) if side != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    # A channel of zeros would get a scale of 0, which weights are divided by.
    return np.asarray(np.maximum(largest, np.finfo(np.float32).tiny) / 127, np.float32)


def refuse_clipped(layer: str, bias: NDArray[np.int32]) -> None:
    """Raises where a bias of an int8 file was cut to what 32 bits hold.

    Raises:
        ModelError: a value at either end of int32.
    """
    ends = np.iinfo(np.int32)
    if clipped := int(((bias == ends.min) | (bias == ends.max)).sum()):
        raise ModelError(f"{layer}: {clipped} of its biases do not fit 32 bits in int8; export int8-weights instead")


def rounded(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Weights as int8 files hold them: symmetric, one scale for each channel; the channels lie on ``axis``."""
    scale = channel_scales(weights, axis)
    return np.asarray(np.round(weights / scale) * scale, np.float32)
