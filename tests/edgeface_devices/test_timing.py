from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface_devices.bench.timing import sample, spread, summarise
from edgeface_devices.figures import Figure


class FakeClock:
    """Nanoseconds that advance only when told to."""

    def __init__(self) -> None:
        self.now = 123

    def __call__(self) -> int:
        return self.now


def model(clock: FakeClock, durations_ms: list[float]) -> object:
    remaining = iter(durations_ms)

    def call() -> None:
        clock.now += round(next(remaining) * 1e6)

    return call


def test_a_sample_is_what_the_clock_advanced_during_the_call():
    clock = FakeClock()
    assert sample(model(clock, [3.0, 1.0, 2.5]), calls=3, clocks=[clock]) == [[3.0, 1.0, 2.5]]


def test_each_model_keeps_its_own_samples_when_turns_alternate():
    clock = FakeClock()
    slow, fast = model(clock, [9.0] * 6), model(clock, [1.0] * 6)
    kept: dict[str, list[float]] = {"slow": [], "fast": []}
    for _ in range(3):
        kept["slow"] += sample(slow, calls=2, clocks=[clock])[0]
        kept["fast"] += sample(fast, calls=2, clocks=[clock])[0]
    assert kept == {"slow": [9.0] * 6, "fast": [1.0] * 6}
    assert summarise(kept["fast"]).p50_ms.value == 1.0


def test_each_clock_has_its_own_list():
    wall, cpu = FakeClock(), FakeClock()

    def call() -> None:
        wall.now += 5_000_000
        cpu.now += 2_000_000

    assert sample(call, calls=2, clocks=[wall, cpu]) == [[5.0, 5.0], [2.0, 2.0]]


def test_the_first_clock_spans_the_others():
    ticks = iter(range(1000))
    outer, inner = sample(lambda: None, calls=1, clocks=[lambda: next(ticks) * 10**6] * 2)
    assert outer == [3.0]
    assert inner == [1.0]


def test_percentiles_of_unsorted_samples():
    latency = summarise([float(value) for value in np.random.default_rng(0).permutation(101)])
    assert (latency.p50_ms.value, latency.p90_ms.value, latency.p99_ms.value) == (50.0, 90.0, 99.0)
    assert latency.calls == 101


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60))
def test_the_median_has_half_of_the_samples_on_each_side(samples: list[float]):
    median = summarise(samples).p50_ms.value * (1 + 1e-12)
    below = sum(value <= median for value in samples)
    assert below >= len(samples) / 2
    assert sum(value >= median * (1 - 3e-12) for value in samples) >= len(samples) / 2


@pytest.mark.parametrize(
    ("count", "has_p90", "has_p99"), [(9, False, False), (10, True, False), (99, True, False), (100, True, True)]
)
def test_no_percentile_that_the_samples_cannot_support(count: int, has_p90: bool, has_p99: bool):
    latency = summarise([1.0] * count)
    assert (latency.p90_ms is not None, latency.p99_ms is not None) == (has_p90, has_p99)


def test_no_samples_are_an_error():
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_a_figure_cannot_be_shown_without_its_source():
    assert f"{Figure(3.14159, 'measured'):.1f}" == "3.1"
    assert f"{Figure(9.0, 'emulated'):.0f}" == "9 (emulated)"
    assert f"{Figure(9.0, 'estimated', (7.0, 12.0)):.0f}" == "7 to 12 (estimated)"


def test_an_estimate_without_an_interval_is_refused():
    with pytest.raises(ValueError, match="interval"):
        Figure(3.0, "estimated")


def test_a_ratio_of_two_sources_is_refused():
    measured, estimated = Figure(3.0, "measured"), Figure(6.0, "estimated", (4.0, 8.0))
    assert measured.over(Figure(6.0, "measured")) == 0.5
    with pytest.raises(ValueError, match="estimated"):
        measured.over(estimated)


def test_the_spread_is_that_of_the_rounds_medians_and_not_of_single_calls():
    rounds = [[level, level + 100, level] for level in range(1, 12)]  # each with one call that was interrupted
    assert spread([ms for part in rounds for ms in part], 11) == (2.0, 10.0)


def test_few_rounds_say_nothing_of_the_spread():
    assert spread([1.0] * 9, 9) is None
