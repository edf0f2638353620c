"""The faces that an export needs, by what they are for: none of them serves two purposes that bias each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
