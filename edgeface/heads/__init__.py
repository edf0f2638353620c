"""Heads by name: what turns embeddings and labels into logits while training.

All are built as ``HEADS[name](embedding, classes, s=, m=)`` and called as
``head(embeddings, labels, margin)``; ``head.cosines(embeddings)`` is what they have learned of the
classes, without a margin. All compute in the precision of their weights (float32), also under autocast.
"""

from __future__ import annotations

from edgeface.heads.arcface import ArcFace, LearnedArcFace
from edgeface.heads.cosface import CosFace
from edgeface.heads.margin import ClassCentres
from edgeface.heads.softmax import Softmax
from edgeface_runtime import UsageError

__all__ = ["HEADS", "ArcFace", "ClassCentres", "CosFace", "LearnedArcFace", "Softmax", "build_head"]

HEADS: dict[str, type[ArcFace | CosFace | Softmax]] = {
    "arcface": ArcFace,
    "arcface-learned": LearnedArcFace,
    "cosface": CosFace,
    "softmax": Softmax,
}


def build_head(name: str, embedding: int, classes: int, *, s: float, m: float) -> ClassCentres:
    """A head for embeddings of that length and that many classes.

    Raises:
        UsageError: no head of that name, or a margin that it cannot start from.
    """
    if name not in HEADS:
        raise UsageError(f"no head {name!r}; there are: {', '.join(HEADS)}")
    return HEADS[name](embedding, classes, s=s, m=m)
