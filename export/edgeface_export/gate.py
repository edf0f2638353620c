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
from edgeface_export.options import Recipe
from edgeface_export.separation import half_width, pixel_scores, separation, tar_loss
from edgeface_runtime import InputSpec, ModelError, UsageError
from edgeface_runtime.model import Model

FMR = 0.01
"""The false match rate at which the share of accepted genuine pairs is compared."""
CHANCE = 0.8
"""Over √(genuine pairs): points that are allowed beside the largest drop, for chance; the standard deviation of the
drop of a file that loses nothing, from one draw of photos to the next, is 1.3 over the same (docs/export.md)."""
COIN = 0.4
"""A source model whose equal error rate is higher tells nobody apart."""
_ALIKE = 0.9999
"""Cosine from which two golden vectors are the same answer."""
GENUINE = 120
"""Genuine pairs below which a file that loses 3.7 points of TAR passes in more than 3 % of draws (docs/export.md)."""
HARDLY = 0.8
"""Of the equal error rate of plain pixels, which untrained nets have 1.0 to 1.5 times of on AT&T."""
ANYTHING = 50.0
"""A largest drop, in points, that lets a coin pass, and so whatever there is."""

CALLS = 30
"""Of each file whose speed is compared."""
FASTER = 0.95
"""A ratio above it is no gain that a user would notice, or that a second measurement would surely show."""
_WARM_UP = 3

Operators = Mapping[str, Counter[str]]
"""``int8``, ``float``, ``other`` → operators of a file by name."""


@dataclass(frozen=True)
class AccuracyDrop:
    """Verification accuracy that a file loses against its source model, in percentage points; genuine and impostor
    pairs weigh the same."""

    points: float
    """Half of the loss of TAR, averaged over false match rates from 0.1 to 10 % (``edgeface_export.separation``): at
    one false match rate the accuracy is (TAR + 1 − FMR) / 2."""
    low: float
    high: float
    lost: int
    """Pairs that only the source model decides correctly."""
    won: int
    """Pairs that only the file decides correctly."""
    pairs: int
    genuine: int
    """How many of the pairs are genuine."""
    threshold_shift: float
    """The file's best threshold minus the source model's."""
    accuracy: float
    """The file's own, the mean of the shares of genuine and of impostor pairs that it decides rightly, at the threshold
    that is best on them; guessing has 0.5."""
    accuracy_interval: tuple[float, float]
    """95 %."""
    tar: float | None
    """Genuine pairs that the source model accepts at ``FMR`` minus those that the file accepts, in percentage points,
    each at its own threshold; None where fewer than 10 false matches are expected."""
    file_tar: float | None
    """The share that the file accepts there."""
    eer: float
    """The file's equal error rate."""

    def meets(self, max_drop: float) -> bool:
        """True where the drop is at most as given, or no more above it than chance makes it vary."""
        return self.points <= max_drop + CHANCE / math.sqrt(self.genuine)


