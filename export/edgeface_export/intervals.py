"""95 % intervals of shares counted over pairs of photos that have people in common.

Such pairs are not independent. The variance is that of a jackknife over people, less what it counts twice, the noise of
each two people's own pairs (P. Aronow, C. Samii, V. Assenova, "Cluster-Robust Variance Estimation for Dyadic Data",
Political Analysis 23, 2015). A bootstrap over people counts that noise three times.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z = 1.959964
"""97.5 % point of the normal distribution."""


def share_interval(
    hits: NDArray[np.bool_], first: NDArray[np.int64], second: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """95 % interval of the share of hits: Wilson's, for as many independent trials as vary as much.

    Args:
        hits: (P,) True for a pair, or a photo, that counts.
        first: (P,) whose photo it is, numbered from 0.
        second: (P,) whose the pair's other photo is; None where single photos are counted.
    """
    share, people = float(hits.mean()), len(np.unique(first if second is None else np.concatenate([first, second])))
    if share in (0.0, 1.0):  # nothing varies: no more trials than people are sure
        return wilson(share, people)
    variance = mean_variance(hits - share, first, second)
    return wilson(share, min(share * (1 - share) / variance, len(hits)) if variance else people)


def mean_variance(
    residuals: NDArray[np.floating[Any]], first: NDArray[np.int64], second: NDArray[np.int64] | None = None
) -> float:
    """Variance of the mean of (P,) values of which the mean has been taken off; people as in ``share_interval``."""
    second = first if second is None else second
    across = first != second
    low, high = np.minimum(first, second), np.maximum(first, second)
    people = int(high.max()) + 1
    of_person = np.bincount(first, residuals, people)
    of_person += np.bincount(second[across], residuals[across], people)
    _, pair = np.unique(low * people + high, return_inverse=True)
    of_pair = np.bincount(pair, residuals)
    between = np.bincount(pair[across], residuals[across], len(of_pair))
    alone, known = float(of_pair @ of_pair), len(np.unique(np.concatenate([first, second])))
    return sum_variance(float(of_person @ of_person - between @ between), alone, known) / len(residuals) ** 2


def sum_variance(shared: float, alone: float, people: int) -> float:
    """Variance of a sum over pairs of people, made good for there being few of them.

    Taking the mean off takes 4 of as many parts off what people share as there are people; and where they are few,
    Student's distribution is wider than the normal one (E. Cornish, R. Fisher, 1938: its first term).

    Args:
        shared: sum over people of the square of each one's sum, less what each two people's own pairs add to it.
        alone: sum over each two people of the square of their pairs' sum: the variance, were they independent.
        people: how many.
    """
    wider = 1 + (Z * Z + 1) / (4 * max(people - 1, 1))
    return (max(shared - alone, 0.0) * people / max(people - 4, 1) + alone) * wider**2


def wilson(share: float, count: float) -> tuple[float, float]:
    """95 % interval of a share of ``count`` independent trials (E. B. Wilson, JASA 22, 1927)."""
    middle, width = 1 + Z * Z / count, Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return (share + Z * Z / (2 * count) - width) / middle, (share + Z * Z / (2 * count) + width) / middle
