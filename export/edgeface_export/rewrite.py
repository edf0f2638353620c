"""A trained torch module as an export takes it: rewritten for the engines, its embeddings, the cost of one inference.

The rewrites are exact, into the form that each engine runs fastest. PReLU decides whether int8 is worth anything:
neither engine has a fast int8 kernel for it. Each form below computes PReLU(x) = max(x, 0) + a·min(x, 0) exactly, from
operators that have one. All but the first need slopes a ≤ 1, the last one a slope a channel; a layer without falls back
to the first. Trained slopes often lie above 1: between two convolutions their inverses take their place.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Tracer
from torch.fx.experimental.optimization import fuse

from edgeface_runtime import InputSpec
from edgeface_runtime.contract import OperatorCost
from edgeface_runtime.model import unit_rows


class _Relus(nn.Module):
    """relu(x) − a·relu(−x), for any slope."""

    a: Tensor

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.register_buffer("a", slopes.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) - self.a * F.relu(-x)


class _Maximum(_Relus):
    """max(x, a·x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.a * x)


class _Affine(_Relus):
    """a·x + relu((1 − a)·x)."""

    b: Tensor

    def __init__(self, slopes: Tensor) -> None:
        super().__init__(slopes)
        self.register_buffer("b", 1 - self.a)

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x + F.relu(self.b * x)


