"""Which score is enough: from the FMR or FPIR asked for to a threshold (docs/thresholds.md)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from edgeface_runtime.checks import number
from edgeface_runtime.contract import Contract
from edgeface_runtime.errors import ContractError, UsageError

REACH = 100.0
"""How many times below the smallest measured rate a threshold is still extrapolated."""
STEP = 0.005
"""By how much one more photo raises the threshold of a small gallery, at most."""
_SMALL = 32  # photos; above, one more raises it by less than STEP on its own
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Threshold:
    """Scores that reach ``value`` are accepted."""

    value: float
    extrapolated: bool = False
    """True where the rate is smaller than any that was measured."""


@dataclass(frozen=True)
class _Point:
    far: float
    value: float


def rate_per_comparison(far: float, comparisons: int) -> float:
    """The rate 1 − (1 − far)^(1/n) at which n independent comparisons together accept falsely at ``far``.

    Raises:
        UsageError: ``far`` is not between 0 and 1.
    """
    far = number("far", far)
    if not 0 < far < 1:
        raise UsageError(f"the FMR or FPIR is {far:g}; it must lie between 0 and 1, such as 0.001")
    return -math.expm1(math.log1p(-far) / max(comparisons, 1))


def threshold_for(contract: Contract, far: float, comparisons: int | None = None) -> Threshold:
    """The score from which an impostor is accepted at most at the rate ``far``.

    The score is a continuous function of the rate, linear in z = Φ⁻¹(1 − rate): as normally distributed scores are,
    and as the tails of impostor scores nearly are. Between two measured rates it joins their thresholds; above the
    largest, that one's holds; below the smallest, down to 1/``REACH`` of it, it goes on from that threshold with the
    slope between the largest and the smallest measured rate. Tails fall off faster than that, which makes it strict.

    Args:
        contract: of the model.
        far: the FMR of one comparison, or the FPIR over a gallery.
        comparisons: how many photos the gallery holds, for the FPIR; None for the FMR of a 1:1 comparison. Of a
            gallery that one more photo would make stricter by more than ``STEP``, the threshold is raised beforehand,
            as little as that takes: those of a few photos.

    Raises:
        UsageError: ``far`` is not between 0 and 1, or the contract says too little about so small a rate.
        ContractError: the contract's thresholds are broken.
    """
    wanted = rate_per_comparison(far, comparisons or 1)
    points = _points(contract)
    if not points:
        raise _unknown(contract, "no measured thresholds")
    smallest = points[-1].far
    spread = f" in each of {comparisons} comparisons" if comparisons and comparisons > 1 else ""
    if wanted < smallest and (len(points) < 2 or wanted < smallest / REACH):
        raise _unknown(contract, f"{smallest:g} as its smallest measured rate, too far from {wanted:.2g}{spread}")
    value = _score(points, wanted)
    if value >= 1:
        raise _unknown(contract, f"no score below 1 that is enough for a rate of {wanted:.2g}{spread}")
    if comparisons is not None:
        larger = range(max(comparisons, 1) + 1, _SMALL + 1)
        ahead = (_score(points, rate_per_comparison(far, n)) - STEP * (n - comparisons) for n in larger)
        value = max(value, *ahead, -1.0)
    return Threshold(value, extrapolated=wanted < smallest)


def sure_score(threshold: Callable[[float], Threshold], rate: float, comparisons: int) -> float:
    """The score that so many comparisons of two people together reach at most at a rate, or at the least known rate.

    Args:
        threshold: of a rate for one comparison.
        rate: of all together.
        comparisons: how many.

    Raises:
        UsageError: there is no threshold for ``rate`` itself.
    """
    while True:
        try:
            return threshold(rate / max(comparisons, 1)).value
        except UsageError:
            if comparisons <= 1:
                raise
            comparisons //= 2


def _score(points: list[_Point], wanted: float) -> float:
    """The threshold for a rate, from the measured ones; with a single one, that one's at every rate."""
    if len(points) < 2 or wanted >= points[0].far:
        return points[0].value
    pairs = itertools.pairwise(points)
    above, below = next(((a, b) for a, b in pairs if wanted >= b.far), (points[0], points[-1]))
    high, low = _z(above.far), _z(below.far)
    return below.value + (below.value - above.value) * (_z(wanted) - low) / (low - high)


def _z(rate: float) -> float:
    return -_NORMAL.inv_cdf(rate)


def told_apart(value: float, limit: float, digits: int = 2) -> tuple[str, str]:
    """A value and the limit that it misses as text, with as many decimals as it takes to see which is larger.

    Args:
        value: what was measured.
        limit: what it is held against.
        digits: the fewest decimals.
    """
    while digits < 9 and value != limit and f"{value:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}", f"{limit:.{digits}f}"


def _points(contract: Contract) -> list[_Point]:
    """The measured thresholds from the largest rate to the smallest; a smaller rate never has a lower threshold."""
    points: list[_Point] = []
    try:
        entries = [(float(far), entry) for far, entry in contract.thresholds.items() if entry is not None]
        for far, entry in sorted(entries, key=lambda item: -item[0]):
            points.append(_Point(far, max(_number(entry["value"]), *(point.value for point in points), -1.0)))
            rate_per_comparison(far, 1)
    except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
        raise ContractError(f"{contract.name}: thresholds of the contract are broken: {error!r}") from error
    return points


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not finite")
    return number


def _unknown(contract: Contract, has: str) -> UsageError:
    larger = "ask for a larger far (--far) or " if contract.thresholds else ""
    return UsageError(f"the contract of {contract.name} has {has}; {larger}give a threshold (--threshold)")
