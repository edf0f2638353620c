"""The faces of a run by one row number: labelled ones, then those without names, and what teachers say of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeface.data.dataset import FaceData


@dataclass(frozen=True, eq=False)
class Pool:
    """Labelled faces, then unlabeled ones, under one row number."""

    data: FaceData
    unlabeled: NDArray[np.uint8] | None
    targets: NDArray[np.float32] | None
    device: torch.device

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N + M,) identities; −1 where a face has no name."""
        extra = 0 if self.unlabeled is None else len(self.unlabeled)
        return np.concatenate([self.data.labels, np.full(extra, -1)])

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor | None]:
        """((n, S, S, 3) uint8, (n,) int64, (n, D) float targets or None) of the given rows, on the device."""
        count = len(self.data.faces)
        faces = np.empty((len(rows), *self.data.faces.shape[1:]), np.uint8)
        named = rows < count
        faces[named] = self.data.faces[rows[named]]
        if self.unlabeled is not None:
            faces[~named] = self.unlabeled[rows[~named] - count]
        labels = torch.from_numpy(self.labels[rows]).to(self.device, non_blocking=True)
        target = (
            None if self.targets is None else torch.from_numpy(self.targets[rows]).to(self.device, non_blocking=True)
        )
        return torch.from_numpy(faces).to(self.device, non_blocking=True), labels, target
