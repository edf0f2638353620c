"""What embeds faces, whatever holds the net: a run, a checkpoint, an exported file, a test's function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import Contract
from edgeface_runtime.model import both_ways


@dataclass(frozen=True, eq=False)
class Embedder:
    """Embeds faces as its contract says."""

    contract: Contract
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """(N, S, S, 3) uint8 RGB → (N, D) float32 unit rows."""


def with_flip(embedder: Embedder) -> Embedder:
    """Embeds each face and its mirror image and gives the direction of the sum: twice the work."""
    return replace(embedder, embed=partial(both_ways, embedder.embed))
