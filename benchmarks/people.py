"""A gallery of people who do not exist, for benchmarks that need one of a certain size."""

import tempfile
from pathlib import Path

import numpy as np

from edgeface_runtime import import_gallery, load


def directions(count: int, length: int) -> np.ndarray:
    """(count, length) random unit rows."""
    rows = np.random.default_rng(0).normal(size=(count, length)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fill(path: Path, model: str, count: int) -> None:
    """A new gallery for the model with ``count`` people of one photo each."""
    opened = load(model)
    with tempfile.TemporaryDirectory() as folder:
        names = [f"person {number}" for number in range(count)]
        embeddings = directions(count, opened.contract.embedding.length)
        np.savez(Path(folder) / "people.npz", names=names, embeddings=embeddings)
        import_gallery(Path(folder) / "people.npz", path, opened)
