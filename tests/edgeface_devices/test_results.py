from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface_devices.boards.health import BoardState, Conditions, Repetition
from edgeface_devices.changes import FIGURES
from edgeface_devices.figures import Figure
from edgeface_devices.measurement import Measurement, by_board, compare_embeddings, names
from edgeface_devices.results import Results, board_table, merge, origins, read_results, share_accuracy
from edgeface_runtime import UsageError

DURATIONS = ("import_ms", "load_ms", "first_ms", "p50_ms", "p90_ms", "p99_ms", "cpu_p50_ms")


def row(path: str = "net.int8.tflite", **changes: Any) -> dict[str, Any]:
    """A row of ``bench --json`` with numbers that are easy to add up."""
    numbers = {"import_ms": 100.0, "load_ms": 20.0, "first_ms": 3.0, "p50_ms": 4.0, "p90_ms": 5.0, "p99_ms": None}
    rest = {"format": path.rpartition(".")[2], "engine": "litert", "engine_version": "2", "precision": "int8"}
    return {
        "path": path,
        "threads": 1,
        "cpu_p50_ms": 4.0,
        "interval_ms": None,
        "calls": 50,
        "peak_mb": 50.0,
        "size_bytes": 1_200_000,
        "top1": None,
        "auc": None,
        "source": "measured",
        **rest,
        **numbers,
        **changes,
    }


def estimated(path: str = "net.int8.tflite", ms: float | None = 30.0, **changes: Any) -> dict[str, Any]:
    absent = dict.fromkeys(["import_ms", "load_ms", "first_ms", "p90_ms", "cpu_p50_ms", "peak_mb", "engine_version"])
    interval = [ms / 2, ms * 2] if ms else None
    times = {"p50_ms": ms, "interval_ms": interval, "source": "estimated", "note": "22 published nets", "threads": 4}
    return row(path, **{**absent, **times, **changes})


def document(*rows: dict[str, Any], device: str = "Here", source: str = "measured") -> dict[str, Any]:
    about = {"name": device, "source": source, "cores": 4, "system": "Linux"}
    return {"schema": 1, "device": about, "rows": list(rows), "ratios": []}


def results(*rows: dict[str, Any], device: str = "Here", source: str = "measured") -> Results:
    return Results.from_json(document(*rows, device=device, source=source))


def both() -> Results:
    """A measured and an estimated board, each with the same file."""
    return merge([results(row(top1=0.98)), results(estimated(), device="Pi", source="estimated")])


def figures(measured: Measurement) -> dict[str, Figure | None]:
    return {name: of(measured) for name, (_, of) in FIGURES.items()}


def test_every_figure_keeps_its_source_and_interval():
    here, board = both().rows
    assert (here.source, figures(here)["p50"].value, figures(here)["p50"].interval) == ("measured", 4.0, None)
    assert (board.source, figures(board)["p50"].interval) == ("estimated", (15.0, 60.0))
    assert figures(board)["fps"].interval == pytest.approx((1000 / 60, 1000 / 15))
    assert figures(here)["cold"].value == 123.0
    assert figures(here)["p99"] is figures(board)["cold"] is figures(board)["p90"] is None
    assert figures(board)["size"].source == "measured"


def test_accuracy_belongs_to_the_file_and_its_boards_share_it():
    here, board = share_accuracy(both().rows)
    assert (figures(board)["accuracy"].value, board.accuracy_kind) == (0.98, "top-1")
    assert figures(here)["accuracy"] == figures(board)["accuracy"]


def test_accuracy_comes_from_the_contract_where_none_was_measured(make_onnx, tmp_path: Path):
    stated = {"verification": {"value": 0.97, "low": 0.96, "high": 0.98, "pairs": 600}}
    path = str(make_onnx(tmp_path / "a.onnx", accuracy=stated))
    without = str(make_onnx(tmp_path / "b.onnx"))
    found, none = merge([results(row(path), row(without))]).rows
    assert (figures(found)["accuracy"].value, figures(found)["accuracy"].interval) == (0.97, (0.96, 0.98))
    assert found.accuracy_kind == "pairs"
    assert figures(none)["accuracy"] is none.accuracy_kind is None


