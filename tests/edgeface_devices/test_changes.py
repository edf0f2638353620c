from __future__ import annotations

from typing import Any

import pytest

from edgeface_devices.changes import FIGURES, RATIOS, breaches, change_table, compare, parse_limit
from edgeface_devices.choices import choose
from edgeface_devices.measurement import Measurement
from edgeface_devices.results import Results, judge, merge
from edgeface_runtime import UsageError


def line(path: str, ms: float | None, accuracy: float | None = None, **changes: Any) -> dict[str, Any]:
    stated = None if accuracy is None else {"value": accuracy}
    return {
        "path": path,
        "format": "onnx",
        "engine": "onnxruntime",
        "engine_version": "1",
        "precision": "fp32",
        "threads": 1,
        "p50_ms": ms,
        "cpu_p50_ms": ms,
        "size_bytes": 1_000_000,
        "source": "measured",
        "verification": stated,
        **changes,
    }


def guess(path: str, low: float, high: float, accuracy: float | None = None) -> dict[str, Any]:
    return line(path, (low * high) ** 0.5, accuracy, source="estimated", interval_ms=[low, high], cpu_p50_ms=None)


def results(*rows: dict[str, Any], device: str = "Board") -> Results:
    about = {"name": device, "source": "measured", "cores": 4, "system": "Linux"}
    return Results.from_json({"schema": 1, "device": about, "rows": list(rows), "ratios": []})


def made(*rows: dict[str, Any], device: str = "Board") -> tuple[Measurement, ...]:
    return merge([results(*rows, device=device)]).rows


SLOW, QUICK, POOR = line("slow.onnx", 40.0, 0.99), line("quick.onnx", 20.0, 0.98), line("poor.onnx", 5.0, 0.90)


@pytest.mark.parametrize(
    ("budget", "least", "file", "fits"),
    [
        (None, None, "poor.onnx", True),  # the fastest
        (None, 0.97, "quick.onnx", True),  # the fastest that keeps it
        (50, None, "slow.onnx", True),  # the most accurate within it
        (50, 0.97, "quick.onnx", True),
        (30, None, "quick.onnx", True),
        (30, 0.985, "quick.onnx", False),  # half a point short is nearer than a third too slow
        (1, None, "poor.onnx", False),
        (None, 0.999, "slow.onnx", False),
    ],
)
def test_the_file_for_a_budget(budget: float | None, least: float | None, file: str, fits: bool):
    (choice,) = choose(made(SLOW, QUICK, POOR), budget_ms=budget, min_accuracy=least)
    assert (choice.row.file, choice.fits) == (file, fits)
    assert f"take {file}" in choice.line if fits else f"nothing fits; nearest is {file}" in choice.line


@pytest.mark.parametrize("budget", [None, 3, 10, 25, 60])
@pytest.mark.parametrize("least", [None, 0.91, 0.985, 1.0])
def test_what_is_chosen_keeps_all_demands_or_nothing_does(budget: float | None, least: float | None):
    rows = made(SLOW, QUICK, POOR, guess("guess.onnx", 2.0, 30.0, 0.985))

    def keeps(entry: Measurement) -> bool:
        ms, share = entry.careful_ms, entry.accuracy.value
        return (budget is None or ms <= budget) and (least is None or share >= least)

    (choice,) = choose(rows, budget_ms=budget, min_accuracy=least)
    assert choice.fits == keeps(choice.row) == any(map(keeps, rows))


def test_an_estimate_is_held_to_its_upper_end():
    rows = made(guess("a.onnx", 10.0, 31.0, 0.99), line("b.onnx", 29.0, 0.98))
    (choice,) = choose(rows, budget_ms=30)
    assert choice.row.file == "b.onnx"


