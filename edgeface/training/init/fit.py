"""The last layers of a model that knows faces already: the embedding by least squares, the head from class means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgeface.backbones.layers import Pooled
from edgeface.data.dataset import batches
from edgeface.progress import Reporter
from edgeface.training.augment import normalize
from edgeface.training.config import TrainConfig
from edgeface.training.distill.features import FeatureTeacher
from edgeface.training.least_squares import fit_linear
from edgeface.training.training_state import Learner, Pool

RIDGE = 0.05
"""For the embedding's ``fit_linear``, times the number of its inputs by that of faces."""
ROWS = 1000
"""Faces added up at once: each time costs the square of the inputs."""
KEPT = 2000
"""Faces that give the batch norm its statistics, and the reported cosine."""


@torch.no_grad()
def fit_embedding(net: Pooled, parts: Iterable[tuple[Tensor, Tensor]], count: int) -> float:
    """Fits the linear layer between trunk and embedding to give what is wanted, in place.

    Args:
        net: ResNet18 or VGG.
        parts: (n, 3, S, S) faces normalised for it, and the (n, D) embeddings wanted, of any length.
        count: how many faces these are together.

    Returns:
        Mean cosine between what is wanted and what the net gives, on the first 2,000 of these faces.
    """
    embed: Any = net.eval().embed
    pool, linear, norm, _ = embed
    few: list[tuple[Tensor, Tensor]] = []

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        gathered: list[tuple[Tensor, Tensor]] = []
        for x, target in parts:
            gathered.append((pool(net.trunk(x)).flatten(1), F.normalize(target)))
            if sum(len(y) for y, _ in gathered) >= ROWS:
                yield joined(gathered)
                gathered.clear()
        if gathered:
            yield joined(gathered)

    def joined(gathered: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = (torch.cat(each) for each in zip(*gathered, strict=True))
        if sum(len(each) for each, _ in few) < KEPT:
            few.append((x, y))
        return x, y

    weight, bias = fit_linear(rows(), RIDGE * linear.weight[0].numel() / count)
    x, target = (torch.cat(each) for each in zip(*few, strict=True))
    y = x @ weight.T
    gain = 1 / y.std()  # a deviation near 1, beside which batch norm's eps is nothing
    linear.weight.copy_((gain * weight).view_as(linear.weight))
    norm.running_mean.copy_(gain * y.mean(0))
    norm.running_var.copy_((gain * y).var(0))
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(norm.running_mean + gain * bias)
    return float(F.cosine_similarity(y + bias, target).mean())


@torch.no_grad()
def fit_to_teachers(
    learner: Learner, pool: Pool, rows: NDArray[np.int64], config: TrainConfig, reporter: Reporter
) -> None:
    """``fit_embedding`` to the outputs of the feature teacher or of the teachers for the faces of ``rows``."""
    hints = learner.feature_teacher

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        for part in reporter.track(batches(rows, 64), "fitting the embedding"):
            faces, _, target = pool.batch(part)
            x = normalize(faces, *config.model.pixel_statistics).contiguous(memory_format=torch.channels_last)
            if isinstance(hints, FeatureTeacher):
                target = hints.embed(x)
            assert target is not None
            yield x, target

    assert isinstance(learner.net, Pooled)
    cosine = fit_embedding(learner.net, parts(), len(rows))
    few = min(len(rows), KEPT)
    reporter.say(
        f"embedding fitted on {len(rows)} faces: mean cosine to the teacher {cosine:.3f} on {few} of them",
    )


@torch.no_grad()
def imprint_head(
    learner: Learner, pool: Pool, rows: NDArray[np.int64], config: TrainConfig, reporter: Reporter
) -> None:
    """Starts the head's class centers at the mean embeddings of the identities of ``rows`` (Qi et al., CVPR 2018)."""
    learner.net.eval()
    parts = []
    for part in reporter.track(batches(rows, 64), "imprinting the head"):
        faces, labels, _ = pool.batch(part)
        parts.append((learner.net(normalize(faces, *config.model.pixel_statistics)), labels))
    embeddings, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    head: Any = learner.head
    head.imprint(embeddings, labels)
