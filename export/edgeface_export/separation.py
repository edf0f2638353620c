"""How well scores of pairs tell one person from two, whatever share of the pairs is of one person.

With few photos a person nearly all pairs are of two, and who always says "different" is nearly always right. The
figures here weigh both kinds of pairs alike, so that guessing is right half of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_export.intervals import Z, mean_variance, wilson
from edgeface_runtime.model import unit_rows

HIGHEST_FMR, LOWEST_FMR = 0.1, 1e-3
"""The false match rates over which the TAR is averaged; the lowest is that of 10 false matches where there are few
impostor pairs."""
MIN_FALSE_MATCHES = 10
_RATES = 16
_GROUPS = 20
"""People are left out of the jackknife in so many groups."""
_THUMB = 16


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
