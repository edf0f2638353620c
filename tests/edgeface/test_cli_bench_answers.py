"""``bench`` with budgets, limits, an earlier run and several boards: exit codes and what is printed."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import pytest

from edgeface.cli import run
from edgeface_devices.changes import FIGURES, RATIOS
from edgeface_runtime.contract import OperatorCost

COST = {"pointwise": OperatorCost(count=50, macs=220_000_000, bytes=28_000_000)}


@pytest.fixture
def model(make_onnx, tmp_path: Path) -> Path:
    return make_onnx(tmp_path / "face.onnx", cost=COST, accuracy={"verification": {"value": 0.98}})


def test_here_and_boards_come_in_one_document_and_page(model: Path, tmp_path: Path, capsys):
    report = tmp_path / "page.html"
    boards = ["--device", "here,rpi-4b,rpi-5", "--calls", "12", "--report", str(report)]
    assert run(["bench", str(model), *boards, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [device["source"] for device in document["devices"]] == ["measured", "estimated", "estimated"]
    assert document["device"] == document["devices"][0]
    assert {row["device"] for row in document["rows"]} == {device["name"] for device in document["devices"]}
    assert {row["verification"]["value"] for row in document["rows"]} == {0.98}
    assert "Raspberry Pi 5" in report.read_text()
    assert run(["bench", str(model), *boards]) == 0
    printed = capsys.readouterr().out
    assert "measured here" in printed
    assert printed.count("estimated") >= 3


def test_a_budget_names_the_file_or_exits_with_1(model: Path, capsys: pytest.CaptureFixture[str]):
    estimate = ["bench", str(model), "--device", "rpi-4b"]
    assert run([*estimate, "--budget-ms", "10000", "--min-accuracy", "0.97"]) == 0
    assert f"Raspberry Pi 4B: take {model}" in capsys.readouterr().out
    assert run([*estimate, "--budget-ms", "0.01"]) == 1
    assert "nothing fits; nearest is" in capsys.readouterr().out
    assert run([*estimate, "--min-accuracy", "0.99", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["choices"][0]["fits"] is False


def test_an_int8_file_is_not_offered_on_an_engine_that_cannot_run_it(make_onnx, tmp_path: Path, capsys):
    file = make_onnx(tmp_path / "face.int8.onnx", cost=COST, precision="int8", recipe="static_wi8_au8")
    run(["bench", str(file), "--device", "rpi-4b,rpi-5,rpi-zero-2w", "--budget-ms", "1000", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert {row["engine"] for row in document["rows"]} == {"onnxruntime"}
    assert {choice["engine"] for choice in document["choices"]} <= {"onnxruntime", None}


def test_the_cards_beside_exported_files_are_passed_over(model: Path, capsys: pytest.CaptureFixture[str]):
    card = model.with_name("face.card.md")
    card.write_text("# face")
    assert run(["bench", str(model), str(card), "--device", "rpi-4b", "--json"]) == 0
    assert {row["path"] for row in json.loads(capsys.readouterr().out)["rows"]} == {str(model)}
    assert run(["bench", str(card), "--device", "rpi-4b"]) == 2
    assert "no model file given" in capsys.readouterr().err


def test_the_whole_way_stands_in_the_document_the_tables_and_the_page(tmp_path: Path, capsys):
    report, files = tmp_path / "page.html", ["mobilefacenet-tiny.tflite", "mobilefacenet.onnx"]
    asked = ["bench", *files, "--photo", "--device", "rpi-5,rpi-4b,rpi-zero2w", "--report", str(report)]
    assert run([*asked, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["device"] for row in rows} == {"Raspberry Pi 5", "Raspberry Pi 4B", "Raspberry Pi Zero 2 W"}
    for way in (way for row in rows for way in row["photo"]):
        assert way["source"] == "estimated"
        assert way["frames_per_second"] is None
        for part in way["parts"].values():
            assert part["interval_ms"] or part["reason"] or not way["faces"]
            assert part["p90_ms"] is part["cpu_p50_ms"] is None
    assert "From a photo to names" in report.read_text()
    assert run(asked) == 0
    printed = capsys.readouterr().out
    assert printed.count("estimated, not measured") == len(rows)


def test_a_budget_over_the_whole_way_names_detector_and_interval(capsys: pytest.CaptureFixture[str]):
    asked = ["bench", "mobilefacenet-tiny.tflite", "--photo", "--calls", "3", "--detector", "yunet", "--min-face", "60"]
    assert run([*asked, "--budget-ms", "100000", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (choice,) = document["choices"]
    assert (choice["fits"], choice["detector"], choice["min_face"], choice["interval"]) == (True, "yunet", 60.0, 1)
    (row,) = document["rows"]
    assert [(way["scene"], way["faces"]) for way in row["photo"]] == [("one face", 1), ("six faces", 6), ("no face", 0)]
    assert all(way["parts"]["whole"]["p50_ms"] > 0 and way["frames_per_second"]["6"] for way in row["photo"])


def test_what_is_shared_says_nothing_of_whose_it_is(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, output = tmp_path / "share.json", tmp_path / "all.json"
    assert run(["bench", str(model), "--calls", "12", "--share", str(file), "--output", str(output), "--json"]) == 0
    shared, row = json.loads(file.read_text()), json.loads(output.read_text())["rows"][0]
    assert shared["rows"][0]["path"] == "face.onnx"
    assert shared["rows"][0]["p50_ms"] == row["p50_ms"]
    assert shared["rows"][0]["costs"]["pointwise"] == 220.0
    assert shared["device"]["source"] == "measured"
    text = file.read_text()
    for told in (str(tmp_path), str(Path.home()), platform.node(), "host", "origin", "serial"):
        assert told not in text


@pytest.mark.parametrize("device", ["rpi-5", "here,rpi-5"])
def test_only_what_was_measured_is_shared(device: str, model: Path, tmp_path: Path, capsys):
    assert run(["bench", str(model), "--device", device, "--share", str(tmp_path / "a.json")]) == 2
    assert "--share is for what one machine measures" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()


def test_a_limit_that_is_met_exits_with_1_and_the_line(model: Path, capsys: pytest.CaptureFixture[str]):
    timed = ["bench", str(model), "--calls", "12", "--fail-if", "p90>100000"]
    assert run(timed) == 0
    assert run([*timed, "--fail-if", "size>0.001"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 1
    assert "size is" in lines[0]


def test_an_earlier_run_is_compared_and_shown_beside(model: Path, tmp_path: Path, capsys):
    old = tmp_path / "old.json"
    assert run(["bench", str(model), "--calls", "12", "-o", str(old)]) == 0
    capsys.readouterr()
    assert run(["bench", str(model), "--calls", "12", "--baseline", str(old), "--add", str(old), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [change["path"] for change in document["changes"]] == [str(model)] * 2
    then, now = json.loads(old.read_text())["rows"][0]["p50_ms"], document["rows"][0]["p50_ms"]
    assert document["changes"][0]["p50"] == pytest.approx(now / then, rel=1e-3)
    assert str(old) in document["rows"][1]["origin"]
    assert run(["bench", str(model), "--calls", "12", "--baseline", str(old)]) == 0
    assert "against the earlier run" in capsys.readouterr().out


def test_the_help_names_every_figure_that_can_be_limited(capsys: pytest.CaptureFixture[str]):
    assert run(["bench", "--help"]) == 0
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert {*FIGURES, *RATIOS} <= words


def test_demands_are_read_before_the_work(tmp_path: Path, capsys):
    """What cannot be a model is not reached."""
    (tmp_path / "a.onnx").write_text("no model")
    for demand, message in (("--budget-ms nan", "above 0"), ("--min-accuracy 7", "from 0 to 1")):
        assert run(["bench", str(tmp_path / "a.onnx"), *demand.split()]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-if", "speed>3"], "no figure is called 'speed'"),
        (["--fail-if", "p90>3;"], "write a figure"),
        (["--device", "rpi-4b", "--fail-if", "p99>3"], "no row has p99"),
        (["--baseline", "none.json"], "none.json: No such file"),
        (["--add", "{model}"], "not JSON"),
        (["--device", "here,rpi-9"], "no board is called 'rpi-9'"),
        (["--device", "rpi-4b", "--budget-ms", "-1"], "above 0"),
        (["--detector", "yunet"], "--detector needs --photo"),
        (["--photo", "--detector", "none"], "no detector 'none'"),
        (["--photo", "--device", "rpi-4b", "--detector", "none"], "no detector 'none'"),
        (["--photo", "--min-face", "3"], "no face below 12 pixels"),
        (["--photo", "--device", "rpi-4b", "--budget-ms", "-1"], "above 0"),
        (["--device", "rpi-4b", "--min-accuracy", "97"], "0 to 1"),
        (["--sustained", "1"], "--sustained needs --host"),
        (["--allow-throttled"], "--allow-throttled needs --host"),
        (["--host-python", "python3.11"], "--host-python needs --host"),
        (["--ssh-option", "Port=2222"], "--ssh-option needs --host"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(arguments: list[str], message: str, model: Path, capsys):
    options = [argument.format(model=model) for argument in arguments]
    assert run(["bench", str(model), "--calls", "2", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
