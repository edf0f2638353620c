"""The highest impostor scores of a set of photos, and TAR and thresholds at small false match rates with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_export.separation import Z, sum_variance, wilson
from edgeface_runtime import UsageError

FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""False match rates that a contract holds a threshold for."""
LEAST_FALSE_ACCEPTS = 10
"""Fewer expected at a FAR make its threshold the luck of a few pairs."""
TOP = 0.03
"""Share of all impostor pairs that ``all_against_all`` keeps the scores of: enough for rates to 0.01."""
_BLOCK = 500
_SAMPLE = 1_000_000


@dataclass(frozen=True)
class TarAtFar:
    """What is accepted of the genuine pairs at the threshold for one FAR; all None where ``reason`` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    threshold_low: float | None = None
    threshold_high: float | None = None
    reason: str | None = None

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return f"too few pairs for this FMR: {self.reason}"
        return f"{100 * self.value:.2f} % ({100 * self.low:.2f} to {100 * self.high:.2f})"


@dataclass(frozen=True, eq=False)
class Tails:
    """The genuine scores and the highest impostor scores of scored pairs, and who is compared with whom how often."""

    impostor: NDArray[np.float64]
    """(T,) cosines, falling."""
    first: NDArray[np.int64]
    """(T,) the one person of each of them."""
    second: NDArray[np.int64]
    """(T,) the other."""
    among: NDArray[np.float64]
    """(T,) how many pairs these two people have."""
    total: int
    """Impostor pairs in all."""
    of_person: NDArray[np.float64]
    """(people,) impostor pairs of each."""
    squares: float
    """Sum over every two people of the square of their number of pairs."""
    genuine: NDArray[np.float64]
    """(G,) cosines of the genuine pairs."""
    person: NDArray[np.int64]
    """(G,) whose they are."""

    def threshold(self, far: float) -> float:
        """The lowest score that at most the share ``far`` of the impostor pairs reaches."""
        # The slack keeps 0.1 · 30 from counting as less than 3.
        first_too_many = int((far + 1e-12) * self.total)
        if first_too_many >= len(self.impostor):
            return float(self.impostor[-1])
        return float(np.nextafter(self.impostor[first_too_many], np.inf))


def tails(
    scores: NDArray[np.float64], first: NDArray[np.int64], second: NDArray[np.int64], top: int | None = None
) -> Tails:
    """Of scored pairs.

    Args:
        scores: (P,) cosines.
        first: (P,) the one person of each, numbered from 0.
        second: (P,) the other.
        top: how many impostor scores are kept; None keeps all.
    """
    same = first == second
    people = int(max(first.max(), second.max())) + 1
    a, b = np.minimum(first, second)[~same], np.maximum(first, second)[~same]
    _, pair, counts = np.unique(a * people + b, return_inverse=True, return_counts=True)
    order = np.argsort(-scores[~same], kind="stable")[:top]
    return Tails(
        scores[~same][order],
        a[order],
        b[order],
        counts[pair[order]].astype(np.float64),
        len(a),
        (np.bincount(a, minlength=people) + np.bincount(b, minlength=people)).astype(np.float64),
        float((counts.astype(np.float64) ** 2).sum()),
        scores[same],
        first[same],
    )


def all_against_all(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> Tails:
    """Of every photo against every other one, of which the highest ``TOP`` of the impostor scores are kept.

    Args:
        embeddings: (N, D) float32 unit rows.
        labels: (N,) identities.
    """
    _, numbers, photos = np.unique(labels, return_inverse=True, return_counts=True)
    exact = embeddings.astype(np.float64)  # in float32, ties would appear among scores near 1
    count, floor = len(labels), -np.inf
    if count > _BLOCK:
        i, j = np.random.default_rng(0).integers(0, count, (2, _SAMPLE))
        drawn = np.einsum("nd,nd->n", embeddings[i], embeddings[j])[numbers[i] != numbers[j]]
        floor = float(np.quantile(drawn, 1 - TOP)) if len(drawn) else floor
    found: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]] = []
    for start in range(0, count, _BLOCK):
        rows = exact[start : start + _BLOCK] @ exact[start:].T
        wanted = np.triu((rows >= floor) | (numbers[start : start + _BLOCK, None] == numbers[None, start:]), 1)
        a, b = np.nonzero(wanted)
        found.append((rows[a, b], numbers[start + a], numbers[start + b]))
    scores, first, second = (np.concatenate(parts) for parts in zip(*found, strict=True))
    same = first == second
    order = np.argsort(-scores[~same], kind="stable")
    a, b, each = first[~same][order], second[~same][order], photos.astype(np.float64)
    square = each @ each
    return Tails(
        scores[~same][order],
        a,
        b,
        each[a] * each[b],
        int((count**2 - square) / 2),
        each * (count - each),
        float((square**2 - (each**4).sum()) / 2),
        scores[same],
        first[same],
    )


def tar_at_far(of: Tails, far: float) -> TarAtFar:
    """TAR at the threshold for a FAR, both with a 95 % interval over people (``edgeface_export.separation``).

    The threshold's is that of the share of impostor pairs that reach it, read off at both ends (R. Woodruff,
    "Confidence Intervals for Medians and Other Position Measures", JASA 47, 1952), on the scale of its square root,
    where the spread of a count does not depend on it. The TAR's holds how the threshold varies too.

    Raises:
        UsageError: pairs of one kind only.
    """
    if not of.total or not len(of.genuine):
        raise UsageError("verification needs pairs of one person and pairs of two people; one kind is missing")
    expected = far * of.total
    if expected < LEAST_FALSE_ACCEPTS:
        return TarAtFar(
            None,
            reason=f"{of.total} pairs of different people make {expected:.1f} false accepts expected; "
            f"at least {LEAST_FALSE_ACCEPTS} are needed",
        )
    people, highest = len(of.of_person), slice(int((far + 1e-12) * of.total))
    a, b = of.first[highest], of.second[highest]
    of_person = np.bincount(a, minlength=people) + np.bincount(b, minlength=people) - far * of.of_person
    _, counts = np.unique(a * people + b, return_counts=True)
    of_pairs = float((counts.astype(np.float64) ** 2).sum()) - 2 * far * of.among[highest].sum() + far**2 * of.squares
    spread = Z * np.sqrt(sum_variance(float(of_person @ of_person - of_pairs), of_pairs, people)) / expected / 2
    most, least = far * (1 + spread) ** 2, far * max(1 - spread, 0) ** 2
    threshold, low, high = (of.threshold(rate) for rate in (far, most, least))
    accepted = of.genuine >= threshold
    value, count = float(accepted.mean()), len(accepted)
    slope = float(((of.genuine >= low).mean() - (of.genuine >= high).mean()) / (most - least))
    mine = np.bincount(of.person, accepted - value, people) / count
    moved = mine - slope * of_person / of.total
    variance = sum_variance(float(moved @ moved - slope**2 * of_pairs / of.total**2), float(mine @ mine), people)
    known = float(value * (1 - value) / variance) if 0 < value < 1 and variance else float(len(np.unique(of.person)))
    return TarAtFar(value, *wilson(value, min(known, count)), threshold, low, high)


def thresholds(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], reason: str | None = None
) -> tuple[dict[str, object], dict[str, object]]:
    """A threshold for each of ``FARS`` from all-against-all scores.

    Args:
        embeddings: (N, D) float32 unit rows of people not trained on.
        labels: (N,) identities.
        reason: why these faces set none, where they do not.

    Returns:
        The contract's ``thresholds``, and what they were measured on with the reason for each that is null.
    """
    people = len(np.unique(labels))
    facts: dict[str, object] = {"people": people, "photos": len(labels)}
    found: dict[str, object] = {f"{far:g}": None for far in FARS}
    of = all_against_all(embeddings, labels) if people > 1 else None
    missing: dict[str, str] = {}
    for far, key in zip(FARS, found, strict=True):
        if reason is not None:
            missing[key] = reason
            continue
        if of is None or not len(of.genuine):
            missing[key] = "the photos show no two people that were not trained on, one of them twice"
            continue
        at = tar_at_far(of, far)
        if at.reason is not None:
            missing[key] = at.reason
            continue
        figures = {"value": at.threshold, "low": at.threshold_low, "high": at.threshold_high, "tar": at.value}
        # Rounded up: rounded down, a threshold might let one more through.
        found[key] = {"pairs": of.total} | {name: math.ceil(1e6 * (x or 0)) / 1e6 for name, x in figures.items()}
    return found, facts | {"missing": missing}
