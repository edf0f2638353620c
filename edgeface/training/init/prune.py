"""Channel pruning: a narrow MobileFaceNet from a wider one, before any training.

Channels are selected, and each layer of the narrow model is fitted by least squares to the wide one's output, from the
narrow model's own input to it, so that it mends part of the error of the layers before (Y. He, X. Zhang, J. Sun,
"Channel pruning for accelerating very deep neural networks", ICCV 2017, 3.1). Before an activation channels can only
be selected. The residual stream between blocks has no activation, so it is rotated first (S. Ashkboos et al.,
"SliceGPT", ICLR 2024), to the directions from which the next layers' outputs are predicted best (A. Izenman,
"Reduced-rank regression for the multivariate linear model", 1975).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeface.backbones.mobilefacenet import Bottleneck, MobileFaceNet
from edgeface.training.least_squares import fit_linear
from edgeface_runtime import UsageError

ROWS = 50_000
"""Positions in feature maps from which a layer is fitted."""
RIDGE = 0.5
"""For a layer's ``fit_linear``, times the number of its inputs by that of rows."""


def is_wider(wide: nn.Module, net: nn.Module) -> bool:
    """Whether both are MobileFaceNets alike in all but their channels, of which ``net`` has no more."""
    if not (isinstance(net, MobileFaceNet) and isinstance(wide, MobileFaceNet)):
        return False
    kinds, channels = (
        [[of(layer) for layer in one.modules() if isinstance(layer, sort)] for one in (net, wide)]
        for of, sort in ((type, nn.Module), (lambda layer: layer.num_features, nn.BatchNorm2d))
    )
    fewer = all(ours <= theirs for ours, theirs in zip(*channels, strict=False))
    if any(isinstance(layer, Bottleneck) and not isinstance(layer.attention, nn.Identity) for layer in net.modules()):
        return False  # a fitted layer does not know what an attention block makes of it
    return kinds[0] == kinds[1] and channels[0][-1] == channels[1][-1] and fewer


@torch.no_grad()
def prune_into(net: nn.Module, wide: nn.Module, faces: Tensor) -> float:
    """Fills a MobileFaceNet with the pruned weights of a wider one, in place.

    Args:
        net: the same layers and length of embedding, no more channels.
        wide: trained.
        faces: (N, 3, S, S) float32, normalised for both; a thousand or so (5 GB of memory at 112 pixels).

    Returns:
        Mean cosine between the two models' embeddings of these faces.

    Raises:
        UsageError: not two MobileFaceNets that differ in their width alone.
    """
    if not is_wider(wide, net):
        raise UsageError("only a MobileFaceNet is pruned, to one with the same layers, activation and embedding")
    assert isinstance(net, MobileFaceNet)
    assert isinstance(wide, MobileFaceNet)
    for one in (net.eval(), wide.eval()):
        one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    faces = faces.contiguous(memory_format=torch.channels_last)
    choose, bases = _importance(wide, faces)
    blocks = [index for index, layer in enumerate(wide.layers) if isinstance(layer, Bottleneck)]
    start, end = blocks[0], blocks[-1] + 1
    fit = Fit(choose)
    theirs, ours = fit.run(wide.layers[:start], net.layers[:start], faces, faces, lambda y: y)
    for index in blocks:
        layer, own = wide.layers[index], net.layers[index]
        assert isinstance(layer, Bottleneck)
        assert isinstance(own, Bottleneck)
        came, mine = (theirs, ours) if layer.shortcut else (torch.zeros(()), torch.zeros(()))
        turn = bases[index][:, : own.layers[-1].num_features]

        def wanted(y: Tensor, came: Tensor = came, mine: Tensor = mine, turn: Tensor = turn) -> Tensor:
            return torch.einsum("nchw,ck->nkhw", y + came, turn) - mine

        theirs, ours = fit.run(layer.layers, own.layers, theirs, ours, wanted)
        theirs, ours = theirs + came, ours + mine
    theirs, ours = fit.run(wide.layers[end:], net.layers[end:], theirs, ours, lambda y: y)
    return float(F.cosine_similarity(theirs, ours).mean())


