"""Third-party models as people have them: weights beside the file, more inputs and outputs, quantized already."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
quantization = pytest.importorskip("onnxruntime.quantization")

from edgeface_export.faces import EvaluationSet, ExportFaces
from edgeface_export.formats import tflite_file
from edgeface_export.formats.tflite_graph import packed, read_graph
from edgeface_export.options import ExportOptions
from edgeface_export.pipeline import export
from edgeface_export.result import ExportResult
from edgeface_export.separation import draw_pairs
from edgeface_export.third_party import third_party_model
from edgeface_runtime import Contract, ContractError, EmbeddingSpec, InputSpec, ModelError, UsageError, load
from edgeface_runtime.contract import read_contract
from edgeface_runtime.integrity import inspect_file

SPEC = InputSpec(size=16, layout="NCHW", dtype="float32")
CONTRACT = Contract(name="theirs", backbone="theirs", input=SPEC, embedding=EmbeddingSpec(length=6))
LABELS = np.repeat(np.arange(6), 4)
FACES = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info


def write(
    path: Path, tail: Sequence[Any], outputs: Sequence[Any], *, seed: int = 0, more: Sequence[Any] = (), **save: Any
) -> Path:
    """A convolution, then ``tail`` from its (N, 6, 1, 1) output ``c``."""
    weights = np.random.default_rng(seed).normal(0, 0.2, (6, 3, 16, 16)).astype(np.float32)
    held = [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(np.array([1, 6]), "one")]
    inputs = [info("x", 1, ["n", 3, 16, 16]), *more]
    nodes = [make("Conv", ["x", "w"], ["c"]), *tail]
    graph = onnx.helper.make_graph(nodes, "g", inputs, list(outputs), held)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, **save)
    return path


ROW = [make("Flatten", ["c"], ["y"])], [info("y", 1, ["n", 6])]


def exported(source: Path, contract: Contract, folder: Path, **options: Any) -> ExportResult:
    pairs = draw_pairs(LABELS)
    evaluation = EvaluationSet(FACES, pairs, LABELS[pairs[:, 0]] == LABELS[pairs[:, 1]])
    faces = ExportFaces(calibration=FACES[:8], evaluation=evaluation)
    made = export(
        third_party_model(source, contract), faces, folder, ExportOptions(max_drop=100, min_cosine=-1, **options)
    )
    assert made.passed, made.reason
    assert all(inspect_file(file.path).ok for file in made.files)
    return made


def rows(path: Path, contract: Contract | None = None) -> np.ndarray:
    return load(path, contract=contract).embed(FACES)


def test_weights_beside_the_file_are_its_own_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    outside = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    for name, seed in (("theirs", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "net.onnx", *ROW, seed=seed, **outside)
    inside = write(tmp_path / "inside.onnx", *ROW)
    monkeypatch.chdir(tmp_path / "other")  # another net's weights, under the same name
    source = tmp_path / "theirs" / "net.onnx"
    np.testing.assert_array_equal(rows(source, CONTRACT), rows(inside, CONTRACT))
    made = exported(source, CONTRACT, tmp_path / "models", precisions=["fp32", "int8"])
    (tmp_path / "theirs" / "w.bin").unlink()
    assert (rows(made.files[0].path) * rows(inside, CONTRACT)).sum(axis=1).min() > 0.99999
    with pytest.raises(ModelError, match=r"its weights are in another file, which is absent: .*theirs.w\.bin"):
        load(source, contract=CONTRACT)


def test_weights_beside_the_file_tell_two_models_apart(tmp_path: Path):
    outside = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    digests = set()
    for seed in range(2):
        source = write(tmp_path / "net.onnx", *ROW, seed=seed, **outside)
        digests.add(third_party_model(source, CONTRACT).contract.parent_sha256)
        (tmp_path / "w.bin").unlink()
    assert len(digests) == 2


@pytest.mark.parametrize("said", [["n", 6, 1, 1], None], ids=["said", "not said"])
def test_an_embedding_of_four_axes_is_taken_and_written_as_rows(said: list[object] | None, tmp_path: Path):
    source = write(tmp_path / "net.onnx", [make("Identity", ["c"], ["y"])], [info("y", 1, said)])
    expected = rows(write(tmp_path / "rows.onnx", *ROW), CONTRACT)
    np.testing.assert_array_equal(rows(source, CONTRACT), expected)
    made = exported(source, CONTRACT, tmp_path / "models", precisions=["fp32"])
    np.testing.assert_allclose(rows(made.files[0].path), expected, atol=1e-6)
    assert load(made.files[0].path).engine.run(np.zeros((2, 3, 16, 16), np.float32))[0].shape == (2, 6)


def test_an_embedding_that_is_another_output_is_found_and_can_be_named(tmp_path: Path):
    tail = [make("Relu", ["c"], ["map"]), make("Flatten", ["c"], ["y"]), make("Softmax", ["y"], ["z"])]
    outputs = [info("map", 1, ["n", 6, 1, 1]), info("y", 1, ["n", 6]), info("z", 1, ["n", 6])]
    source = write(tmp_path / "net.onnx", tail, outputs)
    model = onnx.load(source)
    model.graph.node.append(make("Concat", ["y", "y"], ["twice"], axis=1))
    del model.graph.output[:]
    model.graph.output.extend([info("twice", 1, ["n", 12]), *outputs[1:]])
    onnx.save(model, source)
    with pytest.raises(ModelError, match=r"output 0 of 3 is \(24, 12\), its contract says \(24, 6\); output 1 is that"):
        rows(source, CONTRACT)
    with pytest.raises(ModelError, match="has 3 outputs; its contract takes number 3"):
        rows(source, replace(CONTRACT, embedding=EmbeddingSpec(length=6, output=3)))
    second = replace(CONTRACT, embedding=EmbeddingSpec(length=6, output=1))
    expected = rows(write(tmp_path / "rows.onnx", *ROW), CONTRACT)
    np.testing.assert_array_equal(rows(source, second), expected)
    made = exported(source, second, tmp_path / "models", precisions=["fp32", "int8"])
    assert read_contract(made.files[0].path).embedding.output == 0
    np.testing.assert_allclose(rows(made.files[0].path), expected, atol=1e-6)
    assert len(load(made.files[1].path).engine.run(np.zeros((1, 3, 16, 16), np.float32))) == 1


def test_a_batch_fixed_inside_is_named_and_can_be_told(tmp_path: Path):
    tail, outputs = [make("Reshape", ["c", "one"], ["y"])], [info("y", 1, ["n", 6])]
    source = write(tmp_path / "net.onnx", tail, outputs)
    with pytest.raises(ModelError, match=r"takes one face at a time, .* say batch = 1 under \[input\]"):
        rows(source, CONTRACT)
    wide = write(tmp_path / "wide.onnx", [make("Reshape", ["c", "one"], ["y"])], outputs)
    model = onnx.load(wide)
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.array([1, -1]), "one"))
    onnx.save(model, wide)
    with pytest.raises(ModelError, match=r"gave \(1, 144\), .* say batch = 1 under \[input\]"):
        rows(wide, CONTRACT)
    one = replace(CONTRACT, input=replace(SPEC, batch=1))
    expected = rows(write(tmp_path / "rows.onnx", *ROW), CONTRACT)
    np.testing.assert_allclose(rows(source, one), expected, atol=1e-6)
    made = exported(source, one, tmp_path / "models", precisions=["fp32"])
    assert load(made.files[0].path).engine.input_shape == (1, 3, 16, 16)


def test_a_second_input_is_named(tmp_path: Path):
    tail, flag = [*ROW[0], make("Not", ["phase_train"], ["unused"])], info("phase_train", onnx.TensorProto.BOOL, [])
    source = write(tmp_path / "net.onnx", tail, ROW[1], more=[flag])
    with pytest.raises(ModelError, match=r"takes 2 inputs \(x, phase_train\), where an embedder takes the faces alone"):
        rows(source, CONTRACT)


def test_an_onnx_file_that_is_quantized_already_is_stamped_as_such(tmp_path: Path):
    source = write(tmp_path / "net.onnx", *ROW)
    quantization.quantize_dynamic(source, tmp_path / "int8.onnx", weight_type=quantization.QuantType.QUInt8)
    made = exported(tmp_path / "int8.onnx", CONTRACT, tmp_path / "models")
    (file,) = made.files
    contract = read_contract(file.path)
    assert file.path.name == "theirs.int8.onnx"
    assert (contract.precision, contract.recipe) == ("int8", "dynamic_as_given")
    alone = np.concatenate([load(file.path).embed(face[None]) for face in FACES])
    np.testing.assert_array_equal(rows(file.path), alone)
    for precision in ("fp32", "fp16", "int8-dynamic"):
        with pytest.raises(UsageError, match=f"precision {precision}: it goes to int8 alone .* is quantized already"):
            exported(tmp_path / "int8.onnx", CONTRACT, tmp_path / "no", precisions=[precision])


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``float`` and a file of nothing but int8 outside and inside; NHWC, float pixels."""
    import torch
    from ai_edge_quantizer import quantizer, recipe

    folder = tmp_path_factory.mktemp("tflite")
    torch.manual_seed(0)

    class Channels(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.permute(0, 3, 1, 2)

    nn = torch.nn
    net = nn.Sequential(Channels(), nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 6, 4), nn.Flatten()).eval()
    with tflite_file.quiet():
        import litert_torch

        litert_torch.convert(net, (torch.zeros(1, 16, 16, 3),)).export(str(folder / "float.tflite"))
        job = quantizer.Quantizer(str(folder / "float.tflite"), recipe.static_wi8_ai8())
        samples = ((FACES.astype(np.float32) - 127.5) / 127.5)[:, None]
        ranges = job.calibrate({"serving_default": [{"args_0": face} for face in samples]})
        job.quantize(ranges).export_model(str(folder / "int8.tflite"))
    return {name: folder / f"{name}.tflite" for name in ("float", "int8")}


