"""Layers that the backbones share."""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from edgeface_runtime import UsageError


class PReLU(nn.PReLU):
    """PReLU with one slope a channel, written as relu(x) − a·relu(−x).

    The same values and state dict as ``torch.nn.PReLU``; trained on a CPU it takes less than half of the built-in
    kernel's time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        # Compilers, exporters and devices get plain operators, which they fuse.
        if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling() and x.device.type == "cpu":
            trained: Tensor = _TrainedPReLU.apply(x, self.weight.to(x.dtype))  # type: ignore[no-untyped-call]
            return trained
        return F.relu(x) - self.weight[:, None, None] * F.relu(-x)


class _TrainedPReLU(torch.autograd.Function):
    """PReLU whose gradients are made of vectorized operators in one buffer.

    A map of a batch is tens of megabytes, so what counts is how often memory is passed and how much of it is taken.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(x, slopes)
        return torch.prelu(x, slopes)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slopes = ctx.saved_tensors  # type: ignore[attr-defined]
        map_ = x.clamp(max=0).mul_(grad)
        of_slopes = map_.sum((0, 2, 3))
        # The gradient where x > 0, else 0; then a share of the way from there to the gradient, which is the slope.
        torch.ops.aten.threshold_backward.grad_input(grad, x, 0, grad_input=map_)
        return map_.lerp_(grad, slopes[:, None, None]), of_slopes


def stretch_small_maps(net: nn.Module) -> None:
    """Lets a net with a convolution over its whole last map train on smaller faces: the map is stretched to it.

    Nets without one take every size as they are. Maps of the full size pass untouched.

    Raises:
        UsageError: a net that takes faces of one size for another reason.
    """
    if not getattr(net, "takes_other_sizes", True):
        raise UsageError("progressive_size: this backbone takes faces of input_size alone")

    def stretch(layer: nn.Conv2d, inputs: tuple[Tensor]) -> Tensor | None:
        side = layer.kernel_size[0]
        return F.interpolate(inputs[0], (side, side), mode="bilinear") if inputs[0].shape[-1] < side else None

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1 and layer.padding == (0, 0):
            layer.register_forward_pre_hook(stretch)


class Leaky(PReLU):
    """Leaky ReLU: PReLU whose slopes stay where they start, at 1/4; exports take the same fast forms."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.weight.requires_grad_(False)


class ZeroPaddedMaxPool(nn.Module):
    """3×3 maximum, stride 2, padded with zeros: after a ReLU the same as torch's padding with −∞."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), nowhere negative → (N, C, H / 2, W / 2)."""
        return _zero_padded_max(x)


@torch.fx.wrap
def _zero_padded_max(x: Tensor) -> Tensor:
    # A padding with −∞ is a float operator of its own in TFLite, one with zeros is one in ONNX.
    if torch.onnx.is_in_onnx_export():
        return F.max_pool2d(x, 3, 2, 1)
    return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)


class Pooled(nn.Module):
    """A trunk of convolutions, the mean over its last map, and a linear embedding with batch norm.

    The linear layer is a convolution, so that batch norm folds into it and engines quantize it like the others.

    Args of the constructor:
        trunk: (N, 3, S, S) → (N, channels, side, side).
        channels: of the last map.
        embedding: length of the output.
        side: of the last map where the linear layer is to see all of it in place of its mean, so that it matters
            where in the face a feature lies; 0 for the mean.
        start: whether the trunk's convolutions get random weights by ``start_convolutions`` too.
    """

    takes_other_sizes = True
    """Whether training may feed it smaller faces than it was built for."""

    def __init__(self, trunk: nn.Module, channels: int, embedding: int, side: int = 0, *, start: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        self.embed = nn.Sequential(
            nn.Identity() if side else nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, embedding, side or 1, bias=False),
            nn.BatchNorm2d(embedding),
            nn.Flatten(),
        )
        start_convolutions(self if start else self.embed)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) normalised RGB → (N, embedding) float, not normalised."""
        y: Tensor = self.embed(self.trunk(x))
        return y


def start_convolutions(net: nn.Module) -> None:
    """Gives all convolutions He's random weights for their outgoing side, and zeros as bias."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
