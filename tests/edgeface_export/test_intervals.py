"""95 % intervals of shares of pairs that share people: how often they hold the true share."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeface_export.separation import mean_variance, share_interval, sum_variance, wilson

SAMPLES = 500


@pytest.mark.parametrize(("right", "count"), [(0, 10), (95, 100), (50, 50), (1, 6000)])
def test_wilsons_interval_is_where_the_score_test_turns(right: int, count: int):
    for edge in wilson(right / count, count):
        if 1e-9 < edge < 1 - 1e-9:
            assert abs(right / count - edge) == pytest.approx(
                1.959964 * math.sqrt(edge * (1 - edge) / count), abs=1e-12
            )
    low, high = wilson(right / count, count)
    assert -1e-12 <= low <= right / count <= high + 1e-12 <= 1 + 2e-12


def pairs_of_people(rng: np.random.Generator, people: int = 100, pairs: int = 1500) -> tuple[np.ndarray, ...]:
    """Whether pairs are decided rightly, which hangs on how easy both people are, and whose they are."""
    easy = rng.normal(0, 0.5, people)
    first, second = rng.integers(0, people, (2, pairs))
    return easy[first] + easy[second] + rng.normal(0, 1, pairs) > -1.5, first, second


def test_the_interval_over_people_covers_the_true_share_as_often_as_it_says_and_wilson_s_does_not():
    rng = np.random.default_rng(0)
    truth = np.mean([pairs_of_people(rng, 2000, 200_000)[0].mean() for _ in range(10)])
    inside = np.zeros(2)
    for _ in range(SAMPLES):
        right, first, second = pairs_of_people(rng)
        for at, (low, high) in enumerate((share_interval(right, first, second), wilson(right.mean(), len(right)))):
            inside[at] += low <= truth <= high
    assert 0.93 <= inside[0] / SAMPLES <= 0.97
    assert inside[1] / SAMPLES < 0.93


def test_the_interval_of_photos_that_several_draws_ask_about_covers_the_true_share():
    """As in naming people from a few of their photos, drawn anew: the same photo is asked about again and again."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(SAMPLES):
        people = np.repeat(np.arange(105), 20)
        hard = rng.beta(0.5, 4.5, 105)[people] > rng.random(len(people))
        asked = np.concatenate([rng.permutation(len(people))[:1500] for _ in range(5)])
        low, high = share_interval(~hard[asked], people[asked])
        inside += low <= 0.9 <= high
    assert 0.93 <= inside / SAMPLES <= 0.97


def test_the_variance_is_the_sum_over_pairs_that_share_somebody():
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 12, (2, 60))
    values = rng.normal(size=60) + rng.normal(size=12)[first] + rng.normal(size=12)[second]
    values -= values.mean()
    people = [{int(a), int(b)} for a, b in zip(first, second, strict=True)]
    shared = np.array([[bool(one & other) for other in people] for one in people])
    alike = np.array([[one == other for other in people] for one in people])
    expected = sum_variance(values @ shared @ values, values @ alike @ values, 12)
    assert mean_variance(values, first, second) == pytest.approx(expected / 60**2)


def test_photos_of_one_person_are_one_trial_where_they_agree():
    people = np.repeat(np.arange(40), 25)
    right = people % 4 > 0
    assert share_interval(right, people) == pytest.approx(wilson(0.75, 40), abs=0.01)
    assert share_interval(np.ones(1000, bool), people) == wilson(1.0, 40)
