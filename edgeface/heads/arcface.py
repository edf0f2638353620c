"""ArcFace: J. Deng, J. Guo, N. Xue, S. Zafeiriou, "ArcFace: Additive Angular Margin Loss", CVPR 2019."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgeface.heads.margin import ClassCentres
from edgeface_runtime import UsageError

# arccos has an infinite slope at ±1: an embedding that sits on its class centre would give NaN.
_EDGE = 1e-7


class ArcFace(ClassCentres):
    """Logits s·cos(θ + m·[j = label]) (equation 3), θ the angle between embedding and class centre j.

    Past θ + m = π the cosine would rise again; there the logit goes on falling linearly, as the
    authors' code has it: cos θ − m·sin(π − m).

    Args of the constructor: lengths of embedding and class list, scale ``s``, margin ``m`` in radians.
    """

    def __init__(self, embedding: int, classes: int, *, s: float = 64.0, m: float = 0.5) -> None:
        super().__init__(embedding, classes)
        self.s, self.m = s, m

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
        """(N, D) embeddings and (N,) int64 labels → (N, classes) logits; ``margin`` in radians replaces m."""
        return self.logits(embeddings, labels, self.m if margin is None else margin)

    def logits(self, embeddings: Tensor, labels: Tensor, margin: float | Tensor) -> Tensor:
        """As ``forward``, with a margin that may itself be learned."""
        cosines = self.cosines(embeddings)
        target = cosines.gather(1, labels[:, None]).clamp(-1 + _EDGE, 1 - _EDGE)
        theta = torch.acos(target)
        sine = torch.sin(margin) if isinstance(margin, Tensor) else math.sin(margin)
        with_margin = torch.where(theta + margin <= torch.pi, torch.cos(theta + margin), target - margin * sine)
        return self.s * cosines.scatter(1, labels[:, None], with_margin)


class LearnedArcFace(ArcFace):
    """ArcFace whose margin is a parameter of the net: m = π/2 · sigmoid(r), so within (0, π/2).

    A larger margin can only raise the loss, so its gradient always lowers m: how far is a matter of
    the rate and the length of the run. ``m`` of the constructor is where it starts.

    Raises:
        UsageError: a start that is not between 0 and π/2.
    """

    def __init__(self, embedding: int, classes: int, *, s: float = 64.0, m: float = 0.5) -> None:
        super().__init__(embedding, classes, s=s, m=m)
        share = m / (math.pi / 2)
        if not 0 < share < 1:
            raise UsageError(f"m={m:g}: a learned margin starts between 0 and {math.pi / 2:.4f} radians")
        self.raw_margin = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    @property
    def margin(self) -> Tensor:
        """The margin as it stands, in radians."""
        return torch.sigmoid(self.raw_margin) * (math.pi / 2)

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
        """As ``ArcFace.forward``; ``margin`` / m is the share of the learned margin that is used (warm-up)."""
        share = 1.0 if margin is None else margin / self.m
        return self.logits(embeddings, labels, self.margin * share)
