from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgeface_export.rewrite import cost_table
from edgeface_runtime.contract import OperatorCost


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),  # 8×8×8 outputs, 3·3·3 products each
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),  # 512 outputs, 9 products each
        nn.Conv2d(8, 12, 3, 1, 1, groups=4, bias=False),  # 768 outputs, 9·2 products each
        nn.Conv2d(12, 4, 1),  # 256 outputs, 12 products each
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(16, 5),
    ).eval()


EXPECTED = {  # operators, multiply-accumulates, weights, outputs
    "conv": (1, 512 * 27, 216, 512),
    "depthwise": (1, 512 * 9, 80, 512),
    "grouped": (1, 768 * 18, 216, 768),
    "linear": (1, 5 * 16, 85, 5),
    "other": (2, 0, 8, 512 + 16),
    "pointwise": (1, 256 * 12, 52, 256),
}


@pytest.mark.parametrize(("weight", "activation"), [(4, 4), (1, 1), (2, 4)])
def test_costs_are_those_counted_by_hand(weight: int, activation: int):
    expected = {
        name: OperatorCost(count=count, macs=macs, bytes=weight * weights + activation * outputs)
        for name, (count, macs, weights, outputs) in EXPECTED.items()
    }
    assert cost_table(net(), 16, bytes_per_weight=weight, bytes_per_activation=activation) == expected


def test_the_net_is_left_as_it_was():
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    cost_table(module, 16)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(child._forward_hooks for child in module.modules())
