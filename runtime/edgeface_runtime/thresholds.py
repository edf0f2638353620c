"""Which score is enough: from the false-accept rate asked for to a threshold (docs/thresholds.md)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from edgeface_runtime.checks import number
from edgeface_runtime.contract import Contract
from edgeface_runtime.errors import ContractError, UsageError

REACH = 100.0
"""How many times below the smallest measured rate a threshold is still extrapolated."""


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
    high: float


def rate_per_comparison(far: float, comparisons: int) -> float:
    """The rate 1 − (1 − far)^(1/n) at which n independent comparisons together accept falsely at ``far``.

    Raises:
        UsageError: ``far`` is not between 0 and 1.
    """
    far = number("far", far)
    if not 0 < far < 1:
        raise UsageError(f"a false-accept rate is {far:g}; it must lie between 0 and 1, such as 0.001")
    return -math.expm1(math.log1p(-far) / max(comparisons, 1))


def threshold_for(contract: Contract, far: float, comparisons: int = 1) -> Threshold:
    """The score from which ``comparisons`` comparisons together accept an impostor at most at the rate ``far``.

    Between two measured rates the threshold is interpolated linearly in the logarithm of the rate; above the
    largest that one's threshold holds. Below the smallest, down to 1/``REACH`` of it, it starts from the upper end
    of the smallest one's interval and rises on as between the two smallest. The tails of scores fall off ever faster,
    so that both are on the strict side.

    Raises:
        UsageError: ``far`` is not between 0 and 1, or the contract says too little about so small a rate.
        ContractError: the contract's thresholds are broken.
    """
    wanted = rate_per_comparison(far, comparisons)
    points = _points(contract)
    if not points:
        raise _unknown(contract, "no measured thresholds")
    if wanted >= points[0].far:
        return Threshold(points[0].value)
    for above, below in itertools.pairwise(points):
        if wanted >= below.far:
            part = math.log(above.far / wanted) / math.log(above.far / below.far)
            return Threshold(above.value + part * (below.value - above.value))
    last = points[-1]
    spread = f" in each of {comparisons} comparisons" if comparisons > 1 else ""
    if len(points) < 2 or wanted < last.far / REACH:
        raise _unknown(contract, f"{last.far:g} as its smallest measured rate, too far from {wanted:.2g}{spread}")
    before = points[-2]
    slope = (last.value - before.value) / math.log(before.far / last.far)
    value = last.high + slope * math.log(last.far / wanted)
    if value >= 1:
        raise _unknown(contract, f"no score below 1 that is enough for a rate of {wanted:.2g}{spread}")
    return Threshold(value, extrapolated=True)


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
            value = max(_number(entry["value"]), *(point.value for point in points), -1.0)
            high = entry.get("high")
            points.append(_Point(far, value, value if high is None else max(value, _number(high))))
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
    return UsageError(
        f"the contract of {contract.name} has {has}; ask for a larger far (--far) or give a threshold (--threshold)"
    )
