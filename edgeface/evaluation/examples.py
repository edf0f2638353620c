"""Single answers to look at: which photo was taken for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData
from edgeface.evaluation.identification import Answers
from edgeface_runtime import UsageError


@dataclass(frozen=True)
class Example:
    """One test photo, the person it was named after and the person it shows; rows of the data."""

    probe: int
    named: int
    true: int
    score: float
    named_name: str
    true_name: str
    path: str

    @property
    def is_right(self) -> bool:
        """True when the name is the right one."""
        return self.named_name == self.true_name


def examples(given: Answers, embeddings: NDArray[np.float32], data: FaceData) -> tuple[Example, ...]:
    """One for each test photo; each person is shown by the gallery photo that is most like the probe.

    Args:
        given: the answers for the data's ``test`` rows.
        embeddings: (N, D) float32 unit rows of ``data.faces``.
        data: the faces.
    """
    gallery = data.rows("train", "val")
    of_person = {label: gallery[data.labels[gallery] == label] for label in range(len(data.identities))}

    def nearest(label: int, probe: int) -> int:
        rows = of_person[label]
        return int(rows[(embeddings[rows] @ embeddings[probe]).argmax()]) if len(rows) else probe

    found = []
    for place, probe in enumerate(data.rows("test").tolist()):
        named, true = int(given.named[place]), int(given.truth[place])
        found.append(
            Example(
                probe=probe,
                named=nearest(named, probe),
                true=nearest(true, probe),
                score=float(given.scores[place]),
                named_name=data.identities[named],
                true_name=data.identities[true],
                path=data.paths[probe],
            )
        )
    return tuple(found)


def example_at(found: Sequence[Example], number: int) -> Example:
    """The test photo with that number, from 0.

    Raises:
        UsageError: there are fewer.
    """
    if not 0 <= number < len(found):
        raise UsageError(f"--example {number}: the test photos are numbered 0 to {len(found) - 1}")
    return found[number]