def test_each_board_has_its_own_answer_and_one_without_times_has_none():
    merged = merge([results(SLOW, device="A"), results(line("x.onnx", None, source="estimated"), device="B")])
    found = choose(merged.rows, budget_ms=50)
    assert [(choice.device, choice.fits, choice.row and choice.row.file) for choice in found] == [
        ("A", True, "slow.onnx"),
        ("B", False, None),
    ]
    assert found[1].to_json()["path"] is None


def test_a_file_of_unknown_accuracy_does_not_meet_a_least_one():
    (choice,) = choose(made(line("a.onnx", 5.0)), min_accuracy=0.5)
    assert (choice.row, choice.fits) == (None, False)


@pytest.mark.parametrize(("options", "message"), [({"budget_ms": 0}, "above 0"), ({"min_accuracy": 97}, "0 to 1")])
def test_demands_out_of_range_are_refused(options: dict[str, float], message: str):
    with pytest.raises(UsageError, match=message):
        choose(made(SLOW), **options)


@pytest.mark.parametrize("name", sorted({**FIGURES, **RATIOS}))
@pytest.mark.parametrize("sign", [">", ">=", "<", "<="])
def test_every_figure_and_sign_can_be_limited(name: str, sign: str):
    limit = parse_limit(f" {name} {sign}  0.5 ")
    assert (limit.figure, limit.sign, limit.bound) == (name, sign, 0.5)


@pytest.mark.parametrize(
    "text",
    ["", "p90", "p90>", "p90>x", "p90==3", "p90>3 or p50>2", "__import__('os')>1", "p90>nan", "p90>1e9", "30<p90"],
)
def test_anything_else_is_refused(text: str):
    with pytest.raises(UsageError, match="--fail-if"):
        parse_limit(text)


def test_an_unknown_figure_shows_those_there_are():
    with pytest.raises(UsageError, match=r"'p95'; there are p50, p90"):
        parse_limit("p95>3")


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("p50>20", ["slow.onnx"]),
        ("p50>=20", ["slow.onnx", "quick.onnx"]),
        ("p50<5", []),
        ("p50<=5", ["poor.onnx"]),
        ("accuracy<0.95", ["poor.onnx"]),
        ("fps<40", ["slow.onnx"]),
        ("size>0.5", ["slow.onnx", "quick.onnx", "poor.onnx"]),
    ],
)
def test_the_rows_that_break_a_limit_are_named(text: str, broken: list[str]):
    lines = breaches(made(SLOW, QUICK, POOR), [parse_limit(text)])
    assert [line.partition(" ")[0] for line in lines] == broken
    assert all(text in line for line in lines)


def test_of_an_estimate_the_worse_end_counts():
    rows = made(guess("a.onnx", 10.0, 31.0))
    assert "p50 is 31" in breaches(rows, [parse_limit("p50>30")])[0]
    assert "fps is 32.26" in breaches(rows, [parse_limit("fps<40")])[0]
    assert "p50 is 10" in breaches(rows, [parse_limit("p50<11")])[0]


def test_a_limit_that_tests_nothing_is_an_error():
    with pytest.raises(UsageError, match="no row has p99"):
        breaches(made(SLOW), [parse_limit("p99>30")])
    with pytest.raises(UsageError, match="no row has ratio"):
        breaches(made(SLOW), [parse_limit("ratio>1.1")])


@pytest.mark.parametrize(
    ("now", "then", "verdict"),
    [
        ([11, 13], [9, 10.5], "slower"),
        ([7, 8], [9, 10.5], "faster"),
        ([9.5, 13], [9, 10.5], "within noise"),
        (None, [9, 10.5], "noise not known"),
    ],
)
def test_a_change_counts_where_the_rounds_do_not_overlap(now: list[float] | None, then: list[float], verdict: str):
    (change,) = compare(made(line("a.onnx", 12.0, rounds_ms=now)), made(line("a.onnx", 10.0, rounds_ms=then)))
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(1.2)
    assert change_table([change])[1][0][:5] == ["fp32 ONNX", "onnxruntime", "10.0", "12.0", "1.20"]


