import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface_runtime import Contract, ContractError, EmbeddingSpec, UsageError, read_contract
from edgeface_runtime.model import FOLDER, find_model
from edgeface_runtime.thresholds import rate_per_comparison, threshold_for

MEASURED = {
    "0.01": {"value": 0.3, "low": 0.29, "high": 0.31, "pairs": 5000},
    "0.001": {"value": 0.4, "low": 0.37, "high": 0.43, "pairs": 5000},
    "1e-05": None,
}
NORMAL = NormalDist()
Z2, Z3, Z4 = (-NORMAL.inv_cdf(rate) for rate in (1e-2, 1e-3, 1e-4))
"""Where the rates 0.01, 0.001 and 0.0001 lie on a normal distribution."""
FEW = {"0.01": {"value": 0.281426}, "0.001": {"value": 0.382511, "low": 0.37, "high": 0.45}}
UNSURE = {"0.01": {"value": 0.28}, "0.0001": {"value": 0.47}, "1e-05": {"value": 0.56, "high": 0.696}}
CONTRACTS = {"two rates": FEW, "a wide interval": UNSURE, "one rate": {"0.001": FEW["0.001"]}}


def contract(thresholds: object) -> Contract:
    return Contract(name="net", backbone="x", embedding=EmbeddingSpec(length=8), thresholds=thresholds)  # type: ignore[arg-type]


@given(st.floats(1e-6, 0.5), st.integers(1, 100_000))
def test_independent_comparisons_together_keep_the_rate(far: float, n: int):
    each = rate_per_comparison(far, n)
    assert 1 - math.exp(n * math.log1p(-each)) == pytest.approx(far, rel=1e-6)
    assert each * n >= far or each * n == pytest.approx(far)


@pytest.mark.parametrize(
    ("far", "expected"),
    [
        (0.01, 0.3),
        (0.001, 0.4),
        (1 - NORMAL.cdf((Z2 + Z3) / 2), 0.35),
        (1 - NORMAL.cdf((3 * Z2 + Z3) / 4), 0.325),
        (0.2, 0.3),
    ],
)
def test_measured_rates_and_those_between(far: float, expected: float):
    found = threshold_for(contract(MEASURED), far)
    assert (found.value, found.extrapolated) == (pytest.approx(expected), False)


def test_below_the_smallest_rate_it_goes_on_from_there_with_the_slope_of_all():
    at = threshold_for(contract(MEASURED), 1e-4)
    assert (at.value, at.extrapolated) == (pytest.approx(0.4 + 0.1 * (Z4 - Z3) / (Z3 - Z2)), True)
    steep_at_the_end = {"0.1": {"value": 0.25}} | MEASURED
    whole = 0.15 / (Z3 + NORMAL.inv_cdf(0.1))
    assert threshold_for(contract(steep_at_the_end), 1e-4).value == pytest.approx(0.4 + whole * (Z4 - Z3))


def shipped(name: str) -> Contract:
    return read_contract(find_model(name))


GALLERIES = [
    *(pytest.param(shipped(file.name), id=file.name) for file in sorted(FOLDER.glob("*.int8.*"))),
    *(pytest.param(contract(thresholds), id=name) for name, thresholds in CONTRACTS.items()),
]


@pytest.mark.parametrize("far", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("net", GALLERIES)
def test_one_more_photo_hardly_changes_the_threshold_of_a_gallery(net: Contract, far: float):
    """From 1 to 100,000 photos, or to where the contract says too little.

    The threshold never falls, so what it rises by over several photos is no less than by any one of them.
    """
    smallest, said = min(float(rate) for rate, at in net.thresholds.items() if at), len(net.thresholds) > 1
    last = min(100_000, int(far / smallest * (100 if said else 1)))
    sizes = sorted({*range(1, 60), *(min(last, int(60 * 1.01**power)) for power in range(750))})
    steps = np.diff([threshold_for(net, far, photos).value for photos in sizes if photos <= last])
    assert len(steps) >= last - 1 or len(steps) > 50
    assert (steps >= 0).all()
    assert (steps <= 0.005 + 1e-12).all()


@given(st.lists(st.floats(1.1e-5, 0.9), min_size=2, max_size=20))
def test_a_smaller_rate_never_has_a_lower_threshold(rates: list[float]):
    limits = [threshold_for(contract(MEASURED), far).value for far in sorted(rates)]
    assert all(low >= high - 1e-12 for low, high in itertools.pairwise(limits))


def test_more_comparisons_are_stricter_and_equal_to_the_smaller_rate():
    net = contract(MEASURED)
    limits = [threshold_for(net, 0.01, n).value for n in (1, 3, 10, 100)]
    assert limits == sorted(set(limits))
    assert threshold_for(net, 0.01, 10) == threshold_for(net, rate_per_comparison(0.01, 10))


def test_the_rate_is_kept_over_a_gallery_of_normal_scores():
    """Scores of strangers drawn from N(0, 1/8): those who reach the threshold over 20 comparisons are few enough."""
    normal = NormalDist(0, 0.125)
    values = {f"{far:g}": {"value": normal.inv_cdf(1 - far)} for far in (1e-1, 1e-2, 1e-3)}
    for n in (1, 5, 20):
        limit = threshold_for(contract(values), 0.01, n)
        best = np.random.default_rng(0).normal(0, 0.125, (100_000, n)).max(axis=1)
        assert (best >= limit.value).mean() <= 0.0115


@given(st.floats(1e-5, 9e-4))
def test_beyond_the_measured_rates_it_is_on_the_strict_side_of_normal_scores(far: float):
    normal = NormalDist(0, 0.125)
    values = {f"{far:g}": {"value": normal.inv_cdf(1 - far)} for far in (1e-2, 1e-3)}
    found = threshold_for(contract(values), far)
    assert found.extrapolated
    assert found.value >= normal.inv_cdf(1 - far) - 1e-9


@pytest.mark.parametrize(
    ("thresholds", "far", "comparisons", "message"),
    [
        ({}, 0.001, 1, "no measured thresholds; give a threshold (--threshold)"),
        ({"0.001": None}, 0.001, 1, "no measured thresholds"),
        (MEASURED, 1e-6, 1, "0.001 as its smallest measured rate, too far from 1e-06"),
        (MEASURED, 0.01, 10_000, "too far from 1e-06 in each of 10000 comparisons"),
        ({"0.01": {"value": 0.3}}, 0.001, 1, "0.01 as its smallest measured rate"),
        (
            {"0.1": {"value": 0.5}, "0.01": {"value": 0.9}},
            0.001,
            1,
            "no score below 1 that is enough for a rate of 0.001",
        ),
        (MEASURED, 0.0, 1, "must lie between 0 and 1"),
        (MEASURED, 1.0, 1, "must lie between 0 and 1"),
        (MEASURED, float("nan"), 1, "must lie between 0 and 1"),
    ],
)
def test_what_the_contract_does_not_say(thresholds: object, far: float, comparisons: int, message: str):
    with pytest.raises(UsageError) as caught:
        threshold_for(contract(thresholds), far, comparisons)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "thresholds",
    [
        {"often": {"value": 0.3}},
        {"0.01": {}},
        {"0.01": 0.3},
        {"0.01": {"value": "high"}},
        {"0.01": {"value": float("nan")}},
        {"2": {"value": 0.1}},
    ],
)
def test_broken_thresholds(thresholds: object):
    with pytest.raises(ContractError, match="thresholds of the contract are broken"):
        threshold_for(contract(thresholds), 0.01)
