"""Verification: do two photos show the same person? Accept when their score reaches a threshold.

``far`` is the FMR, the share of impostor pairs that are accepted; ``frr`` the FNMR, the share of genuine pairs that
are rejected; ``tar`` = 1 - FNMR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeface.evaluation.tails import TarAtFar, tails, tar_at_far
from edgeface_runtime import UsageError

PAIR_PHOTOS = 4000
"""At most so many photos are compared all against all: eight million pairs, in half a gigabyte."""
PHOTOS_EACH = 40
"""Of one person, where there are more photos than that."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Compared pairs of photos."""

    scores: NDArray[np.float64]
    """(P,) cosine of the two embeddings."""
    first: NDArray[np.int64]
    """(P,) identity of the one photo, numbered from 0."""
    second: NDArray[np.int64]
    """(P,) identity of the other."""

    @property
    def same(self) -> NDArray[np.bool_]:
        """(P,) True where both photos show one person."""
        same: NDArray[np.bool_] = self.first == self.second
        return same

    @property
    def has_both_kinds(self) -> bool:
        """True when there are pairs of one person and pairs of two; without, there is nothing to verify."""
        return bool(self.same.any() and not self.same.all())


@dataclass(frozen=True)
class Verification:
    """The ``verification`` object of ``eval --json``. Shares from 0 to 1."""

    accuracy: float
    """Of all pairs at ``threshold``."""
    auc: float
    eer: float
    threshold: float
    pairs: int
    failed: int
    """Pairs that could not be scored because no face was found; they are not among ``pairs``."""
    tar_at_far: dict[str, TarAtFar]
    folds: tuple[float, ...] = ()
    """Accuracy of each fold, where the protocol has folds; ``accuracy`` is their mean."""
    standard_error: float | None = None
    """Of the mean over the folds."""
    threshold_from: str = "equal error rate of these pairs"
    """Where ``threshold`` was chosen."""

    def as_json(self) -> dict[str, object]:
        """As in ``eval --json``."""
        return asdict(self)


def all_pairs(embeddings_ND: NDArray[np.float32], labels: NDArray[np.int64]) -> Pairs:
    """Every photo against every other one: N·(N-1)/2 pairs.

    Args:
        embeddings_ND: (N, D) float32 unit rows.
        labels: (N,) identities.
    """
    _, numbers = np.unique(labels, return_inverse=True)
    a, b = np.triu_indices(len(numbers), k=1)
    # In float32, ties would appear among scores near 1.
    exact_ND = embeddings_ND.astype(np.float64)
    return Pairs((exact_ND @ exact_ND.T)[a, b], numbers[a], numbers[b])


def pair_photos(labels: NDArray[np.int64], *, seed: int = 0) -> NDArray[np.int64]:
    """Rows of the photos to compare all against all: every one of up to ``PAIR_PHOTOS``.

    Of more, people are drawn with the seed, each with at most ``PHOTOS_EACH`` photos, until there are so many: twice
    the photos would be four times the pairs.
    """
    if len(labels) <= PAIR_PHOTOS:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    people, numbers = np.unique(labels[shuffled], return_inverse=True)
    by_person = shuffled[np.argsort(rng.permutation(len(people))[numbers], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[by_person], prepend=labels[by_person[0]] - 1))
    lengths = np.diff(starts, append=len(labels))
    place = np.arange(len(labels)) - np.repeat(starts, lengths)
    return np.sort(by_person[place < PHOTOS_EACH][:PAIR_PHOTOS])


def threshold_for_far(pairs: Pairs, far: float) -> float:
    """The lowest threshold at which at most the share ``far`` of the pairs of different people is accepted.

    Raises:
        UsageError: no such pairs.
    """
    _require_both(pairs)
    return tails(pairs.scores, pairs.first, pairs.second).threshold(far)


def equal_error_rate(pairs: Pairs) -> tuple[float, float]:
    """(EER, its threshold): the mean of FAR and FRR at the score where they differ least.

    Raises:
        UsageError: pairs of one kind only.
    """
    _require_both(pairs)
    same, different = np.sort(pairs.scores[pairs.same]), np.sort(pairs.scores[~pairs.same])
    thresholds = np.unique(pairs.scores)
    frr = np.searchsorted(same, thresholds, side="left") / len(same)
    far = 1 - np.searchsorted(different, thresholds, side="left") / len(different)
    best = int(np.abs(far - frr).argmin())
    return float(far[best] + frr[best]) / 2, float(thresholds[best])


