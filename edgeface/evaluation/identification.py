"""Closed-set identification: whose of the known people is this face?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import UsageError


@dataclass(frozen=True)
class Identification:
    """Shares from 0 to 1; precision, recall and F1 are means over the identities, each of equal weight."""

    method: str
    accuracy: float
    precision: float
    recall: float
    f1: float
    photos: int
    identities: int
    loss: float | None = None
    """Cross-entropy of the head with its full margin; None where no head was asked."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What each of M probes was taken for."""

    method: str
    truth: NDArray[np.int64]
    """(M,) who it is."""
    named: NDArray[np.int64]
    """(M,) who it was named."""
    scores: NDArray[np.float64]
    """(M,) score of that name, in the method's own unit."""

    @property
    def accuracy(self) -> float:
        """Rank-1 accuracy: share of the probes that were identified correctly."""
        return float((self.named == self.truth).mean())


@dataclass(frozen=True)
class IdentityFigures:
    """One identity's row of the table."""

    label: int
    photos: int
    precision: float
    recall: float
    f1: float
    taken_for: int | None
    """Whom its wrongly named photos were most often taken for."""


def identify(
    gallery_ND: NDArray[np.float32],
    gallery_labels: NDArray[np.int64],
    probe_ND: NDArray[np.float32],
    probe_labels: NDArray[np.int64],
    *,
    method: str = "centroid",
) -> Answers:
    """Names each probe after one of the gallery's identities.

    Args:
        gallery_ND: (N, D) float32 unit embeddings of photos with known names.
        gallery_labels: (N,) their identities.
        probe_ND: (M, D) float32 unit embeddings of other photos of the same people.
        probe_labels: (M,) their identities.
        method: ``centroid``: the identity whose mean gallery embedding has the highest cosine to the
            probe. ``svc``: a support vector classifier on principal components, fitted on the gallery.

    Raises:
        UsageError: no probe, fewer than two identities in the gallery, or a probe of nobody in it.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method}: choose {', '.join(METHODS)} or head")
    identities, index = np.unique(gallery_labels, return_inverse=True)
    if len(probe_ND) == 0:
        raise UsageError("identification needs held-out photos; there are none")
    if len(identities) < 2:
        raise UsageError("identification needs at least two identities in the gallery")
    strangers = np.setdiff1d(probe_labels, identities)
    if len(strangers):
        raise UsageError(f"{len(strangers)} identities have held-out photos but none in the gallery")
    title, score = METHODS[method]
    return answers(title, identities, score(gallery_ND, index, probe_ND), probe_labels)


def answers(
    method: str,
    identities: NDArray[np.int64],
    scores_MK: NDArray[np.float32] | NDArray[np.float64],
    probe_labels: NDArray[np.int64],
) -> Answers:
    """The best of (M, K) scores against K identities."""
    best = scores_MK.argmax(axis=1)
    scores = scores_MK[np.arange(len(best)), best].astype(np.float64)
    return Answers(method, probe_labels, identities[best], scores)


def figures(given: Answers, *, loss: float | None = None) -> Identification:
    """Accuracy and the macro means over the identities that have probes."""
    from edgeface.evaluation.fits import per_label

    people = np.unique(given.truth)
    precision, recall, f1, _ = per_label(given.truth, given.named, people)
    return Identification(
        method=given.method,
        accuracy=given.accuracy,
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(f1.mean()),
        photos=len(given.truth),
        identities=len(people),
        loss=loss,
    )


def per_identity(given: Answers) -> tuple[IdentityFigures, ...]:
    """One row for each identity that has probes, the worst recall first."""
    from edgeface.evaluation.fits import per_label

    people = np.unique(given.truth)
    table = per_label(given.truth, given.named, people)
    rows = []
    for label, precision, recall, f1, photos in zip(
        people.tolist(), *(column.tolist() for column in table), strict=True
    ):
        wrong = Counter(given.named[(given.truth == label) & (given.named != label)].tolist())
        taken_for = wrong.most_common(1)[0][0] if wrong else None
        rows.append(IdentityFigures(label, int(photos), precision, recall, f1, taken_for))
    return tuple(sorted(rows, key=lambda row: (row.recall, row.precision, row.label)))


def confusion(given: Answers, identities: int) -> NDArray[np.int64]:
    """(identities, identities) counts: row who it is, column who it was named."""
    matrix = np.zeros((identities, identities), np.int64)
    np.add.at(matrix, (given.truth, given.named), 1)
    return matrix


def _centroid_scores(
    gallery_ND: NDArray[np.float32], index: NDArray[np.int64], probe_ND: NDArray[np.float32]
) -> NDArray[np.float64]:
    sums_KD = np.zeros((int(index.max()) + 1, gallery_ND.shape[1]))
    np.add.at(sums_KD, index, gallery_ND)
    centroids_KD = sums_KD / np.maximum(np.linalg.norm(sums_KD, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    scores: NDArray[np.float64] = probe_ND @ centroids_KD.T
    return scores


def _svc_scores(
    gallery_ND: NDArray[np.float32], index: NDArray[np.int64], probe_ND: NDArray[np.float32]
) -> NDArray[np.float64]:
    from edgeface.evaluation.fits import svc_scores

    return svc_scores(gallery_ND, index, probe_ND)


_Score = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]], NDArray[np.float64]]
METHODS: dict[str, tuple[str, _Score]] = {
    "centroid": ("nearest centroid", _centroid_scores),
    "svc": ("PCA + SVC", _svc_scores),
}
"""Names of ``identify``'s methods → their titles and how they score."""
