"""``reproduce/thresholds.py``: which photos set thresholds, who is one person, and which set decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edgeface_runtime.model import unit_rows
from reproduce.thresholds import PINS_PHOTOS, SETS, every_other, persons, strictest, view1_people


def test_every_other_person_and_their_first_photos():
    names = np.repeat(["b", "a", "c"], [3, 2, PINS_PHOTOS + 5])
    assert np.flatnonzero(every_other(names)).tolist() == [3, 4, *range(5, 5 + PINS_PHOTOS)]


def test_names_that_are_alike_or_whose_photos_are_one_face_are_one_person():
    rows = unit_rows(np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32))
    rows[3] = rows[0]
    numbers = persons(np.array(["Ada", "bob", "BOB", "Countess", "Dan"]), rows)
    assert numbers[0] == numbers[3]
    assert numbers[1] == numbers[2]
    assert len(set(numbers.tolist())) == 3


def test_the_people_of_a_list_of_pairs(tmp_path: Path):
    (tmp_path / "pairsDevTrain.txt").write_text("1\nAda\t1\t2\nBob\t1\tEve\t1\n")
    (tmp_path / "pairsDevTest.txt").write_text("1\nDan\t1\t4\n")
    assert view1_people(tmp_path) == {"Ada", "Bob", "Eve", "Dan"}


def test_the_set_whose_people_look_most_alike_decides():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(90, 16)) + np.repeat([[0.0], [0.0], [0.6]], 30, axis=0)
    person = np.repeat(np.arange(90), 6)
    rows = unit_rows((directions[person] + rng.normal(0, 0.4, (540, 16))).astype(np.float32))
    found, facts = strictest(rows, person, person // 30)
    assert found["0.01"]["from"] == found["0.001"]["from"] == SETS[2]
    assert found["0.0001"]["from"] == "all together"
    assert found["1e-07"] is None
    assert facts["sets"] == {**dict.fromkeys(SETS, 30), "all together": 90}
    alike = rows[person // 30 == 2]
    scores = (alike @ alike.T)[np.triu_indices(180, 1)]
    impostors = scores[np.not_equal.outer(person[:180], person[:180])[np.triu_indices(180, 1)]]
    assert (impostors >= found["0.01"]["value"]).mean() == pytest.approx(0.01, abs=1e-3)
