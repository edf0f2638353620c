from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeface.cli import run
from edgeface_runtime.contract import OperatorCost

COST = {"pointwise": OperatorCost(count=50, macs=220_000_000, bytes=28_000_000)}


@pytest.fixture
def model(make_onnx, tmp_path: Path) -> Path:
    return make_onnx(tmp_path / "face.onnx", cost=COST)


def test_devices_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]):
    assert run(["devices"]) == 0
    table = capsys.readouterr().out
    assert run(["devices", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    names = [board["name"] for board in document["devices"]]
    assert len(names) == 5
    assert all(name in table for name in names)
    assert "1024 to 8192" in table
    assert document["devices"][0]["sources"]["soc"].startswith("https://")


def test_an_estimate_cannot_be_read_as_measured(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "bench.json"
    assert run(["bench", str(model), "--device", "rpi-4b", "--output", str(output)]) == 0
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith("face.onnx")]
    assert len(rows) == 2
    assert all("(estimated)" in line and " to " in line for line in rows)
    assert "estimated, not measured" in table
    assert "engine version unknown" in " ".join(table.split())
    document = json.loads(output.read_text())
    assert (document["device"]["name"], document["device"]["source"]) == ("Raspberry Pi 4B", "estimated")
    assert {row["source"] for row in document["rows"]} == {"estimated"}
    assert {row["threads"] for row in document["rows"]} == {4}


def test_json_is_one_document_and_threads_are_heeded(model: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["bench", str(model), "--device", "rpi-5", "--threads", "1", "--json"]) == 0
    ort, ncnn = json.loads(capsys.readouterr().out)["rows"]
    assert (ort["p50_ms"], ort["interval_ms"]) == (None, None)
    assert ort["note"] == "no published float row of onnxruntime with 1 thread on a Raspberry Pi 5"
    assert ncnn["interval_ms"][0] < ncnn["p50_ms"] < ncnn["interval_ms"][1]


def test_no_basis_at_all_is_an_answer_with_exit_code_1(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["bench", str(tiny_onnx), "--device", "rpi"]) == 1
    printed = capsys.readouterr().out
    assert "no basis" in printed
    assert "the contract has no cost table" in " ".join(printed.split())


def test_an_unknown_board_shows_the_nearest_names(model: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["bench", str(model), "--device", "rpi4"]) == 2
    assert "no board is called 'rpi4'; near it: rpi, rpi-4b, rpi-5" in capsys.readouterr().err


def test_photos_are_refused_where_nothing_runs(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["bench", str(model), "--device", "rpi", "--data", str(tmp_path)]) == 2
    assert "--device here" in capsys.readouterr().err


def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert run(["bench", str(tmp_path / "bad.onnx"), "--device", "rpi"]) == 2
    assert "bad.onnx" in capsys.readouterr().err
