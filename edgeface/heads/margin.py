"""What the margin heads share: unit class centres and the cosines to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassCentres(nn.Module):
    """One learnable centre a class; embeddings are compared with it by angle alone."""

    def __init__(self, embedding: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, embedding))
        nn.init.xavier_uniform_(self.weight)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """(N, D) embeddings of any length and precision → (N, classes) cosines to the class centres, in float32."""
        # Half precision has no number between 0.9961 (bfloat16) and 1, where the angle's slope is steepest.
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(F.normalize(embeddings.to(self.weight.dtype)), F.normalize(self.weight))

    @torch.no_grad()
    def imprint(self, embeddings: Tensor, labels: Tensor) -> None:
        """Starts the centres of (N,) int64 labels at the means of their (N, D) embeddings' directions.

        H. Qi, M. Brown, D. Lowe, "Low-Shot Learning with Imprinted Weights", CVPR 2018. Other centres stay as they are.
        """
        sums = torch.zeros_like(self.weight).index_add(0, labels, F.normalize(embeddings))
        seen = torch.unique(labels)
        self.weight[seen] = F.normalize(sums[seen])
