"""What counts as int8 in a graph as onnxruntime runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgeface.backbones import build_backbone
from edgeface_export import onnx_file
from edgeface_export.int8 import draft
from edgeface_export.rewrite import embedder
from edgeface_runtime import InputSpec


@pytest.mark.parametrize("backbone", ["vgg11", "vgg11:pool=none", "resnet18"])
def test_pooling_between_int8_convolutions_is_int8(backbone: str, tmp_path: Path):
    torch.manual_seed(0)
    net = build_backbone(backbone, embedding=16, size=112).eval()
    onnx_file.write_float(embedder(net, InputSpec(size=112), "depthwise"), 112, tmp_path / "net.onnx")
    faces = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), np.uint8)
    job = draft(onnx_file, tmp_path / "net.onnx", faces, tmp_path)
    found = onnx_file.operators(job.write(tmp_path / "net.int8.onnx", "minmax"))
    assert set(found["float"]) <= {"Sub", "Mul"}, found  # preprocessing
    assert found["int8"]["QLinearConv"] >= 9
    assert found["int8"]["NhwcMaxPool"] == (1 if backbone == "resnet18" else 5)
