"""Which faces of a group are shown and enrolled first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeface.grouping.cache import SeenFace
from edgeface.grouping.collection import telling
from edgeface_runtime import Face


def face(number: int, embedding: np.ndarray, sharpness: float = 90.0, concerns: str = "") -> SeenFace:
    place = Face(np.zeros(4, np.float32), 1.0, np.zeros((5, 2), np.float32))
    return SeenFace(number, Path(f"{number}.jpg"), None, place, sharpness, concerns, embedding.astype(np.float32))


def test_sharp_and_varied_faces_come_first():
    rng = np.random.default_rng(0)
    looks = rng.normal(size=(3, 64))
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    center = looks.sum(axis=0)
    faces = []
    for number in range(60):
        row = center + 1.5 * looks[number % 3] + 0.05 * rng.normal(size=64)
        # Every other one is blurred, every fifth may not be enrolled.
        concerns = "dark" if number % 5 == 0 else ""
        faces.append(face(number, row / np.linalg.norm(row), 70.0 if number % 2 else 90.0, concerns))
    stranger = rng.normal(size=64)
    faces.append(face(60, stranger / np.linalg.norm(stranger), 99.0))
    ordered = telling(faces)
    assert sorted(one.id for one in ordered) == list(range(61))
    first = ordered[:3]
    assert {one.id % 3 for one in first} == {0, 1, 2}  # one of each look
    best = ordered[:15]
    assert all(one.sharpness == 90 and not one.concerns for one in best)
    assert all(one.id != 60 for one in best)
