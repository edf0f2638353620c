"""Heads by name: what turns embeddings and labels into logits while training.

All are built as ``HEADS[name](embedding, classes, s=, m=)`` and called as
``head(embeddings, labels, margin)``; ``head.cosines(embeddings)`` is what they have learned of the
classes, without a margin. All compute in the precision of their weights (float32), also under autocast.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from edgeface_runtime import UsageError

# arccos has an infinite slope at ±1: an embedding that sits on its class centre would give NaN.
_EDGE = 1e-7


class ClassCentres(nn.Module):
    """One learnable centre a class; embeddings are compared with it by angle alone."""

    def __init__(self, embedding: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, embedding))
        nn.init.xavier_uniform_(self.weight)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """(N, D) embeddings of any length and precision → (N, classes) cosines to the class centres, in float32."""
        # Half precision has no number between 0.9961 (bfloat16) and 1, where the angle's slope is steepest.
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(F.normalize(embeddings.to(self.weight.dtype)), F.normalize(self.weight))

    @torch.no_grad()
    def imprint(self, embeddings: Tensor, labels: Tensor) -> None:
        """Starts the centres of (N,) int64 labels at the means of their (N, D) embeddings' directions.

        H. Qi, M. Brown, D. Lowe, "Low-Shot Learning with Imprinted Weights", CVPR 2018. Other centres stay as they are.
        """
        sums = torch.zeros_like(self.weight).index_add(0, labels, F.normalize(embeddings))
        seen = torch.unique(labels)
        self.weight[seen] = F.normalize(sums[seen])


class ArcFace(ClassCentres):
    """J. Deng, J. Guo, N. Xue, S. Zafeiriou, "ArcFace: Additive Angular Margin Loss", CVPR 2019.

    Logits s·cos(θ + m·[j = label]) (equation 3), θ the angle between embedding and class centre j.

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


class CosFace(ClassCentres):
    """H. Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018.

    Logits s·(cos θ − m·[j = label]) (equation 4), θ the angle between embedding and class centre j.
    """

    def __init__(self, embedding: int, classes: int, *, s: float = 64.0, m: float = 0.35) -> None:
        super().__init__(embedding, classes)
        self.s, self.m = s, m

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
        """(N, D) embeddings and (N,) int64 labels → (N, classes) logits; ``margin`` replaces m."""
        cosines = self.cosines(embeddings)
        m = self.m if margin is None else margin
        target = cosines.gather(1, labels[:, None]) - m
        return self.s * cosines.scatter(1, labels[:, None], target)


class AdaFace(ClassCentres):
    """M. Kim, A. K. Jain, X. Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022.

    Logits s·(cos(θ + g_angle) − g_add) of the label's class and s·cos θ of the others (equations 13 to 15), with
    g_angle = −m·ẑ, g_add = m·ẑ + m and ẑ = clip((‖z‖ − μ) / (σ / h), −1, 1): the length of an embedding stands for the
    quality of its photo, so that hard photos count where quality is high, easy ones where it is low. μ and σ are the
    running mean and deviation of the lengths, momentum 0.99, here started at those of the first batch.
    """

    H, MOMENTUM, EPS = 0.33, 0.99, 1e-3
    length_mean: Tensor
    length_std: Tensor
    batches: Tensor

    def __init__(self, embedding: int, classes: int, *, s: float = 64.0, m: float = 0.4) -> None:
        super().__init__(embedding, classes)
        self.s, self.m = s, m
        self.register_buffer("length_mean", torch.zeros(()))
        self.register_buffer("length_std", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
        """(N, D) embeddings and (N,) int64 labels → (N, classes) logits; ``margin`` replaces m."""
        m = self.m if margin is None else margin
        cosines, quality = self.cosines(embeddings), self.quality(embeddings)
        theta = torch.acos(cosines.gather(1, labels[:, None]).clamp(-1 + _EDGE, 1 - _EDGE))
        target = torch.cos((theta - m * quality).clamp(0, torch.pi)) - (m * quality + m)
        return self.s * cosines.scatter(1, labels[:, None], target)

    @torch.no_grad()
    def quality(self, embeddings: Tensor) -> Tensor:
        """(N, D) embeddings → ẑ (N, 1), −1 to 1; while training their lengths go into the running statistics."""
        with torch.autocast(embeddings.device.type, enabled=False):
            lengths = embeddings.to(self.weight.dtype).norm(dim=1, keepdim=True)
        if self.training:
            mean = _mean_of_all(lengths)
            std = _mean_of_all((lengths - mean).square()).sqrt()
            rate = torch.where(self.batches == 0, 1.0, 1 - self.MOMENTUM)
            self.length_mean += rate * (mean - self.length_mean)
            self.length_std += rate * (std - self.length_std)
            self.batches += 1
        quality: Tensor = self.H * (lengths - self.length_mean) / (self.length_std + self.EPS)
        return quality.clamp(-1, 1)


def _mean_of_all(values: Tensor) -> Tensor:
    """The mean over the batches of all processes, which are equally large."""
    mean = values.mean()
    if dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean


class Softmax(ClassCentres):
    """A linear layer over the embedding, the baseline that margin heads are measured against.

    Logits w·x + b of the embedding as it is: no scale, no margin; ``s`` and ``m`` are taken and not used.
    """

    def __init__(self, embedding: int, classes: int, *, s: float = 1.0, m: float = 0.0) -> None:
        super().__init__(embedding, classes)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
        """(N, D) embeddings → (N, classes) logits; labels and margin change nothing."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings.to(self.weight.dtype), self.weight, self.bias)


HEADS: dict[str, type[ArcFace | CosFace | AdaFace | Softmax]] = {
    "arcface": ArcFace,
    "arcface-learned": LearnedArcFace,
    "cosface": CosFace,
    "adaface": AdaFace,
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
