"""What counts as int8 in a graph as onnxruntime runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnxruntime.quantization.shape_inference import quant_pre_process

from edgeface.backbones import build_backbone
from edgeface_export.formats import onnx_file
from edgeface_export.quantize.static import calibrate
from edgeface_export.rewrite import embedder
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, load
from edgeface_runtime.engines import open_engine
from edgeface_runtime.model import unit_rows


@pytest.mark.parametrize("backbone", ["vgg11", "vgg11:pool=none", "resnet18"])
def test_pooling_between_int8_convolutions_is_int8(backbone: str, tmp_path: Path):
    torch.manual_seed(0)
    net = build_backbone(backbone, embedding=16, size=112).eval()
    onnx_file.write_float(embedder(net, InputSpec(size=112), "depthwise"), 112, tmp_path / "net.onnx")
    faces = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), np.uint8)
    job = calibrate(onnx_file, tmp_path / "net.onnx", faces, tmp_path)
    found = onnx_file.operators(job.write(tmp_path / "net.int8.onnx", "minmax"))
    assert set(found["float"]) <= {"Sub", "Mul"}, found  # preprocessing
    assert found["int8"]["QLinearConv"] >= 9
    assert found["int8"]["NhwcMaxPool"] == (1 if backbone == "resnet18" else 5)


def test_no_two_layers_share_their_weights(tmp_path: Path):
    # onnxruntime's own preparation makes equal slopes one constant; its exact kernels do not take that.
    nn = torch.nn
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3), nn.PReLU(8), nn.Flatten())
    onnx_file.write_float(embedder(net.eval(), InputSpec(size=32), "depthwise"), 32, tmp_path / "net.onnx")

    def weights(path: Path) -> list[str]:
        return [node.input[1] for node in onnx.load(path).graph.node if node.op_type == "Conv"]

    quant_pre_process(tmp_path / "net.onnx", tmp_path / "shared.onnx", skip_symbolic_shape=True)
    assert len(set(weights(tmp_path / "shared.onnx"))) == 3
    assert len(set(weights(onnx_file.prepare(tmp_path / "net.onnx", tmp_path)))) == 4


def test_int8_weights_say_their_zero_points(tmp_path: Path):
    # ONNX lets them out where they are 0; onnxruntime's exact kernels do not.
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 30 * 30, 4)).eval()
    onnx_file.write_float(embedder(net, InputSpec(size=32), "depthwise"), 32, tmp_path / "net.onnx")
    onnx_file.write_weights(tmp_path / "net.onnx", tmp_path / "weights.onnx")
    graph = onnx.load(tmp_path / "weights.onnx").graph
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    found = [[constants[name] for name in node.input] for node in graph.node if node.op_type == "DequantizeLinear"]
    assert [len(scale) for _, scale, _ in found] == [8, 4]
    for _, scale, zero in found:
        assert zero.dtype == np.int8
        assert (zero == np.zeros(scale.shape)).all()
    faces = np.zeros((2, 32, 32, 3), np.uint8)
    assert open_engine(tmp_path / "weights.onnx").run(faces)[0].shape == (2, 4)


def test_a_dynamic_file_gives_a_face_the_same_embedding_in_any_company(tmp_path: Path):
    # onnxruntime takes an activation's range over the whole batch.
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 15), nn.Flatten()).eval()
    onnx_file.write_float(embedder(net, InputSpec(size=32), "affine"), 32, tmp_path / "net.onnx")
    onnx_file.write_dynamic(tmp_path / "net.onnx", tmp_path / "dynamic.onnx")
    contract = Contract(
        name="x", backbone="x", recipe="dynamic_wi8_af32", input=InputSpec(size=32), embedding=EmbeddingSpec(length=16)
    )
    model = load(tmp_path / "dynamic.onnx", contract=contract)
    faces = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    faces[1:] //= 4
    alone = np.concatenate([model.embed(face[None]) for face in faces])
    np.testing.assert_array_equal(model.embed(faces), alone)
    together = unit_rows(model.engine.run(faces)[0])
    assert not np.allclose(together, alone, atol=1e-4)


def test_int8_products_do_not_overflow_on_any_machine(tmp_path: Path):
    # Without VNNI, onnxruntime's fast kernels on x86 add two products in 16 bits: 2 * 255 * 127 is cut to 32767.
    make, channels = onnx.helper.make_node, 64
    constants = {
        "x_scale": np.float32(1), "x_zero": np.uint8(0), "w_scale": np.float32(1), "w_zero": np.int8(0),
        "y_scale": np.float32(channels * 255 * 127 / 200), "y_zero": np.uint8(0),
        "w": np.full((8, channels, 1, 1), 127, np.int8),
    }  # fmt: skip
    names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    graph = onnx.helper.make_graph(
        [make("QLinearConv", names, ["y"])],
        "one convolution",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, (1, channels, 4, 4))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, (1, 8, 4, 4))],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "x.onnx")
    (y,) = open_engine(tmp_path / "x.onnx").run(np.full((1, channels, 4, 4), 255, np.uint8))
    assert (y == 200).all()
