"""Golden vectors: the proof that a file still computes what it computed when it was made.

The probe images follow from integer arithmetic alone, so that a page in JavaScript or an app in
Kotlin can make them, feed them and compare, with no photo of anybody shipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PROBES = "edgeface-waves-1"
_COUNT = 4


def probe_images(size: int) -> NDArray[np.uint8]:
    """(4, size, size, 3) uint8 RGB probe images of the rule ``edgeface-waves-1``.

    With k the image, y the row, x the column, c the channel, all from 0, and integer division:
    ``u = (x * (k + 2) * 256) / size``, ``v = (y * (k + 1) * 256) / size`` and
    ``pixel = (tri(u + 64 * c) + tri(v + 32 * k)) / 2`` with the triangle wave
    ``tri(t) = 255 - |255 - (t mod 511)|``.
    """
    k, y, x, c = np.ogrid[:_COUNT, :size, :size, :3]
    u = x * (k + 2) * 256 // size + 64 * c
    v = y * (k + 1) * 256 // size + 32 * k
    waves = (_triangle(u) + _triangle(v)) // 2
    return waves.astype(np.uint8)


def _triangle(t: NDArray[np.int64]) -> NDArray[np.int64]:
    wave: NDArray[np.int64] = 255 - np.abs(255 - t % 511)
    return wave
