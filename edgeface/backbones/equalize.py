"""Channels of a MobileFaceNet brought to one size, which int8 needs and float does not notice.

An int8 file has one scale for all channels of a map, so the small ones get few of its 256 steps. Where an activation is
positively homogeneous, a channel may be made larger before it and smaller behind it: M. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1. There the weights are
equalized; here the maps are, since weights have a scale for each channel anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor, nn

from edgeface.backbones.mobilefacenet import Bottleneck, MobileFaceNet

HOMOGENEOUS = (nn.ReLU, nn.PReLU, nn.LeakyReLU)
LARGEST = 64.0
"""A channel is made at most so many times as large, or those that are always 0 would get any size."""
_CHUNK = 32


@dataclass(eq=False)
class _Map:
    """Maps of one channel order, written by batch norms (several, where shortcuts add up) and read by convolutions."""

    writers: list[nn.BatchNorm2d]
    seen: list[nn.Module]
    """Whose outputs they are."""
    readers: list[nn.Conv2d] = field(default_factory=list)


def can_be_equalized(net: nn.Module) -> TypeGuard[MobileFaceNet]:
    """Whether it is a MobileFaceNet without attention, all of whose activations are positively homogeneous."""
    known = (*HOMOGENEOUS, Bottleneck, nn.Conv2d, nn.BatchNorm2d, nn.ZeroPad2d, nn.Sequential, nn.Flatten, nn.Identity)
    return isinstance(net, MobileFaceNet) and all(
        isinstance(module, known) for module in net.modules() if module is not net
    )


@torch.no_grad()
def equalize(net: MobileFaceNet, faces: Tensor) -> None:
    """Scales channels, in place, so that each of a map reaches as far from 0 as the others; the net computes the same.

    Args:
        net: in evaluation mode; ``can_be_equalized`` says whether it can be.
        faces: (N, 3, S, S) float, normalised: a few hundred, on which the maps are looked at.
    """
    maps = _maps(net)
    reach: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, _: object, output: Tensor) -> None:
        largest = output.abs().amax((0, 2, 3))
        reach[module] = torch.maximum(reach.get(module, largest), largest)

    hooks = [seen.register_forward_hook(look) for each in maps for seen in each.seen]
    for start in range(0, len(faces), _CHUNK):
        net(faces[start : start + _CHUNK])
    for hook in hooks:
        hook.remove()
    for each in maps:
        largest = torch.stack([reach[seen] for seen in each.seen]).amax(0)
        scale = (largest.max() / largest.clamp(min=torch.finfo(largest.dtype).tiny)).clamp(max=LARGEST)
        scale = scale / scale.log().mean().exp()  # weights stay as large as they were, on average
        for norm in each.writers:
            norm.weight.mul_(scale)
            norm.bias.mul_(scale)
        for layer in each.readers:
            layer.weight.div_(scale[:, None, None, None] if layer.groups > 1 else scale[None, :, None, None])


def _maps(net: MobileFaceNet) -> list[_Map]:
    """All maps between a batch norm and the convolutions behind it, but for the net's output."""
    found: list[_Map] = []
    stream: _Map | None = None
    for layer in net.layers:
        if isinstance(layer, Bottleneck):
            assert stream is not None
            wide, spread, narrow = (one for one in layer.layers if isinstance(one, nn.Conv2d))
            norms = [one for one in layer.layers if isinstance(one, nn.BatchNorm2d)]
            stream.readers.append(wide)
            found += [_Map([norms[0]], [norms[0]], [spread]), _Map([norms[1]], [norms[1]], [narrow])]
            if layer.shortcut:
                stream.writers.append(norms[2])
                stream.seen.append(layer)
            else:
                stream = _Map([norms[2]], [norms[2]])
                found.append(stream)
        elif isinstance(layer, nn.BatchNorm2d):
            stream = _Map([layer], [layer])
            found.append(stream)
        elif isinstance(layer, nn.Conv2d) and stream is not None:
            stream.readers.append(layer)
    return [each for each in found if each.readers]
