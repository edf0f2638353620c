"""MobileFaceNet: S. Chen, Y. Liu, X. Gao, Z. Han, "MobileFaceNets", CCBR 2018, table 1."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from edgeface.backbones.attention import ATTENTION
from edgeface.backbones.layers import Leaky, PReLU, start_convolutions

# Expansion t, output channels c, blocks n, stride s of the first block: the bottleneck rows of table 1.
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))

ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "prelu": PReLU,
    "relu": lambda channels: nn.ReLU(),
    "leaky": Leaky,
    "relu6": lambda channels: nn.ReLU6(),
}


def _conv(inp: int, out: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inp, out, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(out)]


def _halving(inp: int, out: int, stride: int, padding: str, groups: int = 1) -> list[nn.Module]:
    """A 3×3 convolution; of stride 2 with TensorFlow's padding where ``padding`` is ``same``."""
    if stride == 2 and padding == "same":
        return [nn.ZeroPad2d((0, 1, 0, 1)), *_conv(inp, out, 3, 2, 0, groups)]
    return _conv(inp, out, 3, stride, 1, groups)


class Bottleneck(nn.Module):
    """Inverted residual: widen by 1×1, 3×3 depthwise, narrow by a linear 1×1; a shortcut where shapes allow.

    ``acts`` follow the first two; ``attention``, of the narrow map, comes before the shortcut.
    """

    def __init__(
        self,
        inp: int,
        out: int,
        stride: int,
        expansion: int,
        acts: tuple[Callable[[int], nn.Module], Callable[[int], nn.Module]],
        attention: Callable[[int], nn.Module],
        padding: str = "both",
    ) -> None:
        super().__init__()
        hidden = inp * expansion
        self.shortcut = stride == 1 and inp == out
        self.layers = nn.Sequential(
            *_conv(inp, hidden, 1),
            acts[0](hidden),
            *_halving(hidden, hidden, stride, padding, groups=hidden),
            acts[1](hidden),
            *_conv(hidden, out, 1),
        )
        self.attention = attention(out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) → (N, out, H / stride, W / stride)."""
        y: Tensor = self.attention(self.layers(x))
        return x + y if self.shortcut else y


class MobileFaceNet(nn.Module):
    """(N, 3, size, size) normalised RGB → (N, embedding) float, not normalised.

    221 M multiply-accumulates and 1.0 M parameters at 112 px with 128 floats. The global depthwise
    convolution spans the last map, so ``size`` is fixed when the net is built.

    Args of the constructor:
        embedding: length of the output.
        size: side of the input in pixels.
        act: a key of ``ACTIVATIONS``.
        width: factor on every number of channels, rounded to multiples of 8.
        stem: ``paper``, or ``foamliu`` for the public net of that name (github.com/foamliu/MobileFaceNet):
            ReLU and one more pointwise convolution after the first depthwise one, a bias in the last one.
        attention: a key of ``ATTENTION``, for every bottleneck.
        early: a key of ``ACTIVATIONS`` for the maps wider than an eighth of ``size``, where activations take most of
            their time; as ``act`` where it is empty.
        padding: of strides of 2: ``both`` sides as in PyTorch, or ``same``, behind alone as in TensorFlow.
    """

    def __init__(
        self,
        embedding: int = 128,
        size: int = 112,
        act: str = "prelu",
        width: float = 1.0,
        stem: str = "paper",
        attention: str = "none",
        padding: str = "both",
        early: str = "",
        depthwise: str = "",
    ) -> None:
        super().__init__()
        self.same_padding = padding == "same"
        late, late_depthwise, first_act = (ACTIVATIONS[key or act] for key in ("", depthwise, early))

        def wide(channels: int) -> int:
            return max(8, round(channels * width / 8) * 8)

        channels = wide(64)
        first = [*_halving(3, channels, 2, padding), first_act(channels)]
        spread = _conv(channels, channels, 3, 1, 1, groups=channels)
        if stem == "foamliu":
            first += [*spread, nn.ReLU(), *_conv(channels, channels, 1), nn.ReLU()]
        else:
            first += [*spread, first_act(channels)]
        blocks: list[nn.Module] = []
        halved = 2  # the input's side over the map's
        for expansion, out, count, stride in BOTTLENECKS:
            for index in range(count):
                steps = stride if index == 0 else 1
                before, halved = halved, halved * steps
                acts = (first_act if before < 8 else late, first_act if halved < 8 else late_depthwise)
                blocks.append(Bottleneck(channels, wide(out), steps, expansion, acts, ATTENTION[attention], padding))
                channels = wide(out)
        last, side = wide(512), -(-size // 16)
        head = [
            *_conv(channels, last, 1),
            late(last),
            *_conv(last, last, side, groups=last),
            nn.Conv2d(last, embedding, 1, bias=stem == "foamliu"),
            nn.BatchNorm2d(embedding),
            nn.Flatten(),
        ]
        self.layers = nn.Sequential(*first, *blocks, *head)
        start_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) → (N, embedding)."""
        y: Tensor = self.layers(x)
        return y
