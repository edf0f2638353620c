"""Attention blocks at the end of a residual block: (N, C, H, W) → the same shape, each number times a weight in (0, 1).

All three take (C) channels and lie where their papers put them, before the shortcut is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """A weight for each channel from the means of all (J. Hu, L. Shen, G. Sun, CVPR 2018, equations 2 to 4).

    Args of the constructor:
        channels: C.
        reduction: r, by which the layer between has fewer channels; 16 in the paper.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_bottleneck(channels, reduction), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        y: Tensor = x * self.weigh(x)
        return y


class EfficientChannelAttention(nn.Module):
    """A weight for each channel from the means of its neighbors alone (ECA-Net: Q. Wang et al., CVPR 2020).

    The means of all channels lie in a row, over which one filter of ``eca_kernel(channels)`` taps runs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = eca_kernel(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.row = nn.Conv2d(1, 1, (taps, 1), padding=(taps // 2, 0), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        means = self.pool(x).transpose(1, 2)
        return x * torch.sigmoid(self.row(means)).transpose(1, 2)


def eca_kernel(channels: int) -> int:
    """Taps of ECA's filter: |log₂(C) / γ + b / γ| with γ = 2 and b = 1, to the next odd number (equation 12)."""
    taps = int(abs(math.log2(channels) + 1) / 2)
    return taps if taps % 2 else taps + 1


class Cbam(nn.Module):
    """A weight for each channel, then one for each place (CBAM: S. Woo, J. Park, J. Lee, I. Kweon, ECCV 2018).

    Channels: σ(MLP(mean) + MLP(maximum)), r = 16 (equation 2). Places: σ of a 7×7 convolution over the mean and the
    maximum of the channels (equation 3), with batch norm behind it as in the authors' code.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mlp = nn.Sequential(*_bottleneck(channels, reduction))
        self.place = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        x = x * torch.sigmoid(self.mlp(self.pool(x)) + self.mlp(_largest(x)))
        y: Tensor = x * self.place(torch.cat([x.mean(1, keepdim=True), _largest_channel(x)], 1))
        return y


@torch.fx.wrap
def _largest(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C, 1, 1), by a pooling: quantizers leave a maximum over axes float."""
    if torch.onnx.is_in_onnx_export():
        return F.adaptive_max_pool2d(x, 1)  # litert-torch has none
    return F.max_pool2d(x, x.shape[2:])


@torch.fx.wrap
def _largest_channel(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, 1, H, W), by a pooling over rows of channels where moving them there is free."""
    if torch.onnx.is_in_onnx_export():
        return x.amax(1, keepdim=True)
    return F.max_pool2d(x.permute(0, 2, 3, 1).flatten(2).unsqueeze(1), (1, x.shape[1]))


def _bottleneck(channels: int, reduction: int) -> list[nn.Module]:
    hidden = max(1, channels // reduction)
    return [nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)]


ATTENTION: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "se": SqueezeExcitation,
    "eca": EfficientChannelAttention,
    "cbam": Cbam,
}
