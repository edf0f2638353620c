"""Which of some photos are alike: average linkage, with care for two people who look alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GROUP = 3
"""Photos; fewer that are alike may be of one moment."""
TWO_PEOPLE = 0.6
"""Photos of two groups score less than this share of what they score within the groups, where they show two people.
The least share by which, of CelebA and LFW, each person is told from the five most similar people under the same name,
ten photos each. One person's ten photos are taken for two people's in 1.0 % of names then, and in 0.8 % by 0.5."""


def alike(scores: NDArray[np.float32], known: int, least: float) -> NDArray[np.intp]:
    """Groups of photos that are alike.

    Average linkage: the two groups whose photos have the highest mean score become one, while that is ``enough``. A
    chain of pairs would join two people by the one pair of photos that by chance are alike.

    Args:
        scores: (N, N) of the photos with each other, 1 on the diagonal.
        known: the first so many photos are one group.
        least: a mean score.

    Returns:
        (N,) of each photo the least index in its group.
    """
    groups = np.arange(len(scores))
    groups[:known] = 0
    sums = scores.astype(np.float64)
    sizes = np.ones(len(scores))

    def join(into: int, other: int) -> None:
        sums[into] += sums[other]
        sums[:, into] += sums[:, other]
        sums[other] = sums[:, other] = -np.inf
        sizes[into] += sizes[other]
        groups[groups == groups[other]] = groups[into]

    for other in range(1, known):
        join(0, other)
    for _ in range(len(scores) - max(known, 1)):
        means = sums / np.outer(sizes, sizes)
        if (sizes >= GROUP).sum() > 1:
            root = np.sqrt(within(sums.diagonal(), sizes)) * (sizes >= GROUP)
            means[means < TWO_PEOPLE * np.outer(root, root)] = -np.inf
        np.fill_diagonal(means, -np.inf)
        into, other = sorted(divmod(int(means.argmax()), len(means)))
        if means[into, other] < least:
            break
        join(into, other)
    return groups


def enough(scores: NDArray[np.float32], a: NDArray[np.intp], b: NDArray[np.intp], least: float) -> float:
    """The mean score from which two groups of photos show one person.

    Brothers reach ``least`` with each other, but each looks much more like himself.

    Args:
        scores: (N, N) of the photos with each other.
        a: rows of one group.
        b: rows of the other.
        least: what any two groups must reach.
    """
    counts = np.array([len(a), len(b)])
    if counts.min() < GROUP:
        return least
    totals = np.array([scores[np.ix_(part, part)].sum() for part in (a, b)])
    return max(least, TWO_PEOPLE * float(np.sqrt(within(totals, counts).prod())))


def within(totals: NDArray[np.floating], counts: NDArray[np.number]) -> NDArray[np.float64]:
    """(G,) mean scores of the photos of each group with each other, each with itself left out; 0 for one photo.

    Args:
        totals: (G,) sums of all scores within each group.
        counts: (G,) photos of each.
    """
    return np.asarray(np.maximum((totals - counts) / np.maximum(counts * (counts - 1), 1), 0.0), np.float64)