def test_the_time_to_plan_with_is_the_careful_one():
    rows = results(row("a.onnx"), row("b.onnx", p90_ms=None), estimated("c.onnx"), estimated("d.onnx", ms=None)).rows
    assert [row.careful_ms for row in rows] == [5.0, 4.0, 60.0, None]


def test_origins_say_where_each_time_comes_from():
    earlier = {"pi.json": results(row("b.onnx", engine="onnxruntime"), device="Pi 4")}
    current = [results(row()), results(estimated(), estimated("c.onnx", ms=None), device="Pi", source="estimated")]
    assert origins(merge(current, earlier).rows) == [
        ("Here, litert, int8", "measured here"),
        ("Pi, litert, int8", "estimated, 90 % interval: 22 published nets"),
        ("Pi, litert, int8", "no basis: 22 published nets"),
        ("Pi 4, onnxruntime, int8", "measured on Pi 4 (pi.json)"),
    ]


def test_a_machine_over_ssh_is_not_here():
    there = results(row(), device="Pi 4")
    there = replace(there, device=replace(there.device, host="pi@board"))
    assert merge([there]).rows[0].origin == "measured on Pi 4 (pi@board)"


def test_a_merged_document_can_be_merged_again(tmp_path: Path):
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(both().to_json()))
    again = merge([results(row("b.onnx"), device="Other")], {"kept.json": read_results(path)})
    assert [device.name for device in again.devices] == ["Other", "Here", "Pi"]
    assert list(by_board(again.rows)) == ["Other", "Here", "Pi"]
    assert [row.origin for row in again.rows][1] == "measured on Here (kept.json)"


def test_a_terminal_table_names_the_source_and_leaves_empty_columns_out():
    rows = share_accuracy(both().rows)
    boards, named = by_board(rows), names(rows)
    columns, cells = board_table(boards["Pi"], named)
    assert columns == ["file", "engine", "ms", "fps", "size", "accuracy"]
    assert cells == [["int8 TFLite", "litert ×4", "15.0 to 60.0 estimated", "16.7 to 66.7", "1.20", "98.00 top-1"]]
    assert board_table(boards["Here"], named)[1][0][:4] == ["int8 TFLite", "litert", "4.00", "5.00"]


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        (["a/x.tflite", "b/y.onnx"], ["int8 TFLite", "int8 ONNX"]),
        (["a/x.tflite", "b/y.tflite"], ["x.tflite", "y.tflite"]),
        (["a/x.tflite", "b/x.tflite"], ["a/x.tflite", "b/x.tflite"]),
        (["a/x.tflite", "a/x.tflite"], ["int8 TFLite"]),  # one file on two boards
    ],
)
def test_a_file_is_called_by_the_shortest_name_that_tells_it_from_the_others(files: list[str], shown: list[str]):
    assert list(names(results(*map(row, files)).rows).values()) == shown


sources = st.sampled_from(["measured", "emulated", "estimated"])
names_of_files = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True)


