"""Pairs of faces: which are drawn, how well their scores tell one person from two, and 95 % intervals of such shares.

With few photos a person nearly all pairs are of two, and who always says "different" is nearly always right. The
figures here weigh both kinds of pairs alike, so that guessing is right half of the time.

Pairs that have people in common are not independent. The variance of a share is that of a jackknife over people, less
what it counts twice, the noise of each two people's own pairs (P. Aronow, C. Samii, V. Assenova, "Cluster-Robust
Variance Estimation for Dyadic Data", Political Analysis 23, 2015). A bootstrap over people counts that noise thrice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime import UsageError
from edgeface_runtime.model import unit_rows

MIN_PAIRS = 6000
MAX_PHOTOS = 3000
"""All pairs of more photos would not fit into a small machine's memory."""
Z = 1.959964
"""97.5 % point of the normal distribution."""
HIGHEST_FMR, LOWEST_FMR = 0.1, 1e-3
"""The false match rates over which the TAR is averaged; the lowest is that of 10 false matches where there are few
impostor pairs."""
MIN_FALSE_MATCHES = 10
_RATES = 16
_GROUPS = 20
"""People are left out of the jackknife in so many groups."""
_THUMB = 16


def few_people(labels: NDArray[np.int64], rng: np.random.Generator, most: int = MAX_PHOTOS) -> NDArray[np.int64]:
    """Rows of at most ``most`` photos: all of them, or those of whole people drawn at random."""
    if len(labels) <= most:
        return np.arange(len(labels))
    people, counts = np.unique(labels, return_counts=True)
    turn = rng.permutation(len(people))
    return np.flatnonzero(np.isin(labels, people[turn][np.cumsum(counts[turn]) <= most]))


