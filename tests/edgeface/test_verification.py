from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.evaluation import verification
from edgeface.evaluation.tails import Tails, all_against_all, tails, tar_at_far
from edgeface.evaluation.verification import (
    Pairs,
    all_pairs,
    area_under_curve,
    best_threshold,
    equal_error_rate,
    pair_photos,
    threshold_for_far,
    verify,
    verify_folds,
)
from edgeface_runtime import UsageError


def people(count: int, photos: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(count, 8)), photos, axis=0) + rng.normal(0, noise, (count * photos, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), np.repeat(np.arange(count), photos)


def scored(same: list[float], different: list[float]) -> Pairs:
    first = np.zeros(len(same) + len(different), np.int64)
    second = np.array([0] * len(same) + [1] * len(different), np.int64)
    return Pairs(np.array(same + different), first, second)


# Few distinct values, so that ties within and between the kinds are common.
scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=25)


def rates(same: list[float], different: list[float], threshold: float) -> tuple[float, float]:
    """(FAR, FRR) by counting."""
    return (
        sum(score >= threshold for score in different) / len(different),
        sum(score < threshold for score in same) / len(same),
    )


@settings(deadline=None)
@given(scores, scores)
def test_auc_is_the_share_of_won_comparisons(same: list[float], different: list[float]):
    won = sum((a > b) + 0.5 * (a == b) for a in same for b in different)
    assert area_under_curve(scored(same, different)) == pytest.approx(won / (len(same) * len(different)))


@given(scores, scores)
def test_eer_by_trying_every_threshold(same: list[float], different: list[float]):
    tried = [rates(same, different, threshold) for threshold in sorted({*same, *different})]
    far, frr = min(tried, key=lambda pair: round(abs(pair[0] - pair[1]), 12))
    eer, threshold = equal_error_rate(scored(same, different))
    assert abs(np.subtract(*rates(same, different, threshold))) == pytest.approx(abs(far - frr))
    assert eer == pytest.approx(sum(rates(same, different, threshold)) / 2)


@given(scores, scores, st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))
def test_the_threshold_is_the_lowest_that_keeps_the_far(same: list[float], different: list[float], far: float):
    threshold = threshold_for_far(scored(same, different), far)
    assert rates(same, different, threshold)[0] <= far + 1e-9
    below = np.nextafter(threshold, -np.inf)
    assert rates(same, different, below)[0] > far or threshold == min(different)


def test_all_pairs_are_the_cosines_of_each_photo_with_each_other():
    embeddings, labels = people(4, 3, 1.0)
    pairs = all_pairs(embeddings, labels + 10)
    expected = [
        (float(embeddings[a].astype(float) @ embeddings[b]), labels[a], labels[b])
        for a in range(12)
        for b in range(a + 1, 12)
    ]
    np.testing.assert_allclose(pairs.scores, [row[0] for row in expected], atol=1e-6)
    assert pairs.first.tolist() == [row[1] for row in expected]
    assert pairs.second.tolist() == [row[2] for row in expected]
    assert pairs.same.sum() == 4 * 3


def of_all(count: int, photos: int, noise: float, seed: int = 0) -> Tails:
    return all_against_all(*people(count, photos, noise, seed))


def test_the_interval_shrinks_with_more_people():
    few, many = (tar_at_far(of_all(count, 4, 0.9), 0.1) for count in (8, 80))
    assert many.threshold_high - many.threshold_low < (few.threshold_high - few.threshold_low) / 3
    assert many.high - many.low < few.high - few.low
    assert few.low < few.value < few.high
    assert few.threshold_low <= few.threshold <= few.threshold_high


@pytest.mark.parametrize("far", [0.001, 0.01])
def test_photos_and_their_pairs_give_one_answer(far: float):
    """Pairs that were scored one by one, and photos that were compared block by block."""
    embeddings, labels = people(60, 10, 0.8)
    pairs = all_pairs(embeddings, labels)
    one_by_one, by_block = tails(pairs.scores, pairs.first, pairs.second), all_against_all(embeddings, labels)
    assert tar_at_far(one_by_one, far) == tar_at_far(by_block, far)
    assert by_block.threshold(far) == threshold_for_far(pairs, far)
    assert len(by_block.impostor) < len(one_by_one.impostor) == by_block.total


def test_an_interval_of_ninety_five_percent_covers_the_true_value_as_often():
    """Of samples of 60 people each: how often the threshold and the TAR of all people lie inside."""
    far, samples = 0.01, 500
    one, other = (rows[0][place::2] for rows in [people(3000, 2, 0.8, seed=1)] for place in (0, 1))
    impostors = (one[:2000].astype(float) @ other.T.astype(float))[~np.eye(2000, len(other), dtype=bool)]
    limit = np.quantile(impostors, 1 - far)
    tar = ((one * other).sum(axis=1) >= limit).mean()
    inside = np.zeros(2)
    for seed in range(samples):
        found = tar_at_far(of_all(60, 4, 0.8, seed=10 + seed), far)
        inside += [found.threshold_low <= limit <= found.threshold_high, found.low <= tar <= found.high]
    assert (inside / samples >= 0.93).all()
    assert (inside / samples <= 0.97).all()


def test_too_few_expected_false_accepts_give_null_and_the_reason():
    document = verify(all_pairs(*people(10, 3, 0.5)), fars=(0.1, 0.001), failed=2).as_json()
    assert document["tar_at_far"]["0.1"]["value"] is not None
    refused = document["tar_at_far"]["0.001"]
    assert refused["value"] is refused["low"] is refused["threshold"] is None
    assert refused["reason"].startswith("405 pairs of different people make 0.4 false accepts expected")
    assert (document["pairs"], document["failed"]) == (435, 2)
    json.dumps(document, allow_nan=False)