class Fit:
    """Goes through both nets side by side and fits each convolution with its batch norm.

    Args of the constructor:
        choose: dense convolution of the wide net → its channels, the most important to the next layers first.
    """

    def __init__(self, choose: dict[nn.Module, Tensor]) -> None:
        self.choose = choose
        self.kept = torch.arange(3)
        self.rng = torch.Generator().manual_seed(0)

    def run(
        self, wide: nn.Module, net: nn.Module, theirs: Tensor, ours: Tensor, wanted: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Both nets' maps after these layers; ``wanted`` says what a layer without an activation is to give."""
        layers: list[tuple[Any, Any]] = list(zip(wide.children(), net.children(), strict=True))
        for index, (layer, own) in enumerate(layers):
            if isinstance(layer, nn.BatchNorm2d):
                continue  # done with its convolution
            if not isinstance(layer, nn.Conv2d):
                if isinstance(layer, nn.PReLU):
                    own.weight.copy_(layer.weight[self.kept])
                theirs, ours = layer(theirs), own(ours)
                continue
            norm, own_norm = layers[index + 1]
            linear = index + 2 == len(layers) or isinstance(layers[index + 2][0], nn.Flatten)
            theirs = norm(layer(theirs))
            if layer.groups > 1:
                own.weight.copy_(layer.weight[self.kept])
                target = theirs[:, self.kept]
            elif linear:
                target = wanted(theirs)
            else:
                self.kept = self.choose[layer][: own.out_channels].sort().values
                target = theirs[:, self.kept]
            if layer.groups == 1 and layer.kernel_size == (1, 1):
                own.weight.copy_(self.least_squares(ours, target)[:, :, None, None])
            elif layer.groups == 1:  # the first one, which sees the same faces in both
                own.weight.copy_(layer.weight[self.kept])
            if own.bias is not None:
                own.bias.zero_()
            ours = _level(own(ours), target, own_norm)
        return theirs, ours

    def least_squares(self, x: Tensor, y: Tensor) -> Tensor:
        """(out, in) weights that give maps (N, out, H, W) from (N, in, H, W) best, up to a constant."""
        places = len(x) * x.shape[2] * x.shape[3]
        rows = torch.randperm(places, generator=self.rng)[:ROWS]
        x, y = (maps.permute(0, 2, 3, 1).reshape(places, -1)[rows].double() for maps in (x, y))
        return fit_linear([(x, y)], RIDGE * x.shape[1] / len(x))[0]  # most of it after the global convolution


def _level(x: Tensor, target: Tensor, norm: Any) -> Tensor:
    """Gives a batch norm these maps' statistics, and the gain and offset that bring them nearest to a target."""
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    aim = target.mean((0, 2, 3))
    together = (x * target).mean((0, 2, 3)) - mean * aim
    deviation = (var + norm.eps).sqrt()
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    norm.weight.copy_(together / deviation)
    norm.bias.copy_(aim)
    y: Tensor = norm(x)
    return y


def _importance(wide: MobileFaceNet, faces: Tensor) -> tuple[dict[nn.Module, Tensor], dict[int, Tensor]]:
    """How much each channel and direction of the wide model matters to the layers after it.

    Returns:
        Dense convolution → its channels, the most important first; and index of a block → directions of the residual
        stream after it, a column each, the most important first: those from which the next layers' outputs are
        predicted best.
    """
    layers: list[Any] = [layer for layer in wide.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    dense: dict[nn.Module, Tensor] = {
        layer: (layer.weight.flatten(1).T * norm.weight / (norm.running_var + norm.eps).sqrt()).T
        for layer, norm in pairwise(layers)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1
    }
    inputs: dict[nn.Module, Tensor] = {}  # convolution → covariance of its input channels

    def note(layer: nn.Module, x: tuple[Tensor]) -> None:
        inputs[layer] = x[0].permute(0, 2, 3, 1).flatten(0, 2).T.cov().double()

    hooks = [layer.register_forward_pre_hook(note) for layer in dense]
    wide(faces)
    for hook in hooks:
        hook.remove()
    choose = {
        layer: (inputs[after].diagonal().sqrt() * dense[after].norm(dim=0)).argsort(descending=True)
        for layer, after in pairwise(dense)
    }
    blocks = {index: layer for index, layer in enumerate(wide.layers) if isinstance(layer, Bottleneck)}
    firsts = [next(layer.layers.children()) for layer in blocks.values()]
    readers = [*firsts[1:], wide.layers[max(blocks) + 1]]
    stages: list[dict[int, nn.Module]] = []  # blocks that shortcuts tie to one residual stream → the layer after each
    for (index, block), reader in zip(blocks.items(), readers, strict=True):
        if not block.shortcut:
            stages.append({})
        stages[-1][index] = reader
    bases = {}
    for stage in stages:
        weights = torch.cat([dense[reader] for reader in stage.values()]).double()
        root = _root(weights.T @ weights)
        spread = torch.stack([inputs[reader] for reader in stage.values()]).sum(0)
        directions = torch.linalg.eigh(root @ spread @ root).eigenvectors.flip(1)
        bases.update(dict.fromkeys(stage, (root @ directions).float()))
    return choose, bases


def _root(square: Tensor) -> Tensor:
    """The symmetric root of a matrix, its largest eigenvalue brought to 1."""
    values, vectors = torch.linalg.eigh(square)
    # Rounding may leave an eigenvalue a little below 0, which has no root.
    root: Tensor = vectors * (values.clamp(min=0) / values.max()).sqrt() @ vectors.T
    return root
