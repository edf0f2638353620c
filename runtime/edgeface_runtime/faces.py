"""One found face: the result type that every detector returns and every consumer takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Face:
    """A face found in a photo."""

    box: NDArray[np.float32]
    """(4,) x0, y0, x1, y1 in pixels of the photo; may reach outside it."""
    score: float
    """The detector's confidence, 0 to 1."""
    landmarks: NDArray[np.float32]
    """(5, 2) x, y in pixels: eye on the photo's left, eye on its right, nose tip, left and right mouth corner;
    left and right as they are once the face is upright."""


class Detector(Protocol):
    """Anything that finds faces."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces in one (H, W, 3) uint8 RGB photo, the most confident first."""
        ...
