"""What rounding the weights does to the mean of each channel, and that biases take it back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edgeface_export.formats import onnx_file, tflite_file
from edgeface_export.formats.tflite_graph import named_operators, read_graph
from edgeface_export.quantize.ranges import rounded
from edgeface_export.quantize.static import calibrate
from edgeface_export.rewrite import Preprocess, embedder
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, load

nn = torch.nn
FORMATS = {"onnx": onnx_file, "tflite": tflite_file}
SPEC = InputSpec(size=32)
CONTRACT = Contract(name="x", backbone="test", input=SPEC, embedding=EmbeddingSpec(length=16, normalised=True))
FACES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
WEIGHTED = (0, 2, 4, 6)
"""The places of the convolutions."""


@pytest.fixture
def net() -> Any:
    """Strides, borders and a depthwise layer; a few large weights a channel, so that the others round coarsely."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.ReLU(),
        nn.Conv2d(32, 48, 1), nn.ReLU6(),
        nn.Conv2d(48, 16, 3, 2, 0), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    for place in WEIGHTED:
        with torch.no_grad():
            made[place].weight[:, 0, 0, 0] = 4
    return made.eval()


def write_float(net: Any, kind: str, folder: Path) -> Path:
    path = folder / f"net.{kind}"
    FORMATS[kind].write_float(embedder(net, SPEC, "max"), 32, path)
    return path


def expected_shifts(net: Any) -> list[NDArray[np.float32]]:
    """By torch: the convolution of each layer's own input with what rounding adds to the weights."""
    x, found = Preprocess(SPEC)(torch.from_numpy(FACES)), []
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            error = torch.from_numpy(rounded(layer.weight.detach().numpy(), 0)) - layer.weight
            twin = nn.functional.conv2d(x, error, None, layer.stride, layer.padding, 1, layer.groups)
            found.append(twin.mean((0, 2, 3)).detach().numpy())
        x = layer(x)
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_shifts_are_those_of_torch(kind: str, net: Any, tmp_path: Path):
    converter, source = FORMATS[kind], write_float(net, kind, tmp_path)
    prepared = converter.prepare(source, tmp_path)
    before = prepared.read_bytes()
    found = converter.rounding_shifts(prepared, FACES)
    assert list(found) == list(converter.layers(prepared))
    for shift, expected in zip(found.values(), expected_shifts(net), strict=True):
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(shift, expected, atol=1e-5)
    assert prepared.read_bytes() == before


def int8_weights(kind: str, path: Path) -> list[NDArray[np.float32]]:
    """The weights that an int8 file holds, in real units and the order of computing, channels first."""
    if kind == "onnx":
        graph = onnx.load(path).graph
        constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        names = {node.output[0]: node.input for node in graph.node if node.op_type == "DequantizeLinear"}
        found = [names[node.input[1]] for node in graph.node if node.op_type == "Conv"]
        return [constants[given[0]] * constants[given[1]].reshape(-1, 1, 1, 1) for given in found]
    model = read_graph(path)
    graph, weights = model.subgraphs[0], []
    for operator, name, _ in named_operators(model):
        if name in tflite_file._CHANNELS:
            tensor = graph.tensors[operator.inputs[1]]
            values = np.array(model.buffers[tensor.buffer].data, np.uint8).view(np.int8).reshape(tensor.shape)
            scales = np.array(tensor.quantization.scale, np.float32)
            if name == "DEPTHWISE_CONV_2D":
                weights.append((values * scales).transpose(3, 0, 1, 2))
            else:
                weights.append((values * scales.reshape(-1, 1, 1, 1)).transpose(0, 3, 1, 2))
    return weights


@pytest.mark.parametrize("kind", FORMATS)
def test_int8_files_round_as_we_say(kind: str, net: Any, tmp_path: Path):
    job = calibrate(FORMATS[kind], write_float(net, kind, tmp_path), FACES, tmp_path)
    held = int8_weights(kind, job.write(tmp_path / "int8", "minmax"))
    for weights, place in zip(held, WEIGHTED, strict=True):
        expected = rounded(net[place].weight.detach().numpy(), 0)
        np.testing.assert_allclose(weights.reshape(expected.shape), expected, atol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_biases_take_the_shifts_back(kind: str, net: Any, tmp_path: Path):
    source = write_float(net, kind, tmp_path)
    job = calibrate(FORMATS[kind], source, FACES, tmp_path)
    parent = load(source, contract=CONTRACT).embed(FACES)

    def loss(made: Any, keep: list[str]) -> float:
        found = load(made.write(tmp_path / f"net.int8.{kind}", "minmax", keep), contract=CONTRACT).embed(FACES)
        return float(1 - (found * parent).sum(axis=1).mean())

    with_it, without = loss(job, []), loss(replace(job, shifts={}), [])
    assert with_it < without / 4, (with_it, without)
    # Layers that stay float keep the biases that they had.
    assert loss(job, list(job.layers)) < 1e-6
