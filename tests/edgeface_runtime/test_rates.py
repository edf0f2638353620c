from __future__ import annotations

import numpy as np
import pytest

from edgeface_runtime import rate_over_people


def test_a_person_of_many_photos_counts_by_them():
    rate = rate_over_people([3, 0, 1], [4, 0, 6])
    assert rate is not None
    assert (rate.value, rate.photos, rate.people) == (0.4, 10, 2)
    assert 0 <= rate.low < 0.4 < rate.high <= 1


def test_without_photos_there_is_no_rate():
    assert rate_over_people([], []) is None
    assert rate_over_people([0, 0], [0, 0]) is None


def test_of_one_photo_each_it_is_wilson_s_interval():
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998: 81 of 263, 0.2553 to 0.3662."""
    rate = rate_over_people([1] * 81 + [0] * 182, [1] * 263)
    assert rate is not None
    assert (rate.low, rate.high) == (pytest.approx(0.2553, abs=0.001), pytest.approx(0.3662, abs=0.001))


def test_without_events_people_are_counted_and_not_their_photos():
    few, many = rate_over_people([0] * 20, [1] * 20), rate_over_people([0] * 20, [50] * 20)
    assert few is not None
    assert many is not None
    assert few.low == many.low == 0
    assert many.high == pytest.approx(few.high, abs=0.02)
    assert 0.1 < many.high < 0.2


@pytest.mark.parametrize(("people", "photos", "rate"), [(30, 10, 0.2), (50, 20, 0.05), (100, 5, 0.5), (100, 20, 0.9)])
def test_it_covers_the_truth_where_people_differ(people: int, photos: int, rate: float):
    """Each person has a rate of their own (a beta distribution, correlation 0.2 between the photos of one)."""
    rng = np.random.default_rng(0)
    spread = 1 / 0.2 - 1
    covered = []
    for _ in range(2000):
        events = rng.binomial(photos, rng.beta(rate * spread, (1 - rate) * spread, people))
        found = rate_over_people(events, np.full(people, photos))
        assert found is not None
        covered.append(found.low <= rate <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.975