def test_accuracy_is_taken_at_the_threshold_given():
    pairs = scored([0.9, 0.4], [0.5, 0.1, 0.0])
    assert verify(pairs, fars=(), threshold=0.45).accuracy == pytest.approx(3 / 5)
    assert verify(pairs, fars=(), threshold=0.9).accuracy == pytest.approx(4 / 5)
    assert verify(pairs, fars=(), threshold=0.45).threshold == 0.45


def test_all_photos_are_compared_up_to_a_bound(monkeypatch: pytest.MonkeyPatch):
    labels = np.repeat(np.arange(10), 50)
    assert pair_photos(labels).tolist() == list(range(500))
    monkeypatch.setattr(verification, "PAIR_PHOTOS", 100)
    rows = pair_photos(labels)
    assert len(rows) == len(set(rows.tolist())) == 100
    assert sorted(np.bincount(labels[rows], minlength=10).tolist(), reverse=True) == [40, 40, 20, *[0] * 7]
    assert rows.tolist() == pair_photos(labels).tolist()
    assert rows.tolist() != pair_photos(labels, seed=1).tolist()
    pairs_of = np.repeat(np.arange(200), 2)
    assert (np.bincount(pairs_of[pair_photos(pairs_of)])[np.unique(pairs_of[pair_photos(pairs_of)])] == 2).all()


def test_perfect_separation():
    found = verify(scored([0.8, 0.9], [0.1, 0.2]), fars=())
    assert (found.auc, found.eer, found.accuracy, found.threshold) == (1.0, 0.0, 1.0, 0.8)


@pytest.mark.parametrize("pairs", [scored([1.0, 0.5], []), scored([], [1.0])])
@pytest.mark.parametrize("function", [area_under_curve, equal_error_rate, verify])
def test_pairs_of_one_kind_are_refused(pairs: Pairs, function):
    with pytest.raises(UsageError, match="one kind is missing"):
        function(pairs)


def test_the_best_threshold_has_even_odds_by_the_slow_form():
    rng = np.random.default_rng(0)
    same, different = rng.normal(0.6, 0.15, 300), rng.normal(0.05, 0.1, 200)
    values = np.concatenate([same, different])
    signs, scaled = np.repeat([1, -1], [300, 200]), (values - values.mean()) / values.std()

    def loss(line: np.ndarray) -> float:
        return float(np.logaddexp(0, -signs * (line[0] * scaled + line[1])).sum() + line[0] ** 2 / 2000)

    slope, intercept = scipy.optimize.minimize(loss, [1.0, 0.0], tol=1e-9).x
    expected = values.mean() - values.std() * intercept / slope
    assert best_threshold(scored(list(same), list(different))) == pytest.approx(expected, abs=1e-4)


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 100))
def test_the_best_threshold_moves_with_the_scores(scale: float, offset: float, seed: int):
    rng = np.random.default_rng(seed)
    same, different = rng.normal(0.6, 0.3, 20), rng.normal(0.1, 0.3, 30)
    moved = best_threshold(scored(list(same * scale + offset), list(different * scale + offset)))
    assert moved == pytest.approx(
        best_threshold(scored(list(same), list(different))) * scale + offset, abs=1e-3 * scale
    )


def test_the_best_threshold_parts_what_can_be_parted():
    assert best_threshold(scored([0.8, 0.9], [0.1, 0.2])) == pytest.approx(0.5, abs=0.02)
    assert 0.2 < best_threshold(scored([0.8, 0.9, 0.95], [0.1, 0.2])) < 0.8


@pytest.mark.parametrize("pairs", [scored([0.1, 0.2], [0.8, 0.9]), scored([0.5, 0.5], [0.5])])
def test_where_scores_say_nothing_the_threshold_is_that_of_equal_errors(pairs: Pairs):
    assert best_threshold(pairs) == equal_error_rate(pairs)[1]


def test_folds_are_judged_by_the_others_thresholds():
    rng = np.random.default_rng(0)
    first, fold = np.arange(120), np.arange(120) % 4
    second = np.where(np.arange(120) % 8 < 4, first, first + 1)
    values = rng.normal(size=120) + 1.5 * (first == second)
    result = verify_folds(Pairs(values, first, second), fold, failed=3)
    accuracies = []
    for number in range(4):
        rest = [(v, a == b) for v, a, b, f in zip(values, first, second, fold, strict=True) if f != number]
        inside = [(v, a == b) for v, a, b, f in zip(values, first, second, fold, strict=True) if f == number]
        limit = best_threshold(scored([v for v, same in rest if same], [v for v, same in rest if not same]))
        accuracies.append(sum((v >= limit) == same for v, same in inside) / len(inside))
    assert result.folds == pytest.approx(accuracies)
    assert result.accuracy == pytest.approx(sum(accuracies) / 4)
    variance = sum((value - result.accuracy) ** 2 for value in accuracies) / 3
    assert result.standard_error == pytest.approx((variance / 4) ** 0.5)
    assert (result.pairs, result.failed) == (120, 3)


def test_one_fold_has_no_others_to_choose_by():
    pairs = scored([0.9, 0.4], [0.5, 0.1])
    with pytest.raises(UsageError, match=r"all in one fold; name others .* --train-pairs"):
        verify_folds(pairs, np.zeros(4, np.int64))


def test_an_interval_in_words():
    document = verify(all_pairs(*people(40, 3, 0.9)), fars=(0.1, 0.001))
    assert str(document.tar_at_far["0.1"]).count("%") == 1
    assert str(document.tar_at_far["0.001"]).startswith("too few pairs for this FMR: 7020 pairs of different people")
