"""Channels of nearly no weight, which trained models have: their biases must survive 32 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edgeface_export.formats import STATIC_FORMATS
from edgeface_export.formats.tflite_graph import read_graph, schema
from edgeface_export.quantize.ranges import METHODS, refuse_clipped
from edgeface_export.quantize.static import calibrate
from edgeface_export.rewrite import embedder
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, ModelError, load
from edgeface_runtime.model import shipped

nn = torch.nn
SIZE = 32
CONTRACT = Contract(name="x", backbone="x", input=InputSpec(size=SIZE), embedding=EmbeddingSpec(length=16))
FACES = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def net() -> Any:
    """A convolution, a depthwise one and a matrix product, each with channels that live from their bias alone."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 2, 1, groups=24), nn.ReLU(),
        nn.Conv2d(24, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16),
    ).eval()  # fmt: skip
    for layer in made:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            with torch.no_grad():
                layer.weight[::5] *= 1e-10
                layer.bias[::5] = 2
    return made


def biases(path: Path) -> list[Any]:
    if path.suffix == ".onnx":
        constants = [onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer]
        return [item for item in constants if item.dtype == np.int32]
    model = read_graph(path)
    tensors = [item for item in model.subgraphs[0].tensors if item.type == schema().TensorType.INT32]
    held = [model.buffers[item.buffer].data for item in tensors if item.quantization is not None]
    return [np.array(data, np.uint8).view(np.int32) for data in held if data is not None]


@pytest.mark.parametrize("kind", STATIC_FORMATS)
def test_a_layer_of_zeros_leaves_a_file_that_opens(kind: str, tmp_path: Path):
    torch.manual_seed(0)
    silent = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(),
        nn.Conv2d(4, 16, 1), nn.Flatten(),
    ).eval()  # fmt: skip
    nn.init.constant_(silent[3].bias, -9)
    source = tmp_path / f"net.{kind}"
    STATIC_FORMATS[kind].write_float(embedder(silent, CONTRACT.input, "maximum"), SIZE, source)
    for method in METHODS:
        path = calibrate(STATIC_FORMATS[kind], source, FACES, tmp_path).write(tmp_path / f"int8.{kind}", method)
        expected = silent(torch.zeros(1, 3, SIZE, SIZE)).detach().numpy()
        found = load(path, contract=CONTRACT).embed(FACES)
        assert found @ (expected[0] / np.linalg.norm(expected)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", STATIC_FORMATS)
def test_biases_of_dead_channels_are_not_clipped(kind: str, net: Any, tmp_path: Path):
    source = tmp_path / f"net.{kind}"
    STATIC_FORMATS[kind].write_float(embedder(net, CONTRACT.input, "maximum"), SIZE, source)
    path = calibrate(STATIC_FORMATS[kind], source, FACES, tmp_path).write(tmp_path / f"int8.{kind}", "minmax")
    most = max(np.abs(item.astype(np.int64)).max() for item in biases(path))
    assert most < 2**31 - 1  # onnxruntime's own guard goes to 0.9999 of it
    assert kind == "onnx" or 2**29 < most <= 2**30
    wanted, found = (load(file, contract=CONTRACT).embed(FACES) for file in (source, path))
    assert (wanted * found).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("end", [2**31 - 1, -(2**31)])
def test_a_bias_at_the_limit_is_refused(end: int):
    refuse_clipped("layer", np.array([end + (1 if end < 0 else -1), 0], np.int32))
    with pytest.raises(ModelError, match="layer: 1 of its biases do not fit 32 bits"):
        refuse_clipped("layer", np.array([0, end], np.int32))


@pytest.mark.parametrize("file", [model.file for model in shipped()], ids=lambda file: file.name)
def test_shipped_files_hold_no_bias_at_the_limit(file: Path):
    assert max(np.abs(item.astype(np.int64)).max() for item in biases(file)) < 2**30
