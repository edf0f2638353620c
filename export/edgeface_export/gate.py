"""The gate: a file is as good as its source model on the evaluation set, or it does not get its name; and its speed."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_export.faces import EvaluationSet
from edgeface_export.intervals import Z, mean_variance, share_interval
from edgeface_export.options import Recipe
from edgeface_runtime import InputSpec, UsageError
from edgeface_runtime.model import Model

FMR = 0.01
"""The false match rate at which the share of accepted genuine pairs is compared."""
_MIN_FALSE_MATCHES = 10

CALLS = 30
"""Of each file whose speed is compared."""
FASTER = 0.95
"""A ratio above it is no gain that a user would notice, or that a second measurement would surely show."""
_WARM_UP = 3

Operators = Mapping[str, Counter[str]]
"""``int8``, ``float``, ``other`` → operators of a file by name."""


@dataclass(frozen=True)
class AccuracyDrop:
    """Verification accuracy that a file loses against its source model, in percentage points, counted pair by pair."""

    points: float
    """The source model's accuracy minus the file's."""
    low: float
    high: float
    lost: int
    """Pairs that only the source model decides correctly."""
    won: int
    """Pairs that only the file decides correctly."""
    pairs: int
    threshold_shift: float
    """The file's best threshold minus the source model's."""
    accuracy: float
    """The file's own, as a share of the pairs, at the threshold that is best on them."""
    accuracy_interval: tuple[float, float]
    """95 %."""
    tar: float | None
    """Genuine pairs that the source model accepts at ``FMR`` minus those that the file accepts, in percentage points,
    each at its own threshold; None where fewer than 10 false matches are expected."""


@dataclass(frozen=True)
class Parity:
    """A file's embeddings and decisions on the evaluation set, beside those of its source model."""

    cosine_mean: float
    cosine_p1: float
    """The cosine that 1 % of the faces fall below."""
    drop: AccuracyDrop

    def meets(self, *, min_cosine: float, max_drop: float) -> bool:
        """True when the mean cosine is at least, and the drop in percentage points at most, as given."""
        return self.drop.points <= max_drop and self.cosine_mean >= min_cosine

    def as_contract(self) -> dict[str, float]:
        """The contract's ``accuracy["verification"]``."""
        low, high = self.drop.accuracy_interval
        figures = {"value": self.drop.accuracy, "low": low, "high": high}
        figures |= {"cosine_mean": self.cosine_mean, "cosine_p1": self.cosine_p1}
        figures |= {"drop_points": self.drop.points, "drop_low": self.drop.low, "drop_high": self.drop.high}
        # Rounded, so that the last bit of a float does not make two exports of one model differ.
        return {"pairs": self.drop.pairs} | {key: round(value, 5) for key, value in figures.items()}


def parity(source: NDArray[np.float32], found: NDArray[np.float32], evaluation: EvaluationSet) -> Parity:
    """Compares (N, D) unit rows of the evaluation faces, the source model's and a file's.

    Raises:
        UsageError: as ``accuracy_drop``.
    """
    cosines = (found * source).sum(axis=1)
    drop = accuracy_drop(source, found, evaluation.pairs, evaluation.same, evaluation.people)
    return Parity(float(cosines.mean()), float(np.percentile(cosines, 1)), drop)


def accuracy_drop(
    source: NDArray[np.float32],
    found: NDArray[np.float32],
    pairs: NDArray[np.int64],
    same: NDArray[np.bool_],
    people: NDArray[np.int64] | None = None,
) -> AccuracyDrop:
    """Compares two sets of embeddings of the same faces, each at its own best threshold.

    The interval is the 95 % Wald interval of the mean of paired differences, over people
    (``edgeface_export.intervals``). Half a pair is added to those that are decided differently, so that no such pair
    does not read as certainty.

    Args:
        source: (N, D) float32 unit rows.
        found: (N, D) float32 unit rows of the same faces.
        pairs: (P, 2) rows.
        same: (P,) True for genuine pairs.
        people: (N,) whom each face shows, numbered from 0; None takes each for another person.

    Raises:
        UsageError: no pairs, or pairs of one kind only.
    """
    if same.all() or not same.any():
        raise UsageError(f"{len(same)} pairs measure no accuracy: genuine and impostor pairs are needed")
    before, after = ((rows[pairs[:, 0]] * rows[pairs[:, 1]]).sum(axis=1) for rows in (source, found))
    (right, limit), (found_right, found_limit) = _decisions(before, same), _decisions(after, same)
    tar, found_tar = _accepted(before, same), _accepted(after, same)
    lost, won, count = int((right & ~found_right).sum()), int((~right & found_right).sum()), len(same)
    first, second = (pairs if people is None else people[pairs]).T
    points = (lost - won) / count
    varied = mean_variance(right.astype(np.float64) - found_right - points, first, second)
    half = Z * math.sqrt(varied + 0.5 / count**2)
    return AccuracyDrop(
        points=100 * points,
        low=100 * (points - half),
        high=100 * (points + half),
        lost=lost,
        won=won,
        pairs=count,
        threshold_shift=float(found_limit - limit),
        accuracy=float(found_right.mean()),
        accuracy_interval=share_interval(found_right, first, second),
        tar=None if tar is None or found_tar is None else 100 * (tar - found_tar),
    )


