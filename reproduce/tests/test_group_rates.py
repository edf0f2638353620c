"""``reproduce/group_rates.py``: who is in which group, and the share of pairs, counted one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")

from reproduce.group_rates import ONE_PERSON, groups, rate


def test_a_name_says_age_sex_and_origin():
    found = groups(["4_0_1_a.png", "25_1_3_b.png", "61_1_2017.png", "70_0_0_c.png"])
    members = {name: np.flatnonzero(inside).tolist() for name, inside in found.items() if inside.any()}
    assert members == {
        "all": [0, 1, 2, 3],
        "age 0 to 5": [0],
        "age 20 to 39": [1],
        "age 60 to 116": [3],
        "men from 20 on": [3],
        "women from 20 on": [1],
        "White, from 20 on": [3],
        "Indian, from 20 on": [1],
    }


def test_the_rate_is_the_share_of_pairs_that_reach_the_threshold():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(40, 3)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = embeddings @ embeddings.T
    pairs = [scores[a, b] for a, b in itertools.combinations(range(40), 2) if scores[a, b] < ONE_PERSON]
    value, low, high = rate(scores, 0.3)
    assert value == pytest.approx(np.mean([score >= 0.3 for score in pairs]))
    assert low < value < high
