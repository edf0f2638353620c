from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeface.cli import run
from edgeface.report.operators import draw_bars, write_profile
from edgeface_devices.bench.operators import Operator, OperatorProfile


def test_table_json_and_page(tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report, output = tmp_path / "page.html", tmp_path / "profile.json"
    arguments = ["profile", str(tiny_onnx), "--calls", "3", "--report", str(report), "-o", str(output)]
    assert run(arguments) == 0
    assert "ten slowest" in capsys.readouterr().out
    document = json.loads(output.read_text())
    assert document["source"] == "measured"
    assert sum(kind["operators"] for kind in document["kinds"]) == len(document["operators"])
    assert report.read_text().count("<svg") == 2
    assert run(["profile", str(tiny_onnx), "--calls", "3", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(document)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "none.onnx"),
        (["{model}", "--calls", "0"], "calls is 0"),
        (["{model}", "--threads", "0"], "threads is 0"),
        (["{model}", "--report", "none/page.html"], "there is no folder none"),
    ],
)
def test_what_the_user_can_mend_is_one_line(arguments: list[str], message: str, tiny_onnx: Path, capsys):
    assert run(["profile", *(argument.format(model=tiny_onnx) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert message in captured.err


def test_bars_are_as_long_as_their_times_and_say_their_shares():
    axes = draw_bars([("Conv (2)", 6.0), ("Add $x$ (1)", 2.0)], 8.0).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [6.0, 2.0]
    assert [text.get_text() for text in axes.texts] == ["75.0 %", "25.0 %"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_names_of_operators_are_escaped(tmp_path: Path):
    operators = (Operator("<script>alert(1)</script>", "Conv", 1.0),)
    about = {"engine": "e", "engine_version": "1", "threads": 1, "calls": 1, "precision": "fp32", "cpu_ms": 1.0}
    write_profile(tmp_path / "page.html", OperatorProfile(path=Path("net.onnx"), operators=operators, **about))
    assert "<script>" not in (tmp_path / "page.html").read_text()