NHWC = replace(CONTRACT, input=InputSpec(size=16, dtype="float32"))


def test_integers_of_a_tflite_file_are_the_numbers_that_they_stand_for(tflite: dict[str, Path], tmp_path: Path):
    entry = read_graph(tflite["int8"]).subgraphs[0]
    assert {entry.tensors[place].type for place in (*entry.inputs, *entry.outputs)} == {schema.TensorType.INT8}
    expected = rows(tflite["float"], NHWC)
    assert (rows(tflite["int8"], NHWC) * expected).sum(axis=1).mean() > 0.98
    made = exported(tflite["int8"], NHWC, tmp_path / "models")
    contract = read_contract(made.files[0].path)
    assert (contract.precision, contract.recipe, made.files[0].path.name) == ("int8", "as_given", "theirs.int8.tflite")
    with pytest.raises(UsageError, match=r"precision fp32: it goes to int8 alone .* is quantized already"):
        exported(tflite["int8"], NHWC, tmp_path / "no", precisions=["fp32"])


def test_integers_without_a_scale_are_refused(tflite: dict[str, Path], tmp_path: Path):
    model = read_graph(tflite["int8"])
    graph = model.subgraphs[0]
    graph.tensors[graph.outputs[0]].quantization = None
    path = tmp_path / "bare.tflite"
    path.write_bytes(packed(model))
    with pytest.raises(ModelError, match=r"int8 without a scale|cannot open it|cannot run it"):
        rows(path, NHWC)


def test_another_output_of_a_tflite_file_becomes_its_only_one(tflite: dict[str, Path], tmp_path: Path):
    model = read_graph(tflite["float"])
    graph = model.subgraphs[0]
    graph.outputs = np.array([graph.operators[1].outputs[0], *graph.outputs], np.int32)
    path = tmp_path / "two.tflite"
    path.write_bytes(packed(model))
    second = replace(NHWC, embedding=EmbeddingSpec(length=6, output=1))
    expected = rows(tflite["float"], NHWC)
    np.testing.assert_array_equal(rows(path, second), expected)
    made = exported(path, second, tmp_path / "models")
    np.testing.assert_array_equal(rows(made.files[0].path), expected)
    shutil.rmtree(tmp_path / "models")


@pytest.mark.parametrize("change", [{"batch": 0}, {"batch": -1}])
def test_a_batch_that_is_none_is_refused(change: dict[str, int]):
    with pytest.raises(ContractError, match=r"input\.batch is"):
        InputSpec(**change)


def test_an_output_that_is_none_is_refused():
    with pytest.raises(ContractError, match=r"embedding\.output is -1"):
        EmbeddingSpec(length=6, output=-1)
