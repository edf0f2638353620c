"""A guide: a trained net that looks at the same altered faces as the student and shows it its maps on the way.

A teacher's embedding is one vector a face. Its maps are thousands, each about a place in the face, so a student
that starts from nothing learns from far fewer faces (A. Romero et al., "FitNets: Hints for Thin Deep Nets",
ICLR 2015). Seeing each altered face itself, the guide never says what it would of another one (L. Beyer et al.,
"Knowledge distillation: A good teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeface.training.config import TrainConfig
from edgeface.training.ridge import fit_linear
from edgeface.training.run import Checkpoint
from edgeface_runtime import UsageError

RIDGE = 1e-2
"""For ``fit_linear`` of that start."""
COARSE = 4
"""Pixels a cell from which maps are compared: finer ones say little of who it is."""


class Guide(nn.Module):
    """Compares a student's maps with those of a trained net.

    At each resolution that both have, a 1×1 convolution of the student's last map is to give the guide's last one,
    each channel brought to mean 0 and deviation 1: the mean square of what is left is the share that the student
    does not explain. These convolutions start as the least squares fit, so that a student that knows something
    already is not pulled towards random ones. The guide's own weights are neither trained nor saved with the student's.

    Args of the constructor:
        net: the student, whose maps are caught as it trains.
        checkpoint: the guide.
        faces: (n, 3, S, S) faces normalised for the student, from which the guide's channels get their scale and
            the convolutions their start.
        config: of the training.

    Raises:
        UsageError: another size of faces or length of embedding, or no resolution in common.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, net: nn.Module, checkpoint: Checkpoint, faces: Tensor, config: TrainConfig) -> None:
        super().__init__()
        spec = checkpoint.contract.input
        for what, theirs, ours in (
            ("faces of {} pixels", spec.size, config.model.input_size),
            ("{} floats", checkpoint.contract.embedding.length, config.model.embedding_dim),
        ):
            if theirs != ours:
                raise UsageError(f"{checkpoint.path}: this guide has {what.format(theirs)}, the student {ours}")
        mine, its = last_maps(net, config.model.input_size), last_maps(checkpoint.net, config.model.input_size)
        self.sides = sorted(
            side for side in mine.keys() & its.keys() if side * COARSE <= config.model.input_size and side > 1
        )
        if not self.sides:
            raise UsageError(
                f"{checkpoint.path}: no map of this guide has the size of one of {config.model.backbone}'s"
            )
        self._dtype = torch.bfloat16 if config.system.mixed_precision == "bf16" else torch.float32
        guide = folded(checkpoint.net).to(self._dtype)
        self._guide = (guide,)  # in a tuple, so that it is no part of this module's state
        self._caught: dict[int, Tensor] = {}
        self._shown: dict[int, Tensor] = {}
        for side in self.sides:
            _catch(net.get_submodule(mine[side][0]), self._caught, side)
            _catch(guide.get_submodule(its[side][0]), self._shown, side)
        (mean, std), (its_mean, its_std) = config.model.pixel_statistics, (spec.mean, spec.std)
        self.register_buffer("gain", _column(std) / _column(its_std))
        self.register_buffer("offset", (_column(mean) - _column(its_mean)) / _column(its_std))
        self.say(faces)
        for side in self.sides:
            shown = self._shown[side].float()
            self.register_buffer(f"mean{side}", shown.mean((0, 2, 3), keepdim=True))
            self.register_buffer(f"std{side}", shown.std((0, 2, 3), keepdim=True) + 1e-3)
        self.regressors = nn.ModuleDict({str(side): nn.Conv2d(mine[side][1], its[side][1], 1) for side in self.sides})
        self._fit(net, faces)

    @torch.no_grad()
    def _fit(self, net: nn.Module, faces: Tensor) -> None:
        copy.deepcopy(net).train()(faces)  # as it trains, and without a trace in its batch norms
        for side in self.sides:
            shown = (self._shown[side].float() - getattr(self, f"mean{side}")) / getattr(self, f"std{side}")
            x, y = (maps.permute(0, 2, 3, 1).flatten(0, 2).double() for maps in (self._caught[side], shown))
            weight, bias = fit_linear([(x, y)], RIDGE)
            regressor: Any = self.regressors[str(side)]
            regressor.weight.copy_(weight[:, :, None, None])
            regressor.bias.copy_(bias)

    @torch.no_grad()
    def say(self, faces: Tensor) -> Tensor:
        """(N, 3, S, S) faces normalised for the student → (N, D) embeddings of the guide; its maps are kept."""
        guide = self._guide[0].to(faces.device)
        x = (faces * self.gain + self.offset).to(self._dtype).contiguous(memory_format=torch.channels_last)
        embeddings: Tensor = guide(x).float()
        return embeddings

    def forward(self) -> Tensor:
        """The share of the guide's maps, from 0, that the student's of the last forward passes do not explain."""
        shares = []
        for side in self.sides:
            shown = (self._shown[side].float() - getattr(self, f"mean{side}")) / getattr(self, f"std{side}")
            said = self.regressors[str(side)](self._caught[side]).float()
            if said.shape[-1] != shown.shape[-1]:
                shown = F.interpolate(shown, said.shape[-2:], mode="bilinear", antialias=True)
            shares.append(F.mse_loss(said, shown))
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
def last_maps(net: nn.Module, size: int) -> dict[int, tuple[str, int]]:
    """Side of a map → (the last layer or block of the trunk that gives one of that side, its channels)."""
    found: dict[int, tuple[str, int]] = {}
    copied = copy.deepcopy(net).eval()
    for name, module in copied.named_modules():
        if name.count(".") == 1:  # trunk.layer2, layers.13: not what is inside a block

            def note(_: nn.Module, __: Any, y: Tensor, name: str = name) -> None:
                if y.ndim == 4:
                    found[y.shape[-1]] = name, y.shape[1]

            module.register_forward_hook(note)
    copied(torch.zeros(1, 3, size, size, device=next(net.parameters()).device))
    return found


def _catch(module: nn.Module, kept: dict[int, Tensor], side: int) -> None:
    def keep(_: nn.Module, __: Any, y: Tensor) -> None:
        kept[side] = y

    module.register_forward_hook(keep)


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
