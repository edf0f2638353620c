from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from edgeface_export.faces import MAX_PHOTOS, draw_pairs, few_people
from edgeface_export.gate import FMR, AccuracyDrop, accuracy_drop
from edgeface_runtime import UsageError
from edgeface_runtime.model import unit_rows

labels = st.lists(st.integers(0, 4), min_size=3, max_size=40).map(lambda values: np.array(values, np.int64))


def all_kinds(labels_N: np.ndarray) -> tuple[int, int]:
    pairs = [(i, j) for i in range(len(labels_N)) for j in range(i + 1, len(labels_N))]
    same = sum(bool(labels_N[i] == labels_N[j]) for i, j in pairs)
    return same, len(pairs) - same


@settings(max_examples=120, deadline=None)
@given(labels, st.integers(2, 400), st.integers(0, 99))
def test_pairs(labels_N: np.ndarray, count: int, seed: int):
    same_all, different_all = all_kinds(labels_N)
    assume(same_all and different_all)
    pairs = draw_pairs(labels_N, count=count, seed=seed)
    np.testing.assert_array_equal(pairs, draw_pairs(labels_N, count=count, seed=seed))
    assert len(pairs) == min(count, same_all + different_all)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    same = int((labels_N[pairs[:, 0]] == labels_N[pairs[:, 1]]).sum())
    # Half and half, as far as there are pairs of each kind.
    assert same == min(same_all, max(count // 2, count - different_all))


def test_the_seed_draws_other_pairs():
    labels_N = np.repeat(np.arange(5), 6)
    assert (draw_pairs(labels_N, count=40, seed=0) != draw_pairs(labels_N, count=40, seed=1)).any()


@pytest.mark.parametrize("labels_N", [[0, 0, 0], [0, 1, 2], [0]])
def test_pairs_of_one_kind_cannot_judge(labels_N: list[int]):
    with pytest.raises(UsageError, match="genuine and impostor pairs of evaluation photos; one kind is missing"):
        draw_pairs(np.array(labels_N))


def test_too_many_photos_become_whole_people():
    labels_N = np.random.default_rng(0).integers(0, 50, MAX_PHOTOS + 500)
    rows = few_people(labels_N, np.random.default_rng(1))
    assert MAX_PHOTOS - 200 < len(rows) <= MAX_PHOTOS
    kept = np.unique(labels_N[rows])
    np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(labels_N, kept)))
    np.testing.assert_array_equal(few_people(labels_N[:9], np.random.default_rng(1)), np.arange(9))


def slow_drop(
    source: np.ndarray, found_rows: np.ndarray, pairs: np.ndarray, same: np.ndarray
) -> tuple[float, int, int, float]:
    def decided(rows: np.ndarray) -> list[bool]:
        scores = [np.float32((rows[i] * rows[j]).sum()) for i, j in pairs]
        best: list[bool] = []
        for threshold in sorted(scores, reverse=True):
            right = [(score >= threshold) == truth for score, truth in zip(scores, same, strict=True)]
            if not best or sum(right) > sum(best):
                best = right
        return best

    before, after = decided(source), decided(found_rows)
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    won = sum(b and not a for a, b in zip(before, after, strict=True))
    return 100 * (sum(before) - sum(after)) / len(pairs), lost, won, sum(after) / len(pairs)


@settings(max_examples=80, deadline=None)
@given(labels, st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 2.0]), st.booleans())
def test_the_drop_is_counted_pair_by_pair(labels_N: np.ndarray, seed: int, noise: float, ties: bool):
    same_all, different_all = all_kinds(labels_N)
    assume(same_all and different_all)
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (5, 3))
    source = centres[labels_N] + rng.normal(0, 0.4, (len(labels_N), 3))
    if ties:
        source = np.sign(source) + (source == 0)
    found_rows = source + noise * rng.normal(0, 1, source.shape)
    source, found_rows = (unit_rows(rows.astype(np.float32)) for rows in (source, found_rows))
    pairs = draw_pairs(labels_N, count=60, seed=seed)
    same = labels_N[pairs[:, 0]] == labels_N[pairs[:, 1]]
    found = accuracy_drop(source, found_rows, pairs, same)
    points, lost, won, accuracy = slow_drop(source, found_rows, pairs, same)
    assert (found.lost, found.won, found.pairs) == (lost, won, len(pairs))
    assert found.points == pytest.approx(points)
    assert found.accuracy == pytest.approx(accuracy)
    assert found.low < found.points < found.high
    assert found.accuracy_interval[0] <= found.accuracy <= found.accuracy_interval[1] + 1e-12


