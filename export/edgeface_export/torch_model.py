"""Embeddings by PyTorch itself: what exported files are compared with, and how a checkpoint is read."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface_runtime import InputSpec
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
