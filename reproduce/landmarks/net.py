"""The landmark net: MTCNN's O-Net with a narrower middle, taught to say in one look what many of its looks say."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 48
REACH, RAISE = 0.95, 0.04
"""A crop's side in longer sides of the proposal, and how far above its middle it lies."""
RANK = 64
"""Width of what stands for the first dense layer's matrix, which holds three quarters of O-Net's numbers."""


class LandmarkNet(nn.Module):
    """(N, 3, 48, 48), (x − 127.5) / 128, to (N, 15): face logit, box offsets, five x, five y in parts of the side."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 64, 128)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, side) for a, b, side in zip(widths, widths[1:], (3, 3, 3, 2), strict=False)
        )
        self.slopes = nn.ModuleList(nn.PReLU(width) for width in (*widths[1:], 256))
        self.narrow = nn.Linear(128 * 9, RANK, bias=False)
        self.dense = nn.Linear(RANK, 256)
        self.head = nn.Linear(256, 15)

    def forward(self, x: Tensor) -> Tensor:
        """What the class says, of a batch."""
        for level, (conv, slope) in enumerate(zip(self.convs, self.slopes, strict=False)):
            x = slope(conv(x))
            if level < 3:
                x = functional.max_pool2d(x, 3 if level < 2 else 2, 2, ceil_mode=True)
        x = x.permute(0, 3, 2, 1).flatten(1)  # the published weights go by column
        answer: Tensor = self.head(self.slopes[-1](self.dense(self.narrow(x))))
        return answer

    def start(self, weights: dict[str, Tensor]) -> None:
        """Takes over facenet-pytorch's ``onet.pt``; the wide matrix by its largest singular values."""
        left, values, right = torch.linalg.svd(weights["dense5.weight"], full_matrices=False)
        heads = ("dense6_1", "dense6_2", "dense6_3")
        weight, bias = ([weights[f"{head}.{part}"] for head in heads] for part in ("weight", "bias"))
        weight[0], bias[0] = weight[0][1:] - weight[0][:1], bias[0][1:] - bias[0][:1]
        with torch.no_grad():
            for kind, layers in (("conv", self.convs), ("prelu", self.slopes)):
                for level, layer in enumerate(layers, 1):
                    for name, value in layer.named_parameters():
                        value.copy_(weights[f"{kind}{level}.{name}"])
            self.narrow.weight.copy_(values[:RANK, None].sqrt() * right[:RANK])
            self.dense.weight.copy_(left[:, :RANK] * values[:RANK].sqrt())
            self.dense.bias.copy_(weights["dense5.bias"])
            self.head.weight.copy_(torch.cat(weight))
            self.head.bias.copy_(torch.cat(bias))
