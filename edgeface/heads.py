"""Heads by name: what turns embeddings and labels into logits while training.

All are built as ``HEADS[name](embedding, classes, s=, m=)`` and called as
``head(embeddings, labels, margin)``; ``head.cosines(embeddings)`` is what they have learned of the
classes, without a margin. All compute in the precision of their weights (float32), also under autocast.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface_runtime import UsageError

# arccos has an infinite slope at ±1: an embedding that sits on its class centre would give NaN.
_EDGE = 1e-7


class ClassCentres(nn.Module):
    """One learnable centre a class; embeddings are compared with it by angle alone."""

    CENTRES = 1
    """Rows of the weight that a class has."""

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
        centres = self.weight.view(len(self.weight), -1, self.weight.shape[-1])[:, 0]
        sums = torch.zeros_like(centres).index_add(0, labels, F.normalize(embeddings))
        seen = torch.unique(labels)
        centres[seen] = F.normalize(sums[seen])

    def penalty(self, embeddings: Tensor) -> Tensor | None:
        """What each of (N, D) embeddings adds to its cross-entropy, (N,); None where the head adds nothing."""


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
        """As ``forward``, with a margin that may itself be learned, or one for each embedding, (N, 1)."""
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


class SubcenterArcFace(ArcFace):
    """J. Deng, J. Guo, T. Liu, M. Gong, S. Zafeiriou, "Sub-center ArcFace", ECCV 2020.

    Three centres a class; θ of ArcFace's logits is the angle to the nearest of them (section 3.2, K = 3). Photos under
    a wrong name may gather at a centre of their own, in place of pulling the one at which most of the class lies.
    """

    CENTRES = 3

    def __init__(self, embedding: int, classes: int, *, s: float = 64.0, m: float = 0.5) -> None:
        super().__init__(embedding, self.CENTRES * classes, s=s, m=m)
        self.weight = nn.Parameter(self.weight.detach().view(classes, self.CENTRES, embedding))

    def all_cosines(self, embeddings: Tensor) -> Tensor:
        """(N, D) embeddings → (N, classes, 3) cosines to all centres."""
        with torch.autocast(embeddings.device.type, enabled=False):
            centres = F.normalize(self.weight, dim=2).flatten(0, 1)
            found = F.linear(F.normalize(embeddings.to(self.weight.dtype)), centres)
            return found.view(len(embeddings), -1, self.CENTRES)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """(N, D) embeddings → (N, classes) cosines to the nearest centre of each class."""
        return self.all_cosines(embeddings).max(2).values  # amax would share the gradient among equal centres


class MagFace(ArcFace):
    """Q. Meng, S. Zhao, Z. Huang, F. Zhou, "MagFace: A Universal Representation for … Quality Assessment", CVPR 2021.

    ArcFace whose margin grows with the length a of the embedding, and a penalty that makes embeddings long: what is
    easy to recognize ends long and near its centre, so that the length tells the quality of a photo.

    The margin is linear from m at a = 10 to 0.8 / 0.45 · m at a = 110 (the paper's bounds), a clipped to these. The
    penalty is 35 · (a / 110² + 1 / a), here also for shorter and longer embeddings, down to a = 1, so that they come
    into the bounds.
    """

    SHORTEST, LONGEST, GROWTH, WEIGHT = 10.0, 110.0, 0.8 / 0.45, 35.0

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
        """As ``ArcFace.forward``; ``margin`` is that of the shortest embeddings."""
        share = (self.lengths(embeddings) - self.SHORTEST) / (self.LONGEST - self.SHORTEST)
        growth = 1 + (self.GROWTH - 1) * share.clamp(0, 1)[:, None]
        return self.logits(embeddings, labels, (self.m if margin is None else margin) * growth)

    def penalty(self, embeddings: Tensor) -> Tensor:
        """(N, D) embeddings → (N,) 35 · g(a)."""
        lengths = self.lengths(embeddings).clamp(min=1)
        return self.WEIGHT * (lengths / self.LONGEST**2 + 1 / lengths)

    def lengths(self, embeddings: Tensor) -> Tensor:
        """(N, D) embeddings → their lengths a, (N,), in the precision of the weights."""
        with torch.autocast(embeddings.device.type, enabled=False):
            lengths: Tensor = embeddings.to(self.weight.dtype).norm(dim=1)
            return lengths


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
    "arcface-subcenter": SubcenterArcFace,
    "magface": MagFace,
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


class ClassSampling:
    """X. An et al., "Killing Two Birds with One Stone: Efficient and Robust Training … by Partial FC", CVPR 2022.

    A step learns the classes of its batch and others, drawn, until these are ``share`` of all: logits, gradients and
    the optimizer's work are those of the classes drawn alone. Between steps head and optimizer hold all classes, so
    that validation and saved states are as without sampling; a class that a step leaves out neither moves nor decays.
    All processes draw the same, by the seed of the step.

    Args of the constructor: a head, the optimizer of its parameters, the share of the classes, 1 for all, and the
    faces in a batch over all processes.
    """

    def __init__(self, head: ClassCentres, optimizer: torch.optim.Optimizer, share: float, batch: int) -> None:
        self.classes, self.optimizer = len(head.weight), optimizer
        self.drawn = drawn_classes(self.classes, share, batch)
        several = [each for each in head.parameters() if each.ndim and len(each) == self.classes]
        self.parameters = several if self.drawn < self.classes else []
        self.rows = torch.empty(0, dtype=torch.int64)
        self.whole: dict[nn.Parameter, tuple[Tensor, dict[str, Tensor]]] = {}
        for parameter in self.parameters if dist.is_initialized() else ():
            dist.broadcast(parameter.data, 0)  # torch does so with what a step holds, which is not all
        self._hold(np.arange(self.drawn))  # whoever shares gradients among processes asks for their shapes once

    def columns(self, labels: Tensor, everyones: NDArray[np.int64], seed: int) -> Tensor:
        """Begins a step: draws its classes, which head and optimizer hold until ``release``.

        Args:
            labels: (n,) int64 classes of this process' faces, −1 where one has none.
            everyones: (N,) those of the faces of all processes.
            seed: of the step.

        Returns:
            (n,) int64 columns of the logits that are the labels' own; −1 stays.
        """
        if not self.parameters:
            return labels
        self.release()
        own = np.unique(everyones[everyones >= 0])
        self._hold(_drawn(own, self.classes, self.drawn, seed))
        return torch.where(labels < 0, labels, torch.searchsorted(self.rows, labels))

    @torch.no_grad()
    def release(self) -> None:
        """Ends a step, also one that the optimizer has left out: what it learned goes back among all classes."""
        for parameter, (weight, states) in self.whole.items():
            weight[self.rows] = parameter.data
            state = self.optimizer.state[parameter]
            for name, part in state.items():
                if isinstance(part, Tensor) and part.shape == parameter.shape:
                    all_classes = states[name] if name in states else torch.zeros_like(weight)
                    all_classes[self.rows] = part
                    state[name] = all_classes
            parameter.data, parameter.grad = weight, None
        self.whole.clear()

    @torch.no_grad()
    def _hold(self, rows: NDArray[np.int64]) -> None:
        self.rows = torch.from_numpy(rows)
        for parameter in self.parameters:
            self.rows = self.rows.to(parameter.device)
            weight, state = parameter.data, self.optimizer.state[parameter]
            states = {name: part for name, part in state.items() if isinstance(part, Tensor) and part.ndim}
            self.whole[parameter] = (weight, states)
            parameter.data = weight[self.rows]
            state.update({name: part[self.rows] for name, part in states.items()})


def _drawn(own: NDArray[np.int64], classes: int, count: int, seed: int) -> NDArray[np.int64]:
    """``count`` classes in their order: all of ``own``, sorted, and others, each equally likely."""
    picks = np.random.default_rng(seed).choice(classes - len(own), count - len(own), replace=False, shuffle=False)
    # The n-th class that is not in own: as many of own lie before it as have an n of their own up to there.
    others = picks + np.searchsorted(own - np.arange(len(own)), picks, side="right")
    return np.sort(np.concatenate([own, others]))


def drawn_classes(classes: int, share: float, batch: int) -> int:
    """How many classes a step learns: a share of all, and at least as many as a batch can have."""
    return min(classes, max(math.ceil(share * classes), batch))
