from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from edgeface.data.dataset import FaceData
from edgeface_runtime import UsageError
from reproduce.adapt_table import HELD_OUT, drawn, row


def photos(people: int, each: int) -> FaceData:
    labels = np.repeat(np.arange(people), each)
    faces = np.arange(people * each, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    paths = tuple(f"{label}/{number}" for number, label in enumerate(labels))
    return FaceData(faces, labels, tuple(map(str, range(people))), paths, np.full(len(labels), "train"))


def test_nobody_judges_with_a_photo_that_was_adapted_to():
    data = drawn(photos(7, 34), 5, 10)
    assert len(data.identities) == 5
    for person in range(5):
        taught, judged = (
            set(data.faces[(data.labels == person) & (data.split == part), 0, 0, 0].tolist())
            for part in ("train", "test")
        )
        assert (len(taught), len(judged)) == (10, HELD_OUT)
        assert not taught & judged
    assert [path.split("/")[0] for path in data.paths] == [data.identities[label] for label in data.labels]


def test_people_with_too_few_photos_are_left_out():
    with pytest.raises(UsageError, match="0 people have 32 photos"):
        drawn(photos(7, 31), 5, 10)


def test_a_row_reads_in_percent():
    found = {"own": [0.95, 0.8], "others": [0.9, 0.7], "named": 0.85, "seconds": 61.4}
    assert row("50 × 10", "adapt", found) == ["50 × 10", "adapt", "95.0 / 80.0", "90.0 / 70.0", "85.0", "61"]