def test_pairs_of_few_people_lose_less_surely_than_pairs_of_many():
    rng = np.random.default_rng(0)
    source = unit_rows(rng.normal(size=(300, 4)).astype(np.float32))
    found_rows = unit_rows((source + rng.normal(0, 0.4, source.shape)).astype(np.float32))
    pairs = np.arange(300).reshape(-1, 2)
    same = np.arange(150) % 2 == 0
    alone = accuracy_drop(source, found_rows, pairs, same)
    # Agresti's interval, written as the variance of the paired differences −1, 0, 1.
    differences = np.repeat([1.0, -1.0, 0.0], [alone.lost, alone.won, 150 - alone.lost - alone.won])
    half = 1.96 * math.sqrt(differences.var() / 150 + 0.5 / 150**2)
    assert (alone.low, alone.high) == pytest.approx((alone.points - 100 * half, alone.points + 100 * half), abs=0.05)
    few = accuracy_drop(source, found_rows, pairs, same, np.arange(300) // 30)
    assert few.points == alone.points
    assert few.accuracy_interval != alone.accuracy_interval


def test_the_same_embeddings_lose_nothing_but_are_not_certain():
    rng = np.random.default_rng(0)
    rows = unit_rows(rng.normal(0, 1, (40, 8)).astype(np.float32))
    labels_N = np.repeat(np.arange(8), 5)
    pairs = draw_pairs(labels_N)
    found = accuracy_drop(rows, rows, pairs, labels_N[pairs[:, 0]] == labels_N[pairs[:, 1]])
    sure = (found.low, found.high, 0, 0, 780, 0.0, found.accuracy, found.accuracy_interval, None)
    assert found == AccuracyDrop(0.0, *sure)
    assert found.low == -found.high < 0


def slow_tar(rows: np.ndarray, pairs: np.ndarray, same: np.ndarray) -> float:
    """At the lowest threshold that lets no more than ``FMR`` of the impostors through."""
    scores = [float((rows[i] * rows[j]).sum()) for i, j in pairs]
    impostors = [score for score, truth in zip(scores, same, strict=True) if not truth]
    genuine = [score for score, truth in zip(scores, same, strict=True) if truth]
    for threshold in sorted(impostors):
        if sum(score > threshold for score in impostors) <= FMR * len(impostors):
            return sum(score > threshold for score in genuine) / len(genuine)
    raise AssertionError


def test_accepted_pairs_are_compared_at_one_false_accept_rate():
    rng = np.random.default_rng(0)
    labels_N = np.repeat(np.arange(12), 6)
    source = rng.normal(0, 1, (12, 4))[labels_N] + rng.normal(0, 0.5, (72, 4))
    source, found_rows = (unit_rows(rows.astype(np.float32)) for rows in (source, source + rng.normal(0, 0.4, (72, 4))))
    pairs = draw_pairs(labels_N)
    same = labels_N[pairs[:, 0]] == labels_N[pairs[:, 1]]
    expected = slow_tar(source, pairs, same) - slow_tar(found_rows, pairs, same)
    assert expected > 0.05
    assert accuracy_drop(source, found_rows, pairs, same).tar == pytest.approx(100 * expected)


@pytest.mark.parametrize("same", [[], [True, True], [False]])
def test_pairs_of_one_kind_judge_nothing(same: list[bool]):
    rows = np.eye(2, dtype=np.float32)
    pairs = np.zeros((len(same), 2), np.int64)
    with pytest.raises(UsageError, match=f"{len(same)} pairs measure no accuracy"):
        accuracy_drop(rows, rows, pairs, np.array(same, bool))
