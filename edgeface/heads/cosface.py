"""CosFace: H. Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018."""

from __future__ import annotations

from torch import Tensor

from edgeface.heads.margin import ClassCentres


class CosFace(ClassCentres):
    """Logits s·(cos θ − m·[j = label]) (equation 4), θ the angle between embedding and class centre j."""

    def __init__(self, embedding: int, classes: int, *, s: float = 64.0, m: float = 0.35) -> None:
        super().__init__(embedding, classes)
        self.s, self.m = s, m

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
        """(N, D) embeddings and (N,) int64 labels → (N, classes) logits; ``margin`` replaces m."""
        cosines = self.cosines(embeddings)
        m = self.m if margin is None else margin
        target = cosines.gather(1, labels[:, None]) - m
        return self.s * cosines.scatter(1, labels[:, None], target)
