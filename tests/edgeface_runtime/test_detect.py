"""Opening detectors by name, engine and file."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime.detection.blazeface import BlazeFace
from edgeface_runtime.detection.find import DETECTORS, NETS, load_detector
from edgeface_runtime.detection.mtcnn import Mtcnn
from edgeface_runtime.detection.yunet_onet import YunetOnet
from edgeface_runtime.errors import ModelError, UsageError


@pytest.mark.parametrize("engine", ["auto", "onnxruntime", "litert"])
@pytest.mark.parametrize(("name", "kind"), [("blazeface", BlazeFace), ("mtcnn", Mtcnn), ("yunet", YunetOnet)])
def test_each_detector_opens_in_each_engine(name: str, kind: type, engine: str) -> None:
    detector = load_detector(name, engine=engine)
    assert isinstance(detector, kind)
    assert detector.detect(np.zeros((64, 64, 3), np.uint8)) == []


def test_yunet_is_the_default() -> None:
    assert isinstance(load_detector(), YunetOnet)
    assert DETECTORS[0] == "yunet"


@pytest.mark.filterwarnings("error")
def test_its_former_name_opens_it_too() -> None:
    assert isinstance(load_detector("fast"), BlazeFace)


def test_every_net_ships_in_both_formats_and_all_stay_small() -> None:
    stems = {suffix: {path.stem for path in NETS.glob(f"*.{suffix}")} for suffix in ("onnx", "tflite")}
    assert (
        stems["onnx"]
        == stems["tflite"]
        == {*("pnet", "rnet", "onet", "blazeface_full_range", "blazeface_short_range", "yunet")}
    )
    assert sum(path.stat().st_size for path in NETS.iterdir()) < 6e6


def test_auto_takes_the_engine_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "lite" in name else find(name))
    detector = load_detector("blazeface")
    assert isinstance(detector, BlazeFace)
    assert detector.onet.name == "onnxruntime"


def test_no_engine_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install onnxruntime"):
        load_detector("blazeface")


@pytest.mark.parametrize("name", ["blaze", "missing/yunet.onnx", ""])
def test_unknown_detector(name: str) -> None:
    with pytest.raises(UsageError, match="blazeface or mtcnn"):
        load_detector(name)


@pytest.mark.parametrize("name", DETECTORS)
def test_min_face_is_the_detectors(name: str) -> None:
    detector = load_detector(name, min_face=25)
    assert isinstance(detector, (BlazeFace, Mtcnn, YunetOnet))
    assert detector.min_face == 25
    for least, wrong in (
        (11.9, "min_face is 11.9"),
        (float("nan"), "min_face is nan"),
        (float("inf"), "min_face is inf"),
    ):
        with pytest.raises(UsageError, match=wrong):
            load_detector(name, min_face=least)
    with pytest.raises(UsageError, match=r"min_face is 'small' \(str\); it must be a number"):
        load_detector(name, min_face="small")  # type: ignore[arg-type]


def test_a_yunet_file_has_no_min_face(shared: Path) -> None:
    path = shared / "peers/face_detection_yunet_2026may.onnx"
    if not path.is_file():
        pytest.skip("needs a YuNet file in the shared folder's peers")
    with pytest.raises(UsageError, match="min_face is for yunet"):
        load_detector(path, min_face=20)


def test_unknown_engine() -> None:
    with pytest.raises(UsageError, match="litert or onnxruntime"):
        load_detector("blazeface", engine="tensorrt")


def test_no_threads() -> None:
    with pytest.raises(UsageError, match="threads"):
        load_detector("blazeface", threads=0)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"yunet\.onnx"):
        load_detector(path)


def test_a_model_of_another_kind() -> None:
    with pytest.raises(ModelError, match="YuNet"):
        load_detector(NETS / "blazeface_short_range.onnx")
