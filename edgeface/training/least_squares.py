"""The linear layer that gives what is wanted best: ridge regression (A. Hoerl, R. Kennard, Technometrics, 1970)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def fit_linear(rows: Iterable[tuple[Tensor, Tensor]], ridge: float) -> tuple[Tensor, Tensor]:
    """The weights and bias that give y of x best.

    Args:
        rows: (n, in) and (n, out) rows, in parts, as more would not fit into memory at once.
        ridge: on the diagonal of the normal equations, in units of its mean; the bias has none.

    Returns:
        (out, in) weights and (out,) bias, float32.
    """
    count = 0
    sum_x, sum_y, square, product = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    for x, y in rows:
        count += len(x)
        sum_x, sum_y = sum_x + x.sum(0).double(), sum_y + y.sum(0).double()
        square, product = square + (x.T @ x).double(), product + (x.T @ y).double()
    mean, aim = sum_x / count, sum_y / count
    square = square - count * torch.outer(mean, mean)
    product = product - count * torch.outer(mean, aim)
    added = ridge * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype, device=square.device)
    weight = torch.linalg.solve(square + added, product).T
    return weight.float(), (aim - weight @ mean).float()
