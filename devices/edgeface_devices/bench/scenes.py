"""Photos that show one face, six, or none: drawn, so that the whole way can be timed without a photo of anybody."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 640, 480
_QUALITY = 90
"""Of the JPEG file."""
# Where faces are: left, upper, side, in pixels.
SCENES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "one face": ((200, 100, 240),),
    "six faces": tuple((20 + 210 * (n % 3), 20 + 230 * (n // 3), 190) for n in range(6)),
    "no face": (),
}
_HAIR, _SKIN, _SHADE, _LID = (60, 45, 35), (215, 170, 145), (150, 105, 85), (60, 40, 35)
_Ellipse = tuple[float, float, float, float, int, tuple[int, int, int], float]
# Centre, radii and sharpness of an ellipse in parts of the side, its colour and how much it covers; ± is mirrored.
_HEAD: tuple[_Ellipse, ...] = (
    (0.50, 0.42, 0.38, 0.46, 8, _HAIR, 1.0),
    (0.50, 1.05, 0.50, 0.30, 6, (70, 80, 120), 1.0),
    (0.50, 0.85, 0.14, 0.25, 6, (190, 145, 120), 1.0),
    (0.50, 0.52, 0.29, 0.38, 10, _SKIN, 1.0),
)
_SIDES: tuple[_Ellipse, ...] = (
    (0.125, 0.455, 0.085, 0.050, 2, _SHADE, 0.55),
    (0.130, 0.385, 0.085, 0.016, 4, _HAIR, 0.90),
    (0.125, 0.460, 0.058, 0.026, 4, (235, 230, 225), 0.95),
    (0.125, 0.460, 0.026, 0.026, 6, (50, 35, 30), 1.0),
    (0.125, 0.437, 0.062, 0.008, 4, _LID, 0.80),
    (0.035, 0.635, 0.018, 0.012, 2, (100, 60, 50), 0.50),
    (0.060, 0.570, 0.020, 0.090, 2, _SHADE, 0.30),
)
_MIDDLE: tuple[_Ellipse, ...] = (
    (0.50, 0.560, 0.020, 0.100, 2, (240, 205, 185), 0.35),
    (0.50, 0.655, 0.060, 0.015, 2, (130, 85, 70), 0.35),
    (0.50, 0.735, 0.105, 0.022, 4, (165, 85, 80), 0.85),
    (0.50, 0.733, 0.095, 0.006, 4, (90, 40, 40), 0.80),
)


def scene(name: str) -> bytes:
    """A 640 × 480 JPEG file of one of ``SCENES``; the same bytes with the same Pillow."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    photo = np.stack([110 + 30 * across, 120 + 20 * down, 135 + 10 * across], axis=-1) + rng.normal(
        0, 3, (HEIGHT, WIDTH, 1)
    )
    for left, upper, side in SCENES[name]:
        photo[upper : upper + side, left : left + side] = _face(photo[upper : upper + side, left : left + side])
    file = io.BytesIO()
    Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _face(behind: NDArray[np.float64]) -> NDArray[np.float64]:
    """A drawn face over (S, S, 3) pixels."""
    side = len(behind)
    y, x = np.mgrid[:side, :side] / side
    mirrored = [(0.5 + sign * ellipse[0], *ellipse[1:]) for ellipse in _SIDES for sign in (-1, 1)]
    drawn = behind
    for centre_x, centre_y, radius_x, radius_y, sharpness, colour, share in (*_HEAD, *mirrored, *_MIDDLE):
        distance = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2
        cover = (share * np.exp(-(distance ** (sharpness / 2))))[..., None]
        drawn = drawn * (1 - cover) + cover * np.array(colour, np.float64)
    return drawn
