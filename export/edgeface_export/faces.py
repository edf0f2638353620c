"""The faces that an export needs, by what they are for: none of them serves two purposes that bias each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import UsageError

MIN_PAIRS = 6000
MAX_PHOTOS = 3000
"""All pairs of more photos would not fit into a small machine's memory."""
_BLUE = 8.0
"""By how many levels blue exceeds red on average before faces are taken for BGR: skin has more red than blue."""

Thresholds = Callable[[NDArray[np.float32]], tuple[dict[str, object], dict[str, object]]]
"""(N, D) embeddings → the contract's ``thresholds`` and its ``accuracy["thresholds"]``."""


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Faces that took no part in calibration, and the pairs of them that a file is measured on."""

    faces: NDArray[np.uint8]
    """(N, S, S, 3) uint8 RGB."""
    pairs: NDArray[np.int64]
    """(P, 2) rows of ``faces``."""
    same: NDArray[np.bool_]
    """(P,) True for a genuine pair, False for an impostor pair."""
    people: NDArray[np.int64] | None = None
    """(N,) whom each face shows, numbered from 0, for the intervals; None takes each for another person."""


@dataclass(frozen=True, eq=False)
class ThresholdFaces:
    """Faces of people that the model was not trained on: what thresholds are measured on."""

    faces: NDArray[np.uint8]
    """(N, S, S, 3) uint8 RGB; may be empty, then ``thresholds`` says why there are none."""
    thresholds: Thresholds
    """From the embeddings of ``faces``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportFaces:
    """All faces of one export."""

    calibration: NDArray[np.uint8]
    """(N, S, S, 3) uint8 RGB that static int8 takes activation ranges from; may be empty for other precisions."""
    evaluation: EvaluationSet
    """What the gate measures on; none of its faces calibrate."""
    selection: EvaluationSet | None = None
    """What a calibrator is chosen on, neither calibration nor evaluation; None where no such faces are left."""
    thresholds: ThresholdFaces | None = None
    """None leaves the contract without thresholds."""

    def check(self, size: int, progress: Callable[[str], None], *, calibrated: bool) -> None:
        """Refuses arrays that are no faces, and says so where faces look like BGR.

        Args:
            size: S, the side that the contract asks for.
            progress: told what looks odd.
            calibrated: whether activation ranges are taken from them.

        Raises:
            UsageError: another shape or type, or none where some are needed.
        """
        for what, faces in (("calibration", self.calibration), ("evaluation", self.evaluation.faces)):
            if not len(faces) and what == "calibration" and not calibrated:
                continue
            if not len(faces) or faces.shape[1:] != (size, size, 3) or faces.dtype != np.uint8:
                raise UsageError(
                    f"{what} faces are {faces.dtype} {faces.shape}, not uint8 (N, {size}, {size}, 3), N ≥ 1"
                )
            if faces[..., 2].mean() > faces[..., 0].mean() + _BLUE:
                progress(f"{what} faces have more blue than red: are they BGR? RGB is what is asked for")


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