@given(st.data())
def test_a_row_of_any_source_comes_back_from_json_as_it_was(data: st.DataObject):
    """All four kinds of rows are one type: what was written is read again, to the rounding of the first writing."""
    source = data.draw(sources)
    lengths = st.floats(0.001, 1e5).map(lambda ms: Figure(ms, source, (ms / 2, ms * 2)))
    plain = st.floats(0.001, 1e5).map(lambda ms: Figure(ms, source, (ms, ms) if source == "estimated" else None))
    shares, counts = st.none() | st.floats(0, 1), st.integers(1, 10**9)
    made = Measurement(
        path=Path(data.draw(names_of_files)),
        format=data.draw(st.sampled_from(["onnx", "tflite", "ncnn", "ensemble"])),
        engine=data.draw(st.sampled_from(["onnxruntime", "litert", "ncnn", "ensemble"])),
        engine_version=data.draw(st.none() | st.just("1.2")),
        precision=data.draw(st.sampled_from(["fp32", "int8"])),
        recipe=data.draw(st.none() | st.just("static_wi8_ai8")),
        threads=data.draw(st.integers(1, 8)),
        p50_ms=data.draw(st.none() | (lengths if source == "estimated" else plain)),
        first_ms=None if source == "estimated" else data.draw(st.none() | plain),
        rounds_ms=data.draw(st.none() | st.tuples(st.floats(0, 9), st.floats(9, 99))),
        calls=data.draw(st.none() | counts),
        peak_mb=data.draw(st.none() | st.floats(1, 1e4)),
        size_bytes=data.draw(counts),
        top1=data.draw(shares),
        auc=data.draw(shares),
        source=source,
        note=data.draw(st.none() | st.text(max_size=9)),
        instructions=data.draw(
            st.none() | st.fixed_dictionaries(dict.fromkeys(("total", "simd", "memory", "branch", "dot"), counts))
        ),
        verification=data.draw(st.none() | st.fixed_dictionaries({"value": st.floats(0, 1)})),
    )
    if data.draw(st.booleans()):
        ms = Figure(5.0, "estimated", (2.0, 9.0))
        estimate = replace(made, source="estimated", threads=4, note="why", **dict.fromkeys(DURATIONS) | {"p50_ms": ms})
        here = np.eye(2, dtype=np.float32)
        agreement = compare_embeddings(here, here, engine_version_here="1")
        made = replace(made, estimate=estimate, agreement=agreement)
    written = json.loads(json.dumps(made.to_json(), allow_nan=False))
    back = Measurement.from_json(written | {"a key of a later version": 1})
    assert back.to_json() == made.to_json()
    assert (back.source, back.path, back.agreement) == (made.source, made.path, made.agreement)
    assert (back.p50_ms is None) == (made.p50_ms is None)
    assert (back.estimate is None) == (made.estimate is None)
    if back.estimate:
        assert back.estimate.p50_ms == made.estimate.p50_ms


def test_what_a_board_says_of_itself_is_kept_in_a_merged_document():
    calm = BoardState(governor="ondemand", mhz=600, max_mhz=1800, celsius=45.5, throttled=0x50000)
    state = Conditions(before=calm, after=replace(calm, throttled=None), throttled=("throttled",))
    repetitions = (Repetition(minutes=0.5, medians_ms=(4.0,), state=calm),)
    there = replace(results(row()), state=state, sustained=repetitions)
    merged = merge([there])
    assert (merged.state, merged.sustained) == (state, repetitions)
    back = Results.from_json(json.loads(json.dumps(merged.to_json())))
    assert (back.state, back.sustained, back.devices) == (state, repetitions, merged.devices)
    assert merged.to_json()["state"]["before"]["throttled"] == "0x50000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "not JSON"),
        ("[]", "not a result of bench"),
        ('{"schema": 2, "device": {"name": "x"}, "rows": []}', "schema"),
        (json.dumps(document(row()) | {"device": {}}), "name"),
        (json.dumps(document({"path": "x"})), "not a result of bench"),
        (json.dumps(document(row(source="guessed"))), "guessed"),
        (json.dumps(document(estimated(interval_ms=None))), "interval"),
        (json.dumps(document(row(p50_ms="fast"))), "fast"),
        (json.dumps(document(row(format="pb"))), "pb"),
        (json.dumps(document(row(size_bytes="big"))), "big"),
        (json.dumps(document(row(verification={}))), "value"),
        (json.dumps(document(row(agreement={"same": True}))), "faces"),
    ],
)
def test_another_file_in_place_of_a_result_is_named(text: str, message: str, tmp_path: Path):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"old\.json.*{message}"):
        read_results(path)


def test_an_absent_result_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.json: No such file"):
        read_results(tmp_path / "none.json")