def test_the_notes_name_another_engine_version_and_a_busy_machine():
    old = made(line("a.onnx", 10.0, cpu_p50_ms=4.0))
    (change,) = compare(made(line("a.onnx", 12.0, engine_version="2")), old)
    assert change.cpu_ratio == 3.0
    assert "onnxruntime 1 then, 2 now" in change.notes[0]
    assert "cpu ratio" in change.notes[1]


def test_only_the_same_file_engine_threads_and_board_are_compared():
    now = made(SLOW, line("quick.onnx", 10.0, threads=4), line("poor.onnx", 5.0, engine="ncnn"))
    assert [change.row.file for change in compare(now, made(SLOW, QUICK, POOR))] == ["slow.onnx"]
    with pytest.raises(UsageError, match="on Elsewhere"):
        compare(now, made(SLOW, device="Elsewhere"))
    with pytest.raises(UsageError, match="none of its rows"):
        compare(made(guess("a.onnx", 1, 2)), made(guess("a.onnx", 1, 2)))


def test_a_limit_on_the_ratio_needs_and_uses_the_baseline():
    rows, old = made(SLOW, QUICK), made(line("slow.onnx", 20.0), QUICK)
    broken = breaches(rows, [parse_limit("ratio>1.5")], compare(rows, old))
    assert [line.partition(" ")[0] for line in broken] == ["slow.onnx"]
    assert "ratio is 2" in broken[0]


def test_judge_answers_everything_at_once():
    merged = merge([results(SLOW, QUICK)])
    verdict = judge(merged, budget_ms=30, baseline=results(SLOW), limits=[parse_limit("p50>30")])
    assert not verdict.passed
    answer = verdict.to_json()
    assert answer["choices"][0]["path"] == "quick.onnx"
    assert [change["p50"] for change in answer["changes"]] == [1.0]
    assert answer["failed"] == ["slow.onnx on Board, onnxruntime: p50 is 40 (p50>30)"]
    assert judge(merged).passed
    assert judge(merged).to_json() == {}
    assert not judge(merge([results(line("a.onnx", None, source="estimated"))])).passed


def test_a_file_is_not_chosen_for_an_engine_that_does_not_open_it():
    other_engine = guess("a.onnx", 1.0, 2.0, 0.99) | {"engine": "ncnn"}
    (choice,) = choose(made(other_engine, guess("a.onnx", 10.0, 20.0, 0.99)), budget_ms=30)
    assert (choice.row.engine, choice.fits) == ("onnxruntime", True)
    (choice,) = choose(made(other_engine), budget_ms=30)
    assert (choice.row, choice.fits) == (None, False)


@pytest.mark.parametrize(
    ("rounds", "cpu_rounds", "verdict", "broken"),
    [
        ([9.5, 16], [9.5, 16], "within noise", []),
        ([14, 16], [14, 16], "slower", ["ratio", "cpu_ratio"]),
        ([9.5, 16], [14, 16], "slower", ["cpu_ratio"]),
        ([9.5, 16], None, "within noise", ["cpu_ratio"]),
        (None, None, "noise not known", ["ratio", "cpu_ratio"]),
    ],
)
def test_a_ratio_within_the_noise_breaks_no_limit(rounds, cpu_rounds, verdict: str, broken: list[str]):
    then = made(line("a.onnx", 10.0, rounds_ms=[9, 10.5], cpu_rounds_ms=[9, 10.5]))
    now = made(line("a.onnx", 15.0, rounds_ms=rounds, cpu_rounds_ms=cpu_rounds))
    changes = compare(now, then)
    assert changes[0].verdict == verdict
    limits = [parse_limit("ratio>1.2"), parse_limit("cpu_ratio>1.2")]
    lines = breaches(now, limits, changes)
    assert [text.partition(": ")[2].partition(" is ")[0] for text in lines] == broken
