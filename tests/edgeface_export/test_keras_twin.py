"""The net built anew in Keras and converted by TensorFlow: it says what PyTorch and litert-torch say."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch import nn

from edgeface.backbones import build_backbone
from edgeface_export.faces import EvaluationSet
from edgeface_export.formats import keras_twin, tflite_file
from edgeface_export.rewrite import Preprocess, embedder, torch_embeddings
from edgeface_export.separation import draw_pairs
from edgeface_export.source_model import torch_source
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, MissingExtraError, ModelError, load

with_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="needs the extra tensorflow")
BACKBONES = (
    "mobilefacenet", "mobilefacenet:act=relu", "mobilefacenet:act=leaky", "resnet18", "vgg11",
    "resnet18:pool=none", "vgg11:pool=none",
)  # fmt: skip
IMAGENET = InputSpec(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def lively(net: nn.Module) -> nn.Module:
    """The net with batch-norm statistics, shifts and slopes as after training."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(0.1, 0.9)
    return net.eval()


def some_faces(count: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@with_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_both_converters_agree(backbone: str, tmp_path: Path):
    torch.manual_seed(0)
    net = lively(build_backbone(backbone, embedding=128, size=112))
    contract = Contract(name="net", backbone=backbone, input=IMAGENET, embedding=EmbeddingSpec(length=128))
    # Batch norm and PReLU are left for TensorFlow to fold and to fuse.
    keras_twin.write_float(nn.Sequential(Preprocess(IMAGENET), net), 112, tmp_path / "keras.tflite")
    tflite_file.write_float(embedder(net, IMAGENET, "maximum"), 112, tmp_path / "litert.tflite")
    faces = some_faces(4, 112)
    theirs, ours = (load(tmp_path / f"{name}.tflite", contract=contract).embed(faces) for name in ("keras", "litert"))
    assert abs(theirs - ours).max() < 1e-4
    assert abs(theirs - torch_embeddings(net, IMAGENET, faces)).max() < 1e-4


class Small(nn.Module):
    """A stride on an even map, PReLU, a depthwise convolution, a map of several pixels flattened."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        body = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8)
        # So many that the two float operators of preprocessing are few among them.
        more = [(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.PReLU(8)) for _ in range(8)]
        last = nn.MaxPool2d(2, 2), nn.Conv2d(8, 3, 3), nn.Flatten()
        self.layers = nn.Sequential(*body, *(layer for block in more for layer in block), *last)
        lively(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@with_tensorflow
@pytest.mark.slow
def test_an_export_by_keras_passes_the_gate(export_net: Callable[..., Any], tmp_path: Path):
    faces, labels = some_faces(24, 16), np.repeat(np.arange(6), 4)
    pairs = draw_pairs(labels)
    spec = InputSpec(size=16)
    result = export_net(
        Small(),
        Contract(name="small", backbone="small", input=spec, embedding=EmbeddingSpec(length=12)),
        tmp_path,
        converter="keras",
        calibration=faces[:8],
        evaluation=EvaluationSet(faces, pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]]),
        formats=["tflite"],
        precisions=["fp32", "int8"],
        max_drop=100,
    )
    assert result.passed, result.reason
    float_file, int8_file = result.files
    assert "litert-torch" not in float_file.contract.versions
    assert any(name.startswith("tensorflow") for name in float_file.contract.versions)
    assert float_file.cosine_p1 > 0.99999
    assert int8_file.cosine_mean > 0.99
    assert int8_file.operators["int8"] > int8_file.operators["float"] > 0


@with_tensorflow
@pytest.mark.slow
def test_a_slope_above_1_takes_its_own_form(tmp_path: Path):
    net, spec, faces = Small(), InputSpec(size=16), some_faces(4, 16)
    with torch.no_grad():
        net.layers[5].weight[0] = 1.5
    keras_twin.write_float(embedder(net, spec, "maximum"), 16, tmp_path / "net.tflite")
    contract = Contract(name="small", backbone="small", input=spec, embedding=EmbeddingSpec(length=12))
    found = load(tmp_path / "net.tflite", contract=contract).embed(faces)
    assert abs(found - torch_embeddings(net, spec, faces)).max() < 1e-5


def test_without_tensorflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keras_twin.importlib.util, "find_spec", lambda name: None)
    contract = Contract(name="x", backbone="x", embedding=EmbeddingSpec(length=1))
    with pytest.raises(MissingExtraError, match=r"edgeface\[tensorflow\]"):
        torch_source(nn.Identity(), contract, converter="keras")


@with_tensorflow
@pytest.mark.slow
def test_a_layer_without_a_twin_is_named(tmp_path: Path):
    net = nn.Sequential(Preprocess(InputSpec(size=16)), nn.Sequential(nn.Conv2d(3, 3, 1), nn.GELU()))
    with pytest.raises(ModelError, match="GELU has no twin in Keras"):
        keras_twin.write_float(net, 16, tmp_path / "net.tflite")
