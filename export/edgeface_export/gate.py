"""The gate: a file is as accurate as its parent on held-out pairs, or it does not get its name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import UsageError

LEAST_PAIRS = 6000
FAR = 0.01
"""The false-accept rate at which the share of accepted genuine pairs is compared."""
_LEAST_FALSE_ACCEPTS = 10
MOST_PHOTOS = 3000
"""All pairs of more photos would not fit into a small machine's memory."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Faces that took no part in calibration, and the pairs of them that the gate judges."""

    faces: NDArray[np.uint8]
    """(N, S, S, 3) uint8 RGB."""
    pairs: NDArray[np.int64]
    """(P, 2) rows of ``faces``."""
    same: NDArray[np.bool_]
    """(P,) True where both show one person."""


@dataclass(frozen=True)
class Drop:
    """Accuracy that a file loses against its parent, in percentage points, judged pair by pair."""

    points: float
    """Parent's accuracy minus the file's."""
    low: float
    high: float
    lost: int
    """Pairs that only the parent gets right."""
    won: int
    """Pairs that only the file gets right."""
    pairs: int
    threshold_shift: float
    """The file's best threshold minus the parent's."""
    accuracy: float
    """The file's own, as a share of the pairs, at the threshold that is best on them."""
    tar: float | None
    """Genuine pairs that the parent accepts at ``FAR`` minus those that the file accepts, in percentage points,
    each at its own threshold; None where fewer than 10 false accepts are expected."""


def few_people(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of at most ``MOST_PHOTOS`` photos: all of them, or those of whole people drawn at random."""
    if len(labels) <= MOST_PHOTOS:
        return np.arange(len(labels))
    people, counts = np.unique(labels, return_counts=True)
    turn = rng.permutation(len(people))
    return np.flatnonzero(np.isin(labels, people[turn][np.cumsum(counts[turn]) <= MOST_PHOTOS]))


def draw_pairs(labels: NDArray[np.int64], *, count: int = LEAST_PAIRS, seed: int = 0) -> NDArray[np.int64]:
    """(P, 2) pairs of rows: every pair of one person up to ``count`` / 2, the rest of two people.

    Where there are fewer than ``count`` pairs in all, every pair is taken. Past ``MOST_PHOTOS`` photos,
    whole people are drawn until there are that many.

    Raises:
        UsageError: no two photos of one person, or of two people.
    """
    rng = np.random.default_rng(seed)
    rows = few_people(labels, rng)
    first, second = (rows[half] for half in np.triu_indices(len(rows), 1))
    same = labels[first] == labels[second]
    if same.all() or not same.any():
        raise UsageError("the gate needs held-out pairs of one person and of two people; one kind is missing")
    genuine, impostor = rng.permutation(np.flatnonzero(same)), rng.permutation(np.flatnonzero(~same))
    genuine = genuine[: max(count // 2, count - len(impostor))]
    chosen = np.sort(np.concatenate([genuine, impostor[: max(0, count - len(genuine))]]))
    return np.stack([first[chosen], second[chosen]], axis=1)


def accuracy_drop(
    parent: NDArray[np.float32], child: NDArray[np.float32], pairs: NDArray[np.int64], same: NDArray[np.bool_]
) -> Drop:
    """Compares two sets of embeddings of the same faces, each at its own best threshold.

    The interval is the 95 % Wald interval of a difference of paired proportions (A. Agresti,
    Categorical Data Analysis, section on matched pairs): with b lost, c won and n pairs,
    (b − c)/n ± 1.96·√(b + c − (b − c)²/n)/n. Half a pair is added to b + c, so that no discordant
    pair does not read as certainty.

    Args:
        parent: (N, D) float32 unit rows.
        child: (N, D) float32 unit rows of the same faces.
        pairs: (P, 2) rows.
        same: (P,) whether both show one person.

    Raises:
        UsageError: no pairs, or pairs of one kind only.
    """
    if same.all() or not same.any():
        raise UsageError(f"{len(same)} pairs cannot judge: pairs of one person and pairs of two people are needed")
    before, after = ((rows[pairs[:, 0]] * rows[pairs[:, 1]]).sum(axis=1) for rows in (parent, child))
    (right, limit), (child_right, child_limit) = _decisions(before, same), _decisions(after, same)
    tar, child_tar = _accepted(before, same), _accepted(after, same)
    lost, won, count = int((right & ~child_right).sum()), int((~right & child_right).sum()), len(same)
    half = 1.96 * math.sqrt(lost + won + 0.5 - (lost - won) ** 2 / count) / count
    points = (lost - won) / count
    return Drop(
        100 * points, 100 * (points - half), 100 * (points + half), lost, won, count, float(child_limit - limit),
        float(child_right.mean()), None if tar is None or child_tar is None else 100 * (tar - child_tar),
    )  # fmt: skip


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of ``count`` trials (E. B. Wilson, JASA 22, 1927)."""
    z = 1.96
    middle, width = 1 + z * z / count, z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return (share + z * z / (2 * count) - width) / middle, (share + z * z / (2 * count) + width) / middle


def _accepted(scores: NDArray[np.float32], same: NDArray[np.bool_]) -> float | None:
    """Share of genuine pairs above all impostors but ``FAR`` of them; None with too few impostors."""
    impostors = np.sort(scores[~same])[::-1]
    allowed = int(FAR * len(impostors))
    return float((scores[same] > impostors[allowed]).mean()) if allowed >= _LEAST_FALSE_ACCEPTS else None


def _decisions(scores: NDArray[np.float32], same: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], float]:
    """(whether each pair is judged rightly, the threshold): at the threshold with the highest accuracy."""
    order = np.argsort(-scores, kind="stable")
    right: NDArray[np.int64] = np.cumsum(same[order]) - np.cumsum(~same[order])
    # Only the last of equal scores is a threshold that can be set.
    settable = np.append(scores[order][:-1] != scores[order][1:], True)
    threshold = float(scores[order][np.where(settable, right, -len(same)).argmax()])
    return (scores >= threshold) == same, threshold
