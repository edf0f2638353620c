"""Ranges against onnxruntime's own calibrators, slow formulas and what must hold for any values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface_export.quantize.ranges import BINS, METHODS, OUTSIDE, SAMPLED, Spread, mse, observe, ranges
from edgeface_runtime import ModelError

FACES = np.random.default_rng(0).normal(0.3, 1, (20, 40, 50)).astype(np.float32)


def runs(faces: np.ndarray = FACES) -> Iterator[dict[str, np.ndarray]]:
    for face in faces:
        yield {"linear": face, "relu": np.maximum(face, 0)}


def test_a_spread_counts_every_value_of_small_tensors():
    found = observe(runs)
    for name, values in (("linear", FACES), ("relu", np.maximum(FACES, 0))):
        spread = found[name]
        assert (spread.low, spread.high) == (values.min(), values.max())
        assert spread.mean_low == pytest.approx(values.min(axis=(1, 2)).mean())
        assert spread.mean_high == pytest.approx(values.max(axis=(1, 2)).mean())
        assert spread.counts.sum() == values.size
        expected = np.histogram(values, BINS, (spread.low, spread.high))[0]
        # A value on an edge may fall to either side.
        assert np.abs(np.cumsum(spread.counts) - np.cumsum(expected)).max() <= 3


def test_of_large_tensors_every_few_values_are_counted():
    large = np.random.default_rng(1).normal(0, 1, (2, 5 * SAMPLED)).astype(np.float32)
    counts = observe(lambda: ({"a": row} for row in large))["a"].counts
    assert SAMPLED / 2 < counts.sum() / 2 <= SAMPLED


def test_methods_are_what_they_are_called():
    found = observe(runs)["linear"]
    assert METHODS["minmax"](found) == (found.low, found.high)
    assert METHODS["moving-average"](found) == (found.mean_low, found.mean_high)
    step = (found.high - found.low) / BINS
    low, high = METHODS["percentile"](found)
    assert low == pytest.approx(np.quantile(FACES, OUTSIDE / 2), abs=3 * step)
    assert high == pytest.approx(np.quantile(FACES, 1 - OUTSIDE / 2), abs=30 * step)
    assert set(ranges(observe(runs), "minmax")) == {"linear", "relu"}


def test_the_percentile_is_onnxruntimes():
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    collector = calibrate.HistogramCollector(
        "percentile", symmetric=False, num_bins=BINS, num_quantized_bins=128, percentile=100 * (1 - OUTSIDE),
        scenario="same",
    )  # fmt: skip
    collector.collect({"a": [FACES.reshape(-1)]})
    expected = collector.compute_collection_result()["a"][:2]
    found = observe(runs)["linear"]
    step = (found.high - found.low) / BINS
    np.testing.assert_allclose(METHODS["percentile"](found), np.array(expected, float), atol=2 * step)


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values after 8 bits, step by step."""
    step = (high - low) / 255
    return np.clip(np.round((values - low) / step), 0, 255) * step + low


def test_mse_rounds_better_than_all_other_methods():
    values = np.random.default_rng(2).standard_t(2, (10, 4000)).astype(np.float32)
    spread = observe(lambda: ({"a": row} for row in values))["a"]
    error = {name: ((rounded(values, *method(spread)) - values) ** 2).mean() for name, method in METHODS.items()}
    assert min(error, key=lambda name: error[name]) == "mse"
    assert error["mse"] < 0.96 * error["minmax"]
    # And nothing was gained by chance: with no tail there is nothing to cut off.
    flat = np.linspace(-1, 1, 4000, dtype=np.float32)
    assert mse(observe(lambda: [{"a": flat}])["a"]) == (-1, 1)


def test_entropy_cuts_off_a_tail_and_not_a_relu():
    rng = np.random.default_rng(3)
    body = rng.normal(0, 1, 40_000).astype(np.float32)
    with_tail = np.append(body, np.float32([60, -55]))
    low, high = METHODS["entropy"](observe(lambda: [{"a": with_tail[::-1]}, {"a": with_tail}])["a"])
    assert -30 < low < -2 < 2 < high < 30
    zeros = np.maximum(rng.uniform(-1, 1, 16_000), 0).astype(np.float32)
    low, high = METHODS["entropy"](observe(lambda: [{"a": zeros}])["a"])
    assert low == 0
    assert high > 0.9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-50, 50), st.floats(0, 40), st.integers(1, 300))
def test_every_range_lies_within_the_values(seed: int, middle: float, width: float, count: int):
    values = np.random.default_rng(seed).normal(middle, width, count).astype(np.float32)
    spread = observe(lambda: [{"a": values}])["a"]
    assert spread.counts.sum() == count
    for name, method in METHODS.items():
        low, high = method(spread)
        slack = 1e-5 * (1 + abs(spread.low) + abs(spread.high))
        assert spread.low - slack <= low <= high <= spread.high + slack, name


def test_a_constant_has_a_range_of_its_own():
    spread = observe(lambda: [{"a": np.full(7, 2.5, np.float32)}])["a"]
    assert isinstance(spread, Spread)
    for method in METHODS.values():
        assert method(spread) == pytest.approx((2.5, 2.5))


def test_values_that_no_range_holds_are_refused_in_a_line():
    padded = np.full((4, 4), -np.inf, np.float32)
    padded[1:3, 1:3] = 1.0

    with pytest.raises(ModelError, match=r"^pool: its values are not finite.*max-pool with padding"):
        observe(lambda: [{"pool": padded}])
