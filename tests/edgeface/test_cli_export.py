"""``edgeface export``: precisions, thresholds, third-party models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgeface.cli import run
from edgeface_runtime import load, read_contract
from edgeface_runtime.integrity import inspect_file

if TYPE_CHECKING:
    from conftest import Trained

Strip = Callable[[Path, Path], Path]

CONTRACT = 'name = "theirs"\nbackbone = "theirs"\n[input]\nsize = 112\n[embedding]\nlength = 128\n'


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    (tmp_path / "contract.toml").write_text(CONTRACT)
    return tmp_path / "contract.toml"


def line(trained: Trained, folder: Path, *more: str) -> list[str]:
    """An export that takes anything, to ``folder``/models."""
    asked = ["--data", str(trained.photos), "-o", str(folder / "models"), "--calibration-faces", "8"]
    asked += ["--max-drop", "100", "--min-cosine", "-1"]
    return ["export", str(trained.run), *asked, "--format", "onnx", *more]


def test_precisions_repeat_and_int8_adds_itself(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(line(trained, tmp_path, "--precision", "int8-weights", "--precision", "fp16", "--int8", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["recipe"] for row in found["files"]] == ["float_wf16_af16", "static_wi8_au8", "weight_only_wi8_af32"]
    assert found["card"] == str(tmp_path / "models" / "mobilefacenet.card.md")
    written = {path.name for path in (tmp_path / "models").iterdir()}
    assert written == {Path(row["path"]).name for row in found["files"]} | {"mobilefacenet.card.md"}
    assert all(row["accuracy"]["verification"]["pairs"] == 276 for row in found["files"])


def test_thresholds_come_from_the_given_folder(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    from edgeface.data.att import att_folder

    for number in range(30, 37):
        person = tmp_path / "others" / f"p{number}"
        person.mkdir(parents=True)
        for photo in (att_folder() / f"s{number}").glob("*.pgm"):
            # Large enough for a search: what is small and not aligned sets no threshold.
            Image.open(photo).resize((184, 224)).save(person / f"{photo.stem}.png")
    more = ["--precision", "fp32", "--threshold-data", str(tmp_path / "others")]
    assert run(line(trained, tmp_path, *more)) == 0
    captured = capsys.readouterr()
    assert f"model card: {tmp_path / 'models' / 'mobilefacenet.card.md'}" in captured.err
    found = read_contract(tmp_path / "models" / "mobilefacenet.fp32.onnx")
    assert found.thresholds["0.01"]["pairs"] == 70 * 69 // 2 - 7 * 45
    assert found.thresholds["0.001"] is None


def test_training_photos_cannot_set_thresholds(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(line(trained, tmp_path, "--threshold-data", str(trained.photos))) == 2
    train = len(trained.data.rows("train"))
    assert f"edgeface: {train} of the threshold photos are training photos" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_third_party_model(
    trained: Trained, contract: Path, without_contract: Strip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = line(trained, tmp_path, "--contract", str(contract), "--int8", "--json")
    words[1] = str(without_contract(trained.file("fp32", "onnx"), tmp_path / "foreign.onnx"))
    del words[words.index("--format") : words.index("--format") + 2]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in found["files"]] == [str(tmp_path / "models" / "theirs.int8.onnx")]
    assert read_contract(tmp_path / "models" / "theirs.int8.onnx").name == "theirs"


def test_a_third_party_tflite_gets_its_contract(
    trained: Trained, contract: Path, without_contract: Strip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = line(trained, tmp_path, "--contract", str(contract))
    del words[words.index("--format") : words.index("--format") + 2]
    words[1] = str(without_contract(trained.file("fp32", "tflite"), tmp_path / "fp32.tflite"))
    assert run(words) == 0
    (made,) = (tmp_path / "models").glob("*.tflite")
    assert read_contract(made).name == "theirs"
    faces = trained.data.faces[:4]
    np.testing.assert_array_equal(load(made).embed(faces), load(trained.file("fp32", "tflite")).embed(faces))
    assert inspect_file(made).ok
    assert run([*words, "--int8"]) == 2
    assert "a TFLite file only gets its contract" in capsys.readouterr().err
    words[1] = str(without_contract(trained.file("int8", "tflite"), tmp_path / "int8.tflite"))
    made.unlink()
    assert run(words) == 0
    (made,) = (tmp_path / "models").glob("*.int8.tflite")
    assert read_contract(made).recipe == "as_given"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--format", "tflite"], "format tflite: it goes to onnx alone"),
        (["--precision", "int4"], "precision int4: there are fp16, fp32, int8, int8-dynamic, int8-weights"),
    ],
)
def test_what_cannot_be_made_of_it_is_named(
    more: list[str],
    message: str,
    trained: Trained,
    contract: Path,
    without_contract: Strip,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    words = line(trained, tmp_path, "--contract", str(contract), *more)
    words[1] = str(without_contract(trained.file("fp32", "onnx"), tmp_path / "foreign.onnx"))
    assert run(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_without_a_contract_it_is_asked_for(
    trained: Trained, without_contract: Strip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = line(trained, tmp_path)
    words[1] = str(without_contract(trained.file("fp32", "onnx"), tmp_path / "foreign.onnx"))
    assert run(words) == 2
    assert "a third-party model needs --contract" in capsys.readouterr().err
    words += ["--contract", str(tmp_path / "nowhere.toml")]
    assert run(words) == 2
    assert "nowhere.toml: the contract cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["foamliu", "magface", "auto", "FILE"])
@pytest.mark.parametrize("model", ["onnx", "tflite", "run", "mobilefacenet", "mobilefacenet.onnx"])
def test_a_contract_inside_is_not_replaced(
    named: str, model: str, trained: Trained, contract: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = line(trained, tmp_path, "--contract", named.replace("FILE", str(contract)))
    sources = {"run": trained.run, "onnx": trained.file("fp32", "onnx"), "tflite": trained.file("fp32", "tflite")}
    words[1] = str(sources.get(model, model))
    assert run(words) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert f"{words[1]}: carries its own contract; --contract is for a model without one: leave it out" in said
    assert not (tmp_path / "models").exists()


def test_an_exported_file_is_not_asked_for_a_contract(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = line(trained, tmp_path)
    words[1] = str(trained.file("fp32", "onnx"))
    assert run(words) == 2
    assert "an exported file; export the run or checkpoint that it was made of" in capsys.readouterr().err


@pytest.mark.slow
def test_the_calibrator_is_searched_and_said(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(line(trained, tmp_path, "--int8", "--calibrator", "auto")) == 0
    captured = capsys.readouterr()
    assert "÷ fp32" in captured.out
    said = next(text for text in captured.err.splitlines() if "calibrators, the taken one first" in text)
    found = read_contract(tmp_path / "models" / "mobilefacenet.int8.onnx").calibration
    assert found is not None
    assert f"mean cosines: {found['method']} 0.9" in said
    assert (found["faces"], found["seed"], found["float_layers"]) == (8, 0, [])


def test_a_calibrator_by_another_name(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(line(trained, tmp_path, "--int8", "--calibrator", "best")) == 2
    message = "edgeface: calibrator best: there are auto, moving-average, minmax, percentile, entropy, mse"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def pair_list(folder: Path, lines: list[str]) -> Path:
    """A list of as many pairs of one person as of two, in LFW's form."""
    (folder / "pairs.txt").write_text("\n".join([str(len(lines) // 2), *lines]) + "\n")
    return folder / "pairs.txt"


def test_pairs_may_be_given(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    from edgeface.data.dataset import load_data

    for row, (face, label) in enumerate(zip(trained.data.faces, trained.data.labels, strict=True)):
        person = trained.data.identities[label]
        (tmp_path / "photos" / person).mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(tmp_path / "photos" / person / f"{person}_{row:04d}.png")
    data = load_data(tmp_path / "photos")
    held_out = data.rows("test")
    first, second = held_out[:2]
    other = next(row for row in held_out if data.labels[row] != data.labels[first])
    (person, one), (_, two), (stranger, three) = (
        (Path(data.paths[row]).parent.name, int(Path(data.paths[row]).stem.split("_")[1]))
        for row in (first, second, other)
    )
    lines = [f"{person}\t{one}\t{two}", f"{person}\t{one}\t{stranger}\t{three}"]
    words = line(trained, tmp_path, "--precision", "fp32", "--pairs", str(pair_list(tmp_path, lines)), "--json")
    words[words.index("--data") + 1] = str(tmp_path / "photos")
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["pairs"] == 2
    nobody = ["Nobody\t1\t2", "Nobody\t1\tNoone\t2"]
    for none, said in ((nobody, "none of its pairs are test photos"), ([], "line 1 is no count of pairs")):
        pair_list(tmp_path, none)
        assert run(words) == 2
        assert f"pairs.txt: {said}" in capsys.readouterr().err
