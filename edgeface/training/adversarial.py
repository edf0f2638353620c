"""Adversarial training: faces are moved, within a few grey levels, to where the loss is larger, and trained on there.

FGSM: I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015.
PGD: A. Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeface.training.config import AugmentConfig, TrainConfig
from edgeface.training.devices import onto
from edgeface.training.training_state import Learner

_STEP = 2.5
"""Steps of PGD together are so many times as long as the way to the edge of the ball (Madry et al., appendix)."""


def perturbed(
    x: Tensor,
    learner: Learner,
    labels: Tensor,
    target: Tensor | None,
    margin: float,
    config: TrainConfig,
    place: slice,
    generator: torch.Generator,
) -> Tensor:
    """The batch with ``adversarial_ratio`` of its faces, evenly spread, moved to where the loss is larger.

    The net is asked as it recognizes, not as it trains: no face is counted twice in the batch norms, and of several
    processes none waits for another.

    Args:
        x: (n, 3, H, W) normalized, augmented faces.
        learner: net and head.
        labels: (n,) int64; −1 where a face has no name.
        target: (n, D) the teachers' embeddings, or None.
        margin: of the head, as at this step.
        config: of the training.
        place: where these faces lie in the batch of all processes.
        generator: of the step; PGD starts at a random place.
    """
    settings, batch = config.augment, config.data.batch_size
    counted = torch.floor(torch.arange(batch + 1, dtype=torch.float64) * settings.adversarial_ratio + 1e-9)
    chosen = torch.nonzero((counted.diff() > 0)[place])[:, 0]
    if not len(chosen):
        return x
    chosen = onto(chosen, x.device)
    starts = torch.zeros(())
    if settings.adversarial == "pgd":  # drawn for the whole batch, as all random numbers are
        starts = (torch.rand(batch, *x.shape[1:], generator=generator) * 2 - 1)[place]
        starts = onto(starts, x.device)[chosen]
    names, wanted = labels[chosen], None if target is None else target[chosen]

    def loss(faces: Tensor) -> Tensor:
        embeddings = learner.net(faces).float()
        logits = learner.head(embeddings, names.clamp(min=0), margin).float()
        found = F.cross_entropy(logits, names, ignore_index=-1, reduction="sum") * config.distill.classification_weight
        if wanted is not None:
            found = found - config.distill.distill_weight * F.cosine_similarity(embeddings, wanted).sum()
        return found

    learner.eval()
    moved = attack(x[chosen], loss, settings, config.model.pixel_statistics[1], starts)
    learner.train()
    return x.index_copy(0, chosen, moved)


def attack(
    x: Tensor, loss: Callable[[Tensor], Tensor], settings: AugmentConfig, std: Sequence[float], starts: Tensor
) -> Tensor:
    """Faces at most ``adversarial_eps`` grey levels in each pixel and channel from the given ones, of a larger loss.

    Args:
        x: (N, 3, H, W) normalized faces.
        loss: of such faces, summed over them: each face's own gradient counts.
        settings: the method, how far and in how many steps.
        std: of the normalization, in grey levels per channel.
        starts: (N, 3, H, W) where in the ball PGD starts, −1 to 1; of FGSM a single 0.
    """
    eps = (settings.adversarial_eps / onto(torch.tensor(std), x.device)).view(1, 3, 1, 1)
    steps = settings.adversarial_steps if settings.adversarial == "pgd" else 1
    step = eps if settings.adversarial == "fgsm" else eps * (_STEP / steps)
    moved = x + eps * starts
    for _ in range(steps):
        faces = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(faces), faces)
        # A gradient that overflowed in half precision has no direction: the pixel stays.
        moved = moved + step * gradient.nan_to_num(0.0).sign()
        moved = torch.minimum(torch.maximum(moved, x - eps), x + eps)
    return moved.detach()
