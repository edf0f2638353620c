"""A torch module's embeddings, which exported files are compared with, and the cost of one inference."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface_runtime import InputSpec
from edgeface_runtime.contract import OperatorCost
from edgeface_runtime.model import unit_rows


def torch_embeddings(net: nn.Module, spec: InputSpec, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, D) unit embeddings by PyTorch itself of (N, S, S, 3) uint8 RGB faces."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    rows = []
    with torch.no_grad():
        for start in range(0, len(faces), 32):
            chunk = torch.from_numpy(np.array(faces[start : start + 32]))  # a copy: mapped faces cannot be written to
            rows.append(net((chunk.permute(0, 3, 1, 2).float() - mean) / std).numpy())
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
