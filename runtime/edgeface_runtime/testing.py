"""A recognizer that needs no model and no photos, for the tests of apps built on edgeface.

::

    recognizer = fake_recognizer()
    gallery.enroll("Ada", fake_photo(1))
    assert recognizer.identify(fake_photo(1, take=2), gallery)[0].name == "Ada"

All but its two nets is the real thing: images are opened, aligned, scored and held against thresholds as ever.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.align import TEMPLATE
from edgeface_runtime.contract import Contract, EmbeddingSpec, InputSpec
from edgeface_runtime.faces import Face
from edgeface_runtime.model import Model
from edgeface_runtime.recognizer import FaceRecognizer

PEOPLE = 343
"""How many fake people there are."""
SIDE = 64
"""Of a fake photo, pixels."""
_LENGTH = 64
_LEVELS = 7
_THRESHOLDS = {"0.01": 0.29, "0.001": 0.39, "0.0001": 0.47, "0.00001": 0.53}  # of random directions in 64 dimensions


def fake_photo(person: int, take: int = 0) -> NDArray[np.uint8]:
    """(64, 64, 3) uint8 RGB: a "photo" of a person, 0 to 342; another ``take``, another photo of the same one.

    Photos side by side (``np.hstack``) are a photo of several people; zeros are a photo of nobody. It may be saved,
    but not resized.
    """
    if not 0 <= person < PEOPLE:
        raise ValueError(f"person is {person}, not 0 to {PEOPLE - 1}")
    photo = np.random.default_rng((person, take)).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    photo[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4] = [
        32 * (1 + person // _LEVELS**place % _LEVELS) for place in range(3)
    ]
    return photo


def fake_recognizer(name: str = "fake", thresholds: dict[str, dict[str, float]] | None = None) -> FaceRecognizer:
    """A recognizer for ``fake_photo``: about 0.9 between photos of one person, about 0 between those of two.

    Args:
        name: of its model; recognizers of two names do not fit one gallery.
        thresholds: of its contract; those of random directions where None.
    """
    if thresholds is None:
        thresholds = {far: {"value": value, "low": value, "high": value} for far, value in _THRESHOLDS.items()}
    contract = Contract(
        name=name,
        backbone="fake",
        input=InputSpec(size=112, dtype="uint8"),
        embedding=EmbeddingSpec(length=_LENGTH, normalised=True),
        thresholds=thresholds,
        file_sha256=f"{zlib.crc32(name.encode()):064x}",
    )
    return FaceRecognizer(Model(Path(name), contract, _Engine()), _Detector())


class _Detector:
    """Takes every tile of 64 pixels whose middle is not black for a face."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        tiles = [
            (x, y)
            for y in range(0, image.shape[0] - SIDE + 1, SIDE)
            for x in range(0, image.shape[1] - SIDE + 1, SIDE)
            if image[y + SIDE // 2, x + SIDE // 2].max() >= 16
        ]
        points = TEMPLATE * (SIDE / 112)
        return [
            Face(np.array([x, y, x + SIDE, y + SIDE], np.float32), 0.99, (points + np.array([x, y])).astype(np.float32))
            for x, y in tiles
        ]


class _Engine:
    """A direction for the colour in the middle of the face, and a little of another for the rest."""

    name = "fake"
    version = "1"
    input_shape: tuple[int | None, ...] = (None, 112, 112, 3)

    def run(self, *inputs: NDArray[np.generic]) -> list[NDArray[np.float32]]:
        rows = []
        for face in inputs[0]:
            colour = np.rint(face[48:64, 48:64].mean(axis=(0, 1)) / 32).astype(int)
            seeds = (zlib.crc32(colour.tobytes()), zlib.crc32(face[4:-4, 4:-4].tobytes()))
            person, take = (np.random.default_rng(seed).normal(size=_LENGTH) for seed in seeds)
            rows.append(person + take * np.float32(0.3))
        units = np.array(rows, np.float32).reshape(-1, _LENGTH)
        return [units / np.linalg.norm(units, axis=1, keepdims=True)]
