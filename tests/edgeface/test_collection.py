"""Which faces of a group are shown and enrolled first, and which number a group has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeface.grouping.cache import SeenFace
from edgeface.grouping.collection import people_of_photos, telling
from edgeface_runtime import Face
from edgeface_runtime.contract import Contract, EmbeddingSpec, InputSpec

CONTRACT = Contract(
    name="net",
    backbone="net",
    precision="fp32",
    input=InputSpec(size=112, layout="NHWC", dtype="float32"),
    embedding=EmbeddingSpec(length=8),
)


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


@pytest.mark.parametrize(
    ("people", "before", "after", "joined"),
    [
        ("aabbcc", (None,) * 6, {"a": 1, "b": 2, "c": 3}, {}),
        ("aabbcc", (3, 3, 1, 1, 2, 2), {"a": 3, "b": 1, "c": 2}, {}),
        ("aaabbcc", (3, 3, None, None, None, 2, 2), {"a": 3, "b": 4, "c": 2}, {}),  # one more person
        ("aaaacc", (3, 3, 2, 2, 1, 1), {"a": 2, "c": 1}, {3: 2}),  # two groups become one
        ("aaabb", (1, 1, 1, 1, 1), {"a": 1, "b": 4}, {}),  # one becomes two
        ("aabb", (1, 1, 1, 1), {"a": 1, "b": 4}, {}),  # in halves
        ("aaabbcc", (1, 1, 1, 1, 2, 3, 3), {"a": 1, "b": 2, "c": 3}, {}),  # a face drifts
        ("aaabbb", (2, 2, 1, 1, 1, 1), {"a": 2, "b": 1}, {}),  # and takes its number nowhere
        ("aabbcc", (1, 1, 1, 1, 1, 1), {"a": 4, "b": 5, "c": 6}, {}),  # in thirds: none is the one before
    ],
)
def test_a_group_keeps_the_number_of_most_of_its_faces(
    people: str, before: tuple[int | None, ...], after: dict[str, int], joined: dict[int, int]
):
    looks = np.eye(8, dtype=np.float32)
    faces = [
        replace(face(place, looks["abcdefgh".index(person)]), group=number)
        for place, (person, number) in enumerate(zip(people, before, strict=True))
    ]
    last = 3 if any(before) else 0
    found = people_of_photos(faces, CONTRACT, photos=len(faces), refused={}, threshold=0.9, last_number=last)
    assert {people[group.faces[0].id]: group.number for group in found.groups} == after
    assert found.joined == joined
