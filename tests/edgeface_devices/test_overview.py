from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeface_devices.overview import FIGURES, by_board, entries, merge, origins, read_document, table
from edgeface_runtime import UsageError


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


def both() -> dict[str, Any]:
    """A measured and an estimated board, each with the same file."""
    return merge([document(row(top1=0.98)), document(estimated(), device="Pi", source="estimated")])


def test_every_figure_keeps_its_source_and_interval():
    here, board = entries(both())
    assert set(here.figures) == set(board.figures) == set(FIGURES)
    assert (here.source, here.figures["p50"].value, here.figures["p50"].interval) == ("measured", 4.0, None)
    assert (board.source, board.figures["p50"].interval) == ("estimated", (15.0, 60.0))
    assert board.figures["fps"].interval == pytest.approx((1000 / 60, 1000 / 15))
    assert here.figures["cold"].value == 123.0
    assert here.figures["p99"] is board.figures["cold"] is board.figures["p90"] is None
    assert board.figures["size"].source == "measured"


def test_accuracy_belongs_to_the_file_and_its_boards_share_it():
    here, board = entries(both())
    assert (board.figures["accuracy"].value, board.accuracy_kind) == (0.98, "top-1")
    assert here.figures["accuracy"] == board.figures["accuracy"]


def test_accuracy_comes_from_the_contract_where_none_was_measured(make_onnx, tmp_path: Path):
    stated = {"verification": {"value": 0.97, "low": 0.96, "high": 0.98, "pairs": 600}}
    path = str(make_onnx(tmp_path / "a.onnx", accuracy=stated))
    without = str(make_onnx(tmp_path / "b.onnx"))
    found, none = entries(merge([document(row(path), row(without))]))
    assert (found.figures["accuracy"].value, found.figures["accuracy"].interval) == (0.97, (0.96, 0.98))
    assert found.accuracy_kind == "pairs"
    assert none.figures["accuracy"] is none.accuracy_kind is None


def test_the_time_to_plan_with_is_the_careful_one():
    measured, few, board, unknown = entries(
        merge([document(row("a.onnx"), row("b.onnx", p90_ms=None), estimated("c.onnx"), estimated("d.onnx", ms=None))])
    )
    assert [entry.careful_ms for entry in (measured, few, board, unknown)] == [5.0, 4.0, 60.0, None]


def test_origins_say_where_each_time_comes_from():
    earlier = {"pi.json": document(row("b.onnx", engine="onnxruntime"), device="Pi 4")}
    current = [document(row()), document(estimated(), estimated("c.onnx", ms=None), device="Pi", source="estimated")]
    assert origins(entries(merge(current, earlier))) == [
        ("Here, litert, int8", "measured here"),
        ("Pi, litert, int8", "estimated, 90 % interval: 22 published nets"),
        ("Pi, litert, int8", "no basis: 22 published nets"),
        ("Pi 4, onnxruntime, int8", "measured on Pi 4 (pi.json)"),
    ]


def test_a_machine_over_ssh_is_not_here():
    there = document(row(), device="Pi 4")
    there["device"]["host"] = "pi@board"
    assert entries(merge([there]))[0].origin == "measured on Pi 4 (pi@board)"


def test_a_merged_document_can_be_merged_again(tmp_path: Path):
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(both()))
    again = merge([document(row("b.onnx"), device="Other")], {"kept.json": read_document(path)})
    assert [device["name"] for device in again["devices"]] == ["Other", "Here", "Pi"]
    assert list(by_board(entries(again))) == ["Other", "Here", "Pi"]
    assert [entry.origin for entry in entries(again)][1] == "measured on Here (kept.json)"


def test_a_terminal_table_names_the_source_and_leaves_empty_columns_out():
    boards = by_board(entries(both()))
    columns, cells = table(boards["Pi"])
    assert columns == ["file", "engine", "ms", "fps", "size", "accuracy"]
    assert cells == [["int8 TFLite", "litert ×4", "15.0 to 60.0 estimated", "16.7 to 66.7", "1.20", "98.00 top-1"]]
    assert table(boards["Here"])[1][0][:4] == ["int8 TFLite", "litert", "4.00", "5.00"]


def test_files_of_one_label_are_told_apart_by_name():
    labels = [entry.label for entry in entries(merge([document(row("a.tflite"), row("b.tflite"))]))]
    assert labels == ["a.tflite", "b.tflite"]


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
    ],
)
def test_another_file_in_place_of_a_result_is_named(text: str, message: str, tmp_path: Path):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"old\.json.*{message}"):
        read_document(path)


def test_an_absent_result_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.json: No such file"):
        read_document(tmp_path / "none.json")