class _Depthwise(nn.Module):
    """The affine form with both products written as 1×1 depthwise convolutions."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        channels = len(slopes)
        self.a = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        self.b = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(slopes.view(-1, 1, 1, 1))
            self.b.weight.copy_(1 - slopes.view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x) + F.relu(self.b(x))
        return y


class _Folded(nn.Module):
    """A convolution and PReLU in one: with y = a·x by the convolution, y + relu((1/a − 1)·y).

    It saves one of the two products of the depthwise form. That its convolution gives a·x shows in its name.
    """

    def __init__(self, layer: nn.Conv2d, bias: Tensor, slopes: Tensor) -> None:
        super().__init__()
        channels = len(slopes)
        self.times_a = layer
        self.k = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        with torch.no_grad():
            layer.weight *= slopes.view(-1, 1, 1, 1)
            bias *= slopes
            self.k.weight.copy_((1 / slopes - 1).view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.times_a(x)
        return y + F.relu(self.k(y))


PRELU_FORMS: dict[str, Callable[[Tensor], nn.Module]] = {
    "relus": _Relus,
    "maximum": _Maximum,
    "affine": _Affine,
    "depthwise": _Depthwise,
}
_SPREAD = 4.0
"""Slopes of one layer may differ by this factor where they are folded: a channel loses as much of its 8 bits."""


class Preprocess(nn.Module):
    """(N, S, S, 3) uint8 RGB → (N, 3, S, S) float: (pixel − mean) / std. A module, so that quantizers can name it."""

    mean: Tensor
    scale: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        # A whole row of pixels: engines broadcast three numbers one by one.
        row = (1, 1, spec.size, 3)
        self.register_buffer("mean", torch.tensor(spec.mean).expand(row).contiguous())
        self.register_buffer("scale", (1 / torch.tensor(spec.std)).expand(row).contiguous())

    def forward(self, faces: Tensor) -> Tensor:
        """(N, S, S, 3) uint8 → (N, 3, S, S) float."""
        return ((faces.float() - self.mean) * self.scale).permute(0, 3, 1, 2)


class GlobalDepthwise(nn.Conv2d):
    """A depthwise convolution with many taps, such as MobileFaceNet's 7×7 over its last map.

    A module of its own, so that a quantizer can name it: LiteRT's int8 kernel for so many taps is
    several times slower than its float one and would take a fifteenth of the whole model's time.
    """


def embedder(net: nn.Module, spec: InputSpec, prelu: str) -> nn.Sequential:
    """What goes into the file: (N, S, S, 3) uint8 RGB → (N, D) float.

    A copy of ``net`` with batch norm folded, PReLU in the given form and preprocessing in front.

    Args:
        net: (N, 3, S, S) normalised float → (N, D), left as it is.
        spec: the contract's input.
        prelu: a key of ``PRELU_FORMS``.
    """
    plain = copy.deepcopy(net).eval()
    rewritten = fuse(GraphModule(plain, _Tracer().trace(plain)), no_trace=True)
    assert isinstance(rewritten, GraphModule)
    _turn(rewritten, steep_down=prelu != "maximum")
    for name, module in list(rewritten.named_modules()):
        if isinstance(module, nn.PReLU):
            slopes = module.weight.detach().expand(module.num_parameters).clone()
            fits = bool((slopes <= 1).all()) and not (prelu == "depthwise" and len(slopes) == 1)
            form = prelu if fits else "relus"
            rewritten.set_submodule(name, PRELU_FORMS[form](slopes))
    # Traced with each PReLU in one piece, so that it can be seen what lies before it.
    fused = GraphModule(rewritten, _Tracer().trace(rewritten))
    _fold(fused)
    for module in fused.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels and min(module.kernel_size) >= 5:
            module.__class__ = GlobalDepthwise
    return nn.Sequential(Preprocess(spec), fused).eval()


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (nn.PReLU, _Affine, _Depthwise)) or super().is_leaf_module(m, module_qualified_name)


def _turn(graph: GraphModule, *, steep_down: bool) -> None:
    """Makes slopes a > 1 slopes 1/a where a convolution lies before and nothing but convolutions behind; exact.

    PReLU(x) is then −PReLU(−a·x) of slope 1/a: the convolution before takes −a, those behind the sign. With
    ``steep_down`` slopes below −1 too, PReLU(x) = PReLU(a·x) of slope 1/a: where two products are added, large ones
    would cancel.
    """
    calls = Counter(node.target for node in graph.graph.nodes)
    for node in graph.graph.nodes:
        layer = graph.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(layer, nn.PReLU) or calls[node.target] > 1 or len(node.args[0].users) > 1:
            continue
        around = [
            graph.get_submodule(other.target)
            for other in (node.args[0], *node.users)
            if other.op == "call_module" and calls[other.target] == 1
        ]
        convolutions = [other for other in around if isinstance(other, nn.Conv2d)]
        if len(convolutions) < 1 + len(node.users):
            continue
        before, *behind = convolutions
        slopes = layer.weight.detach().expand(before.out_channels)
        steep = slopes.abs() > 1 if steep_down else slopes > 1
        if not steep.any():
            continue
        with torch.no_grad():
            factor = torch.where(steep, -slopes.abs(), 1.0)
            signs = torch.where(slopes > 1, -1.0, 1.0)
            before.weight *= factor.view(-1, 1, 1, 1)
            if before.bias is not None:
                before.bias *= factor
            for after in behind:
                # (out, in / groups, …): each group reads channels of its own.
                each = signs.view(after.groups, 1, -1, 1, 1)
                after.weight *= each.expand(-1, after.out_channels // after.groups, -1, 1, 1).flatten(0, 1)
        layer.weight = nn.Parameter(torch.where(steep, 1 / slopes, slopes))
        layer.num_parameters = before.out_channels


def _fold(graph: GraphModule) -> None:
    """Folds what it can of the depthwise form into the convolution before it."""
    calls = Counter(node.target for node in graph.graph.nodes)
    for node in graph.graph.nodes:
        form = graph.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(form, _Depthwise):
            continue
        before = node.args[0]
        layer = graph.get_submodule(before.target) if before.op == "call_module" else None
        slopes = form.a.weight.detach().flatten()
        if not isinstance(layer, nn.Conv2d) or layer.bias is None or len(before.users) > 1 or calls[before.target] > 1:
            continue
        if slopes.min() > 0 and slopes.max() <= _SPREAD * slopes.min():
            graph.set_submodule(node.target, _Folded(layer, layer.bias, slopes))
            graph.set_submodule(before.target, nn.Identity())


def torch_embeddings(net: nn.Module, spec: InputSpec, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, D) unit embeddings by PyTorch itself, where the net lies, of (N, S, S, 3) uint8 RGB faces."""
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    mean, std = (torch.tensor(values).to(device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    rows = []
    with torch.no_grad():
        for start in range(0, len(faces), 32):
            chunk = torch.from_numpy(np.array(faces[start : start + 32]))  # a copy: mapped faces cannot be written to
            rows.append(net((chunk.to(device).permute(0, 3, 1, 2).float() - mean) / std).cpu().numpy())
    return unit_rows(np.concatenate(rows))


def cost_table(
    net: nn.Module, size: int, *, bytes_per_weight: int = 4, bytes_per_activation: int = 4
) -> dict[str, OperatorCost]:
    """Multiply-accumulates and bytes of one (1, 3, size, size) inference, by operator class.

    Classes: ``conv`` (k×k, dense), ``pointwise`` (1×1), ``depthwise``, ``grouped``, ``linear``, and
    ``other`` (activations, pooling; no multiply-accumulates counted). Batch norm costs nothing: it is
    folded before export. Bytes are weights plus output activations.
    """
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d, nn.Dropout, nn.Flatten, nn.Identity)):
            return
        weights = sum(parameter.numel() for parameter in module.parameters())
        row = totals[_class(module)]
        row[0] += 1
        row[1] += _macs(module, output)
        row[2] += bytes_per_weight * weights + bytes_per_activation * output[0].numel()

    leaves = [module for module in net.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: OperatorCost(count=n, macs=macs, bytes=size) for name, (n, macs, size) in sorted(totals.items())}


def _class(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    if not isinstance(module, nn.Conv2d):
        return "other"
    if module.groups == 1:
        return "pointwise" if module.kernel_size == (1, 1) else "conv"
    return "depthwise" if module.groups == module.in_channels else "grouped"


def _macs(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features * output[0].numel()
    if isinstance(module, nn.Conv2d):
        kernel = module.kernel_size[0] * module.kernel_size[1]
        return output[0].numel() * kernel * module.in_channels // module.groups
    return 0
