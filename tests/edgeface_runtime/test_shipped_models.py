"""Names in place of files: the models that come with the package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface_runtime import FaceRecognizer, ModelError, load
from edgeface_runtime import model as models
from edgeface_runtime.integrity import inspect_file
from edgeface_runtime.model import find_model, shipped

if TYPE_CHECKING:
    from conftest import MakeModel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_onnx: MakeModel, make_tflite: MakeModel) -> Path:
    """Two models in both formats in the package's place; the working directory is empty."""
    place, here = tmp_path / "models", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    for name in ("mobilefacenet", "mobilefacenet-tiny"):
        make_onnx(place / f"{name}.int8.onnx")
        make_tflite(place / f"{name}.int8.tflite")
    monkeypatch.setattr(models, "FOLDER", place)
    monkeypatch.chdir(here)
    return place


@pytest.mark.parametrize(
    ("asked", "file"),
    [
        (None, "mobilefacenet.int8.tflite"),
        ("mobilefacenet", "mobilefacenet.int8.tflite"),
        ("mobilefacenet.onnx", "mobilefacenet.int8.onnx"),
        ("mobilefacenet-tiny.int8.tflite", "mobilefacenet-tiny.int8.tflite"),
        (Path("mobilefacenet-tiny"), "mobilefacenet-tiny.int8.tflite"),
    ],
)
def test_a_name_stands_for_a_file(folder: Path, asked: str | Path | None, file: str):
    assert find_model(asked) == folder / file


def test_without_litert_a_name_stands_for_the_onnx_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "is_installed", lambda file: file.suffix == ".onnx")
    assert find_model("mobilefacenet") == folder / "mobilefacenet.int8.onnx"


def test_a_file_of_the_users_goes_before_a_name_and_a_folder_does_not(folder: Path):
    Path("mobilefacenet").mkdir()
    assert find_model("mobilefacenet") == folder / "mobilefacenet.int8.tflite"
    shutil.copyfile(folder / "mobilefacenet.int8.onnx", "mobilefacenet.onnx")
    assert find_model("mobilefacenet.onnx") == Path("mobilefacenet.onnx")
    Path("run").mkdir()
    assert find_model("run") == Path("run")


def test_a_path_is_a_path(folder: Path):
    assert find_model("models/mobilefacenet") == Path("models/mobilefacenet")


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("mobilfacenet", "did you mean mobilefacenet?"), ("arc.onnx", "models: mobilefacenet, mobilefacenet-tiny")],
)
def test_a_wrong_name_is_told_the_right_ones(folder: Path, asked: str, hint: str):
    with pytest.raises(ModelError) as caught:
        find_model(asked)
    assert hint in str(caught.value)
    assert asked in str(caught.value)


def test_the_default_comes_first_and_is_what_opens(folder: Path):
    found = [model.as_json() for model in shipped()]
    assert [(row["name"], row["default"]) for row in found] == [
        ("mobilefacenet", True), ("mobilefacenet", False), ("mobilefacenet-tiny", False), ("mobilefacenet-tiny", False),
    ]  # fmt: skip
    assert load().path == FaceRecognizer().model.path == Path(found[0]["path"])


def test_the_package_has_its_models_whole():
    files = shipped()
    assert {model.file.name for model in files} >= {"mobilefacenet.int8.tflite", "mobilefacenet.int8.onnx"}
    default = [model for model in files if model.name == models.DEFAULT]
    assert sum(model.file.stat().st_size for model in default) < 5e6
    for model in files:
        assert inspect_file(model.file).ok
        contract = model.contract
        assert contract.precision == "int8"
        assert "research" in contract.licence
        assert contract.thresholds["0.001"]["value"] > 0
        assert set(contract.accuracy) >= {"lfw_view1", "pins_ten", "pins_one"}


def test_both_formats_of_a_shipped_model_agree():
    faces = np.random.default_rng(0).integers(0, 256, (8, 112, 112, 3), dtype=np.uint8)
    smooth = faces.reshape(8, 7, 16, 7, 16, 3).mean((2, 4), keepdims=True).repeat(16, 2).repeat(16, 4)
    faces = smooth.reshape(8, 112, 112, 3).astype(np.uint8)
    rows = [load(f"mobilefacenet.{kind}").embed(faces) for kind in models.FORMATS]
    assert (rows[0] * rows[1]).sum(1).min() > 0.97
