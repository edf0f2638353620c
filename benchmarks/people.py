"""A gallery of people who do not exist, for benchmarks that need one of a certain size."""

from pathlib import Path

import numpy as np

from edgeface_runtime import Face, FaceRecognizer, Gallery
from edgeface_runtime.align import TEMPLATE


def directions(count: int, length: int) -> np.ndarray:
    """(count, length) random unit rows."""
    rows = np.random.default_rng(0).normal(size=(count, length)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class _Anybody(FaceRecognizer):
    """Sees one face in every photo and a random direction in every face."""

    def detect(self, image: np.ndarray) -> list[Face]:
        return [Face(np.array([0, 0, 112, 112], np.float32), 1.0, TEMPLATE.astype(np.float32))]

    def embed(self, *_: object) -> np.ndarray:
        return next(self.rows)[None]


def fill(path: Path, model: str, count: int) -> None:
    """A new gallery for the model with ``count`` people of one photo each."""
    anybody = _Anybody(model)
    anybody.detector = anybody
    anybody.rows = iter(directions(count, anybody.model.contract.embedding.length))
    with Gallery.open(path, anybody) as gallery:
        for number in range(count):
            gallery.enroll(f"person {number}", np.zeros((112, 112, 3), np.uint8), force=True)