def best_threshold(pairs: Pairs) -> float:
    """The score from which a pair more likely shows one person than two: even odds of a logistic fit to all pairs.

    The threshold that maximizes the accuracy of these very pairs depends on the few near it: over halves of LFW's 2,200
    training pairs it varies twice as much, at a lower accuracy on the other half (99.35 against 99.40 %). Where genuine
    pairs score no higher than impostor pairs, it is that of the equal error rate.

    Raises:
        UsageError: pairs of one kind only.
    """
    from edgeface.evaluation.fits import logistic

    _require_both(pairs)
    spread = pairs.scores.std()
    if spread == 0:
        return equal_error_rate(pairs)[1]
    middle = pairs.scores.mean()
    slope, intercept = logistic((pairs.scores - middle) / spread, pairs.same)
    return float(middle - spread * intercept / slope) if slope > 0 else equal_error_rate(pairs)[1]


def verify(
    pairs: Pairs, *, fars: Sequence[float] = (0.1, 0.01, 0.001), threshold: float | None = None, failed: int = 0
) -> Verification:
    """All verification figures of scored pairs.

    Args:
        pairs: scored pairs, some of one person and some of two.
        fars: false match rates to report.
        threshold: where ``accuracy`` is taken; None takes the one of the equal error rate, which is
            chosen on these same pairs.
        failed: pairs that could not be scored.

    Raises:
        UsageError: pairs of one kind only.
    """
    eer, crossing = equal_error_rate(pairs)
    chosen = crossing if threshold is None else threshold
    of = tails(pairs.scores, pairs.first, pairs.second)
    return Verification(
        accuracy=float(((pairs.scores >= chosen) == pairs.same).mean()),
        auc=area_under_curve(pairs),
        eer=eer,
        threshold=chosen,
        pairs=len(pairs.scores),
        failed=failed,
        tar_at_far={f"{far:g}": tar_at_far(of, far) for far in fars},
    )


def verify_folds(pairs: Pairs, fold: NDArray[np.int64], *, failed: int = 0) -> Verification:
    """As ``verify``; the accuracy is the mean over folds, each at the best threshold of all the others.

    LFW's View 2: G. Huang, M. Ramesh, T. Berg, E. Learned-Miller, "Labeled Faces in the Wild", 2007.

    Args:
        pairs: scored pairs.
        fold: (P,) number of each pair's fold.
        failed: pairs that could not be scored.

    Raises:
        UsageError: fewer than two folds, or pairs of one kind only.
    """
    numbers = np.unique(fold)
    if len(numbers) < 2:
        raise UsageError("the pairs are all in one fold; name others to choose the threshold on with --train-pairs")
    thresholds, accuracies = [], []
    for number in numbers:
        inside = fold == number
        rest = Pairs(pairs.scores[~inside], pairs.first[~inside], pairs.second[~inside])
        thresholds.append(best_threshold(rest))
        accuracies.append(float(((pairs.scores[inside] >= thresholds[-1]) == pairs.same[inside]).mean()))
    return replace(
        verify(pairs, threshold=float(np.mean(thresholds)), failed=failed),
        accuracy=float(np.mean(accuracies)),
        folds=tuple(accuracies),
        standard_error=float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies))),
        threshold_from="mean of the folds' thresholds, each chosen on the other folds",
    )


def area_under_curve(pairs: Pairs) -> float:
    """AUC of the ROC: the probability that a genuine pair scores higher than an impostor pair (ties count half).

    Raises:
        UsageError: pairs of one kind only.
    """
    _require_both(pairs)
    genuine, impostor = pairs.scores[pairs.same], np.sort(pairs.scores[~pairs.same])
    lower, not_higher = (np.searchsorted(impostor, genuine, side) for side in ("left", "right"))
    return float((lower + not_higher).mean() / (2 * len(impostor)))


def _require_both(pairs: Pairs) -> None:
    if not pairs.has_both_kinds:
        raise UsageError("verification needs pairs of one person and pairs of two people; one kind is missing")
