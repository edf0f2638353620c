"""Feature distillation: a student learns a trained model's intermediate feature maps too (FitNets).

A teacher's embedding is one vector a face. Its feature maps are thousands, each about a place in the face, so a student
that starts from random weights learns from far fewer faces (A. Romero et al., "FitNets: Hints for Thin Deep Nets",
ICLR 2015). The teacher sees each augmented face that the student sees, so that its output belongs to that very face
(L. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeface.training.checkpoints import Checkpoint
from edgeface.training.config import TrainConfig
from edgeface.training.least_squares import fit_linear
from edgeface_runtime import UsageError

RIDGE = 1e-2
"""For the ``fit_linear`` that the regressors start from."""
COARSE = 4
"""Pixels a cell from which feature maps are compared: finer ones say little of who it is."""


class FeatureTeacher(nn.Module):
    """Compares a student's feature maps with those of a trained model; its ``forward`` is the hint loss.

    At each resolution that both have, a regressor, a 1×1 convolution, predicts the teacher's last feature map from the
    student's last one. Each channel of the teacher's is brought to mean 0 and deviation 1, so that the mean squared
    error is the share of its variance that the student does not explain. The regressors start as the least squares
    fit, so that a student that knows something already is not pulled towards random ones. The teacher's own weights
    are neither trained nor saved with the student's.

    Args of the constructor:
        net: the student, whose feature maps are recorded as it trains.
        checkpoint: the teacher.
        faces: (n, 3, S, S) faces normalized for the student, from which the teacher's channels get their scale and
            the regressors their start.
        config: of the training.

    Raises:
        UsageError: another size of faces or length of embedding, or no resolution in common.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, net: nn.Module, checkpoint: Checkpoint, faces: Tensor, config: TrainConfig) -> None:
        super().__init__()
        spec = checkpoint.contract.input
        for what, has, wanted in (
            ("faces of {} pixels", spec.size, config.model.input_size),
            ("{} floats", checkpoint.contract.embedding.length, config.model.embedding_dim),
        ):
            if has != wanted:
                raise UsageError(f"{checkpoint.path}: this teacher has {what.format(has)}, the student {wanted}")
        ours, theirs = (
            last_feature_maps(net, config.model.input_size),
            last_feature_maps(checkpoint.net, config.model.input_size),
        )
        self.sides = sorted(
            side for side in ours.keys() & theirs.keys() if side * COARSE <= config.model.input_size and side > 1
        )
        if not self.sides:
            raise UsageError(
                f"{checkpoint.path}: no feature map of this teacher has the size of one of {config.model.backbone}'s"
            )
        self._dtype = torch.bfloat16 if config.system.mixed_precision == "bf16" else torch.float32
        teacher = folded(checkpoint.net).to(self._dtype)
        self._teacher = (teacher,)  # in a tuple, so that it is no part of this module's state
        self._student_maps: dict[int, Tensor] = {}
        self._teacher_maps: dict[int, Tensor] = {}
        for side in self.sides:
            _record(net.get_submodule(ours[side][0]), self._student_maps, side)
            _record(teacher.get_submodule(theirs[side][0]), self._teacher_maps, side)
        (mean, std), (its_mean, its_std) = config.model.pixel_statistics, (spec.mean, spec.std)
        self.register_buffer("gain", _column(std) / _column(its_std))
        self.register_buffer("offset", (_column(mean) - _column(its_mean)) / _column(its_std))
        self.embed(faces)
        for side in self.sides:
            target = self._teacher_maps[side].float()
            self.register_buffer(f"mean{side}", target.mean((0, 2, 3), keepdim=True))
            self.register_buffer(f"std{side}", target.std((0, 2, 3), keepdim=True) + 1e-3)
        self.regressors = nn.ModuleDict(
            {str(side): nn.Conv2d(ours[side][1], theirs[side][1], 1) for side in self.sides}
        )
        self._fit(net, faces)

    @torch.no_grad()
    def _fit(self, net: nn.Module, faces: Tensor) -> None:
        copy.deepcopy(net).train()(faces)  # as it trains, and without a trace in its batch norms
        for side in self.sides:
            target = (self._teacher_maps[side].float() - getattr(self, f"mean{side}")) / getattr(self, f"std{side}")
            x, y = (maps.permute(0, 2, 3, 1).flatten(0, 2).double() for maps in (self._student_maps[side], target))
            weight, bias = fit_linear([(x, y)], RIDGE)
            regressor = self.regressors[str(side)]
            assert isinstance(regressor, nn.Conv2d)
            assert regressor.bias is not None
            regressor.weight.copy_(weight[:, :, None, None])
            regressor.bias.copy_(bias)

    @torch.no_grad()
    def embed(self, faces: Tensor) -> Tensor:
        """(N, 3, S, S) faces normalized for the student → the teacher's (N, D) embeddings; its maps are kept."""
        teacher = self._teacher[0].to(faces.device)
        x = (faces * self.gain + self.offset).to(self._dtype).contiguous(memory_format=torch.channels_last)
        embeddings: Tensor = teacher(x).float()
        return embeddings

    def forward(self) -> Tensor:
        """The hint loss after a forward pass of both: the unexplained share of the teacher's variance, from 0."""
        shares = []
        for side in self.sides:
            target = (self._teacher_maps[side].float() - getattr(self, f"mean{side}")) / getattr(self, f"std{side}")
            predicted = self.regressors[str(side)](self._student_maps[side]).float()
            if predicted.shape[-1] != target.shape[-1]:
                target = F.interpolate(target, predicted.shape[-2:], mode="bilinear", antialias=True)
            shares.append(F.mse_loss(predicted, target))
        return torch.stack(shares).mean()


def folded(net: nn.Module) -> nn.Module:
    """A copy with each batch norm that follows a convolution in a Sequential folded into it: less to compute."""
    copied = copy.deepcopy(net).eval()
    for parent in [module for module in copied.modules() if isinstance(module, nn.Sequential)]:
        children = list(parent.named_children())
        for (name, layer), (after, norm) in pairwise(children):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent.add_module(name, fuse_conv_bn_eval(layer, norm))
                parent.add_module(after, nn.Identity())
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def last_feature_maps(net: nn.Module, size: int) -> dict[int, tuple[str, int]]:
    """Side of a feature map → (the last layer or block of the trunk that gives one of that side, its channels)."""
    found: dict[int, tuple[str, int]] = {}
    copied = copy.deepcopy(net).eval()
    for name, module in copied.named_modules():
        if name.count(".") == 1:  # trunk.layer2, layers.13: not what is inside a block

            def note(_: nn.Module, __: object, y: Tensor, name: str = name) -> None:
                if y.ndim == 4:
                    found[y.shape[-1]] = name, y.shape[1]

            module.register_forward_hook(note)
    copied(torch.zeros(1, 3, size, size, device=next(net.parameters()).device))
    return found


def _record(module: nn.Module, kept: dict[int, Tensor], side: int) -> None:
    def keep(_: nn.Module, __: object, y: Tensor) -> None:
        kept[side] = y

    module.register_forward_hook(keep)


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
