"""Plain softmax: a linear layer over the embedding, the baseline that margin heads are measured against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeface.heads.margin import ClassCentres


class Softmax(ClassCentres):
    """Logits w·x + b of the embedding as it is: no scale, no margin; ``s`` and ``m`` are taken and not used."""

    def __init__(self, embedding: int, classes: int, *, s: float = 1.0, m: float = 0.0) -> None:
        super().__init__(embedding, classes)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
        """(N, D) embeddings → (N, classes) logits; labels and margin change nothing."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings.to(self.weight.dtype), self.weight, self.bias)