def draw_pairs(labels: NDArray[np.int64], *, count: int = MIN_PAIRS, seed: int = 0) -> NDArray[np.int64]:
    """(P, 2) pairs of rows: every genuine pair up to ``count`` / 2, the rest impostor pairs.

    Where there are fewer than ``count`` pairs in all, every pair is taken. Past ``MAX_PHOTOS`` photos,
    whole people are drawn until there are that many.

    Raises:
        UsageError: no genuine pair, or no impostor pair.
    """
    rng = np.random.default_rng(seed)
    rows = few_people(labels, rng)
    first, second = (rows[half] for half in np.triu_indices(len(rows), 1))
    same = labels[first] == labels[second]
    if same.all() or not same.any():
        raise UsageError("the gate needs genuine and impostor pairs of evaluation photos; one kind is missing")
    genuine, impostor = rng.permutation(np.flatnonzero(same)), rng.permutation(np.flatnonzero(~same))
    genuine = genuine[: max(count // 2, count - len(impostor))]
    chosen = np.sort(np.concatenate([genuine, impostor[: max(0, count - len(genuine))]]))
    return np.stack([first[chosen], second[chosen]], axis=1)


@dataclass(frozen=True)
class Separation:
    """Figures of scored pairs."""

    accuracy: float
    """Mean of the shares of genuine and of impostor pairs that are decided rightly, at the best threshold on them."""
    interval: tuple[float, float]
    """Of the accuracy, 95 %, over people."""
    threshold: float
    right: NDArray[np.bool_]
    """(P,) which pairs are decided rightly there."""
    eer: float
    """The equal error rate; 0.5 is a coin."""
    tar: float | None
    """Share of the genuine pairs accepted at the FMR that was asked for; None where fewer than 10 false matches are
    expected."""
    mean_tar: float
    """The same, averaged over false match rates from ``LOWEST_FMR`` to ``HIGHEST_FMR`` on a logarithmic scale."""


def separation(
    scores: NDArray[np.floating],
    same: NDArray[np.bool_],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    fmr: float,
) -> Separation:
    """Of scored pairs.

    Args:
        scores: (P,) cosines.
        same: (P,) True for genuine pairs; there are some of both kinds.
        first: (P,) the one person of each pair, numbered from 0.
        second: (P,) the other.
        fmr: at which ``tar`` is taken.
    """
    order, genuine, impostor = np.argsort(-scores, kind="stable"), int(same.sum()), int((~same).sum())
    # Only the last of equal scores is a threshold that can be set. Counted in whole pairs, so that ties are ties.
    settable = np.append(scores[order][:-1] != scores[order][1:], True)
    accepted, falsely = np.cumsum(same[order]) * impostor, np.cumsum(~same[order]) * genuine
    threshold = float(scores[order][np.where(settable, accepted - falsely, -(len(same) ** 2)).argmax()])
    right = (scores >= threshold) == same
    missed, everything = genuine * impostor - accepted, genuine * impostor
    at = int(np.where(settable, np.abs(missed - falsely), 2 * everything).argmin())
    impostors = np.sort(scores[~same])[::-1]
    allowed = int(fmr * len(impostors))
    tar = float((scores[same] > impostors[allowed]).mean()) if allowed >= MIN_FALSE_MATCHES else None
    accuracy = float((right[same].mean() + right[~same].mean()) / 2)
    return Separation(
        accuracy, _interval(accuracy, right, same, first, second), threshold, right,
        float((missed[at] + falsely[at]) / (2 * everything)), tar, mean_tar(scores, same),
    )  # fmt: skip


def mean_tar(scores: NDArray[np.floating], same: NDArray[np.bool_]) -> float:
    """``Separation.mean_tar``: the TAR at one threshold hangs on the few pairs near it, that at many does not."""
    impostors = np.sort(scores[~same])[::-1]
    low = min(max(LOWEST_FMR, MIN_FALSE_MATCHES / len(impostors)), HIGHEST_FMR)
    allowed = (np.geomspace(low, HIGHEST_FMR, _RATES) * len(impostors)).astype(np.int64)
    thresholds = np.sort(impostors[np.minimum(allowed, len(impostors) - 1)])
    return float(np.searchsorted(thresholds, scores[same], side="left").mean() / _RATES)


def tar_loss(
    source: NDArray[np.floating],
    found: NDArray[np.floating],
    same: NDArray[np.bool_],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> tuple[float, float]:
    """(Mean TAR of the source scores minus that of the found ones, its standard error).

    The error is that of a jackknife which leaves out people, with all pairs that they are in, in 20 groups: each time
    every threshold is set anew (B. Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982).
    """
    loss = mean_tar(source, same) - mean_tar(found, same)
    people = np.unique(np.concatenate([first, second]))
    groups = min(_GROUPS, len(people))
    group = np.zeros(int(people.max()) + 1, np.int64)
    group[people] = np.random.default_rng(0).permutation(len(people)) % groups
    without = []
    for left_out in range(groups):
        kept = (group[first] != left_out) & (group[second] != left_out)
        kinds = same[kept]
        if kinds.any() and not kinds.all():
            without.append(mean_tar(source[kept], kinds) - mean_tar(found[kept], kinds))
    count = len(without)
    error = math.sqrt((count - 1) * float(np.var(without))) if count > 1 else 0.0
    return loss, error


def pixel_scores(faces: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """(P,) correlation of the two faces' brightness at 16 × 16 pixels: what is to be had without any model."""
    thumbs = [
        np.asarray(Image.fromarray(face).convert("L").resize((_THUMB, _THUMB), Image.Resampling.BOX)) for face in faces
    ]
    rows = np.stack(thumbs).reshape(len(faces), -1).astype(np.float32)
    units = unit_rows(rows - rows.mean(axis=1, keepdims=True))
    scores: NDArray[np.float32] = (units[pairs[:, 0]] * units[pairs[:, 1]]).sum(axis=1)
    return scores


def _interval(
    accuracy: float,
    right: NDArray[np.bool_],
    same: NDArray[np.bool_],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> tuple[float, float]:
    """Wilson's, for as many independent trials as vary as much."""
    people = len(np.unique(np.concatenate([first, second])))
    residuals = np.zeros(len(same))
    for kind in (same, ~same):
        residuals[kind] = (right[kind] - right[kind].mean()) * len(same) / (2 * kind.sum())
    variance = mean_variance(residuals, first, second)
    # Nothing varies: no more trials than people are sure.
    count = min(accuracy * (1 - accuracy) / variance, len(same)) if variance else people
    return wilson(accuracy, count)


def half_width(error: float, genuine: int) -> float:
    """Half of the 95 % interval of ``tar_loss``; half a genuine pair is added: no difference is no certainty."""
    return math.sqrt((Z * error) ** 2 + (Z / (2 * genuine)) ** 2 / 2)


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