@dataclass(frozen=True)
class Parity:
    """A file's embeddings and decisions on the evaluation set, beside those of its source model."""

    cosine_mean: float
    cosine_p1: float
    """The cosine that 1 % of the faces fall below."""
    drop: AccuracyDrop

    def meets(self, *, min_cosine: float, max_drop: float) -> bool:
        """True when the mean cosine is at least, and the drop in percentage points at most, as given."""
        return self.drop.meets(max_drop) and self.cosine_mean >= min_cosine

    def as_contract(self) -> dict[str, float]:
        """The contract's ``accuracy["verification"]``."""
        low, high = self.drop.accuracy_interval
        figures = {"value": self.drop.accuracy, "low": low, "high": high}
        figures |= {"cosine_mean": self.cosine_mean, "cosine_p1": self.cosine_p1}
        figures |= {"drop_points": self.drop.points, "drop_low": self.drop.low, "drop_high": self.drop.high}
        # Rounded, so that the last bit of a float does not make two exports of one model differ.
        figures |= {"eer": self.drop.eer}
        figures |= {} if self.drop.file_tar is None else {"tar": self.drop.file_tar, "fmr": FMR}
        counts = {"pairs": self.drop.pairs, "genuine": self.drop.genuine, "base_rate": 0.5}
        return counts | {key: round(value, 5) for key, value in figures.items()}


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
    """Compares two sets of embeddings of the same faces, each at its own thresholds; its 95 % interval is over people.

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
    before, after = (_scores(rows, pairs) for rows in (source, found))
    first, second = (pairs if people is None else people[pairs]).T
    was, now = (separation(scores, same, first, second, FMR) for scores in (before, after))
    loss, error = tar_loss(before, after, same, first, second)
    half, genuine = half_width(error, int(same.sum())), int(same.sum())
    return AccuracyDrop(
        points=50 * loss,
        low=50 * (loss - half),
        high=50 * (loss + half),
        lost=int((was.right & ~now.right).sum()),
        won=int((~was.right & now.right).sum()),
        pairs=len(same),
        genuine=genuine,
        threshold_shift=now.threshold - was.threshold,
        accuracy=now.accuracy,
        accuracy_interval=now.interval,
        tar=None if was.tar is None or now.tar is None else 100 * (was.tar - now.tar),
        file_tar=now.tar,
        eer=now.eer,
    )


def check_source(name: str, source: NDArray[np.float32], evaluation: EvaluationSet, max_drop: float) -> str | None:
    """Refuses a source model that tells nobody apart, and says where it does hardly better than plain pixels.

    Args:
        name: of the model.
        source: (N, D) unit rows of the evaluation faces.
        evaluation: the faces and their pairs.
        max_drop: in percentage points; from 50 on anything passes.

    Raises:
        ModelError: all embeddings are the same, or the equal error rate is that of a coin.
        UsageError: pairs of one kind only.
    """
    same, pairs = evaluation.same, evaluation.pairs
    if same.all() or not same.any():
        raise UsageError(f"{len(same)} pairs measure no accuracy: genuine and impostor pairs are needed")
    if max_drop >= ANYTHING:
        return None
    if alike(source):
        raise ModelError(f"{name}: gives the same embedding for every face; is it trained, and its contract right?")
    first, second = (pairs if evaluation.people is None else evaluation.people[pairs]).T
    eer, pixels = (
        separation(scores, same, first, second, FMR).eer
        for scores in (_scores(source, pairs), pixel_scores(evaluation.faces, pairs))
    )
    if eer > COIN:
        raise ModelError(
            f"{name}: tells the people of the test photos apart no better than a coin (equal error rate {100 * eer:.0f}"
            " %); is it trained, is its contract right, and are the photos aligned faces under the right names?"
        )
    if eer > HARDLY * pixels and eer > 0:
        return (
            f"{name}: tells the people of the test photos apart hardly better than their plain pixels at 16 × 16 do "
            f"(EER {100 * eer:.1f} %, theirs {100 * pixels:.1f}): is it trained, and is its contract right?"
        )
    return None


def few_genuine(evaluation: EvaluationSet, max_drop: float) -> str | None:
    """What to say where the genuine pairs are too few for the gate to show a loss of ``max_drop`` points."""
    genuine = int(evaluation.same.sum())
    if genuine >= GENUINE or max_drop >= ANYTHING:
        return None
    return (
        f"{genuine} genuine pair{'' if genuine == 1 else 's'} cannot show a loss of {max_drop:g} points; give more "
        f"test photos, so that there are {GENUINE} genuine pairs or more"
    )


def alike(rows: NDArray[np.float32]) -> bool:
    """True where all (N, D) unit rows are one and the same, as far as golden vectors can tell."""
    return bool((rows @ rows[0]).min() >= _ALIKE)


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
    drop = parity.drop
    if not drop.meets(max_drop):
        lost = f"loses {drop.points:.3f} points on {drop.pairs} pairs ({2 * drop.points:.2f} points of TAR)"
        chance = CHANCE / math.sqrt(drop.genuine)
        return f"{name}: {lost}, at most {max_drop} are allowed, and {chance:.2f} that chance can make"
    return None


def _scores(rows: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = (rows[pairs[:, 0]] * rows[pairs[:, 1]]).sum(axis=1)
    return scores


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
