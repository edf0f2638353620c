"""A gallery remembers the detector that its photos were enrolled with."""

import sqlite3
import warnings
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import EdgefaceWarning, FaceRecognizer, Gallery, import_gallery, load_detector
from edgeface_runtime.detection.blazeface import BlazeFace
from edgeface_runtime.detection.mtcnn import Mtcnn
from edgeface_runtime.detection.yunet_onet import YunetOnet
from edgeface_runtime.testing import fake_recognizer


def enrolled(path: Path, model: Path, photo: np.ndarray, detector: str | None, *, is_old: bool = False) -> Path:
    with Gallery.open(path, FaceRecognizer(model, detector)) as gallery:
        gallery.enroll("Ada", photo, force=True)
    if is_old:
        with sqlite3.connect(path) as db:
            db.execute("DELETE FROM meta WHERE key = 'detector'")
    return path


@pytest.mark.parametrize(
    ("detector", "is_old", "name", "kind"),
    [
        (None, False, "yunet", YunetOnet),
        ("blazeface", False, "blazeface", BlazeFace),
        ("fast", False, "blazeface", BlazeFace),
        ("mtcnn", False, "mtcnn", Mtcnn),
        ("blazeface", True, "blazeface", BlazeFace),
    ],
)
def test_who_names_no_detector_finds_faces_as_they_were_enrolled(
    tmp_path: Path, att: list[np.ndarray], tiny_onnx: Path, detector: str | None, is_old: bool, name: str, kind: type
) -> None:
    path = enrolled(tmp_path / "g", tiny_onnx, att[0], detector, is_old=is_old)
    recognizer = FaceRecognizer(tiny_onnx)
    with Gallery.open(path, recognizer) as gallery:
        assert gallery.detector == name
        assert isinstance(recognizer.detector, kind)
        ((found,),) = gallery.search(recognizer.embed(att[0], mirror=True))
        assert (found.name, found.score) == ("Ada", pytest.approx(1, abs=1e-4))


def test_the_gallery_s_detector_has_the_settings_that_were_asked_for(tmp_path: Path, att: list[np.ndarray]) -> None:
    path = enrolled(tmp_path / "g", Path("mobilefacenet.tflite"), att[0], "blazeface")
    recognizer = FaceRecognizer("mobilefacenet.tflite", min_face=25)
    with Gallery.open(path, recognizer):
        assert isinstance(recognizer.detector, BlazeFace)
        assert (recognizer.detector.min_face, recognizer.detector.onet.name) == (25, "litert")


@pytest.mark.parametrize(("is_old", "was"), [(False, "with"), (True, "probably with")])
def test_another_detector_by_hand_is_used_and_said(
    tmp_path: Path, att: list[np.ndarray], tiny_onnx: Path, is_old: bool, was: str
) -> None:
    path = enrolled(tmp_path / "g", tiny_onnx, att[0], "blazeface", is_old=is_old)
    for detector in ("yunet", load_detector("yunet", engine="onnxruntime")):
        recognizer = FaceRecognizer(tiny_onnx, detector)
        said = f"g: enrolled {was} the detector blazeface: the scores of faces that yunet finds are .*; leave out"
        with pytest.warns(EdgefaceWarning, match=said):
            Gallery.open(path, recognizer).close()
        assert isinstance(recognizer.detector, YunetOnet)


def test_the_same_detector_by_hand_is_no_news(tmp_path: Path, att: list[np.ndarray], tiny_onnx: Path) -> None:
    for is_old in (False, True):
        path = enrolled(tmp_path / f"g{is_old}", tiny_onnx, att[0], "blazeface", is_old=is_old)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Gallery.open(path, FaceRecognizer(tiny_onnx, "blazeface")).close()
            Gallery.open(path).close()


def test_an_app_s_own_detector_may_go_on_with_an_old_gallery(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fake = fake_recognizer()
    Gallery.open(tmp_path / "g", fake).close()
    with sqlite3.connect(tmp_path / "g") as db:
        db.execute("DELETE FROM meta WHERE key = 'detector'")
    Gallery.open(tmp_path / "g", fake).close()
    assert not recwarn


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_an_export_says_it_too(tmp_path: Path, att: list[np.ndarray], tiny_onnx: Path, suffix: str) -> None:
    for detector in ("blazeface", "yunet"):
        path, recognizer = enrolled(tmp_path / detector, tiny_onnx, att[0], detector), FaceRecognizer(tiny_onnx)
        with Gallery.open(path) as gallery:
            gallery.export(tmp_path / f"{detector}.{suffix}")
        import_gallery(tmp_path / f"{detector}.{suffix}", tmp_path / f"{detector}2", recognizer.model)
        with Gallery.open(tmp_path / f"{detector}2", recognizer) as gallery:
            assert gallery.detector == detector


def test_an_old_export_is_blazeface_s_and_another_program_s_nobody_s(
    tmp_path: Path, att: list[np.ndarray], tiny_onnx: Path
) -> None:
    path = enrolled(tmp_path / "old", tiny_onnx, att[0], "blazeface", is_old=True)
    recognizer = FaceRecognizer(tiny_onnx)
    with Gallery.open(path) as gallery:
        gallery.export(tmp_path / "old.json")
        np.savez(tmp_path / "their.npz", names=["Ada"], embeddings=gallery.contents()[1])
    for source, name, kind in (("old.json", "blazeface", BlazeFace), ("their.npz", "", YunetOnet)):
        recognizer = FaceRecognizer(tiny_onnx)
        import_gallery(tmp_path / source, tmp_path / f"from {source}", recognizer.model)
        with Gallery.open(tmp_path / f"from {source}", recognizer) as gallery:
            assert (gallery.detector, type(recognizer.detector)) == (name, kind)


def test_galleries_of_two_detectors_become_one_with_a_word(
    tmp_path: Path, att: list[np.ndarray], tiny_onnx: Path
) -> None:
    one, other = (enrolled(tmp_path / name, tiny_onnx, att[0], name) for name in ("blazeface", "yunet"))
    with Gallery.open(one) as gallery, pytest.warns(EdgefaceWarning, match="of faces that yunet finds"):
        added = gallery.merge(other, force=True).added
    assert added == 1
