"""What embeds faces, whatever holds the net: a run, a checkpoint, an exported file, a test's function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import Contract
from edgeface_runtime.model import unit_rows


@dataclass(frozen=True, eq=False)
class Embedder:
    """Embeds faces as its contract says."""

    contract: Contract
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """(N, S, S, 3) uint8 RGB → (N, D) float32 unit rows."""


def with_flip(embedder: Embedder) -> Embedder:
    """Embeds each face and its mirror image and gives the direction of the sum: twice the work."""

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        mirrored = np.ascontiguousarray(faces[:, :, ::-1])
        return unit_rows(embedder.embed(faces) + embedder.embed(mirrored))

    return replace(embedder, embed=embed)
