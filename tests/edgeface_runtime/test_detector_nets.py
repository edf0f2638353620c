"""The shipped detector nets compute what their sources compute."""

import importlib.util
import warnings
from typing import Any

import numpy as np
import pytest

from edgeface_runtime.detection.load import NETS
from edgeface_runtime.engines import Engine, open_engine


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