def is_int8(operators: Operators, recipe: Recipe, spec: InputSpec) -> bool:
    """True where as many operators compute in int8 as the recipe asks for."""
    int8, others = operators["int8"].total(), operators["float"].total()
    # Preprocessing inside the graph, a subtraction and a product, stays float on purpose: VGG11 has 14 operators else.
    others -= 2 if spec.dtype == "uint8" else 0
    return int8 >= recipe.min_int8 * (int8 + others)


def refusal(
    name: str, parity: Parity, recipe: Recipe, max_drop: float, *, operators: Operators, spec: InputSpec, mixed: bool
) -> str | None:
    """Why a file does not get its name; None when it does.

    Args:
        name: of the file.
        parity: to its source model.
        recipe: by which it was made.
        max_drop: accuracy that it may lose, in percentage points.
        operators: of the file.
        spec: of its input.
        mixed: True where layers were excluded from quantization on purpose.
    """
    if parity.cosine_p1 < recipe.min_cosine:
        least = f"at least {recipe.min_cosine} is needed"
        return f"{name}: cosine to the source model {parity.cosine_p1:.6f}, {least}"
    if not mixed and not is_int8(operators, recipe, spec):
        floats = operators["float"]
        listed = ", ".join(f"{operator} {count}" for operator, count in sorted(floats.items()))
        return f"{name}: {floats.total()} operators cannot be quantized and stayed float: {listed}"
    if parity.drop.points > max_drop:
        lost = f"loses {parity.drop.points:.3f} points on {parity.drop.pairs} pairs"
        return f"{name}: {lost}, at most {max_drop} are allowed"
    return None


def _accepted(scores: NDArray[np.float32], same: NDArray[np.bool_]) -> float | None:
    """Share of genuine pairs above all impostor pairs but ``FMR`` of them; None with too few impostors."""
    impostors = np.sort(scores[~same])[::-1]
    allowed = int(FMR * len(impostors))
    return float((scores[same] > impostors[allowed]).mean()) if allowed >= _MIN_FALSE_MATCHES else None


def _decisions(scores: NDArray[np.float32], same: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], float]:
    """(whether each pair is decided correctly, the threshold): at the threshold with the highest accuracy."""
    order = np.argsort(-scores, kind="stable")
    right: NDArray[np.int64] = np.cumsum(same[order]) - np.cumsum(~same[order])
    # Only the last of equal scores is a threshold that can be set.
    settable = np.append(scores[order][:-1] != scores[order][1:], True)
    threshold = float(scores[order][np.where(settable, right, -len(same)).argmax()])
    return (scores >= threshold) == same, threshold


def compare_speed(models: Sequence[Model], *, calls: int = CALLS) -> list[float]:
    """Median processor time of embedding one face, in ms, for each of the models: calls take turns in one thread.

    Args:
        models: opened with one thread, so that the calling thread does all the work.
        calls: of each model that count.
    """
    size = models[0].contract.input.size
    face = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    times: list[list[float]] = [[] for _ in models]
    for turn in range(_WARM_UP + calls):
        for model, kept in zip(models, times, strict=True):
            start = time.thread_time_ns()
            model.embed(face)
            if turn >= _WARM_UP:
                kept.append((time.thread_time_ns() - start) / 1e6)
    return [float(np.median(kept)) for kept in times]
