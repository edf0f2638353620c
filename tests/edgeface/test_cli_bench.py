from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface.cli import run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three people of seven photos: one colour a person, a little noise."""
    rng = np.random.default_rng(0)
    for person, colour in enumerate([(200, 40, 40), (40, 200, 40), (40, 40, 200)]):
        folder = tmp_path / "photos" / f"person{person}"
        folder.mkdir(parents=True)
        for number in range(7):
            pixels = np.clip(colour + rng.normal(0, 8, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_json_is_exactly_one_document(tiny_onnx: Path, tiny_tflite: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["bench", str(tiny_onnx), str(tiny_tflite), "--calls", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["format"] for row in document["rows"]] == ["onnx", "tflite"]
    assert document["rows"][0]["calls"] == 4
    assert [(ratio["a"], ratio["b"]) for ratio in document["ratios"]] == [(str(tiny_tflite), str(tiny_onnx))]


def test_data_fill_accuracy_and_both_files_are_written(
    tiny_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (photos / "person0" / "broken.jpg").write_bytes(b"no image")
    report, output = tmp_path / "report.html", tmp_path / "bench.json"
    arguments = ["bench", str(tiny_onnx), "--calls", "4", "--data", str(photos), "--report", str(report)]
    assert run([*arguments, "--output", str(output)]) == 0
    row = json.loads(output.read_text())["rows"][0]
    assert row["top1"] == row["auc"] == 1.0
    assert "3 people, 15 photos with names, 6 held out" in " ".join(report.read_text().split())
    captured = capsys.readouterr()
    assert "fp32 ONNX" in captured.out
    assert "100.0" in captured.out
    assert "left out person0/broken.jpg" in captured.err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_one_held_out_photo_a_person_gives_top1_but_no_auc(
    tiny_onnx: Path, photos: Path, capsys: pytest.CaptureFixture[str]
):
    for photo in photos.glob("*/[3-6].png"):
        photo.unlink()
    assert run(["bench", str(tiny_onnx), "--calls", "2", "--data", str(photos), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["top1"], row["auc"]) == (1.0, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "none.onnx: no such file"),
        (["{cut}"], "cut.onnx: not a whole ONNX or TFLite model"),
        (["{good}", "{cut}"], "cut.onnx: not a whole ONNX or TFLite model"),
        (["{good}", "{good}"], "given twice"),
        (["{good}", "--calls", "0"], "calls is 0"),
        (["{good}", "--threads", "0"], "threads is 0"),
        (["{good}", "--report", "none/report.html"], "there is no folder none"),
        (["{good}", "--output", "."], "is a folder"),
        (["{good}", "--data", "nowhere"], "nowhere: no such folder"),
        (["{good}", "--data", "{singles}"], "no held-out photo"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(
    arguments: list[str],
    message: str,
    tiny_onnx: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(tiny_onnx.read_bytes()[:-30])
    singles = tmp_path / "singles"
    for person in photos.iterdir():
        (singles / person.name).mkdir(parents=True)
        (person / "0.png").rename(singles / person.name / "0.png")
    names = {"good": tiny_onnx, "cut": cut, "singles": singles}
    assert run(["bench", *(argument.format(**names) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("edgeface: ")
    assert message in lines[0]
