"""Third-party models: PReLU of each kind, other input, what cannot be exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from edgeface_export.faces import EvaluationSet, ExportFaces
from edgeface_export.onnx_prelu import fold_prelu, rewrite_prelu
from edgeface_export.options import ExportOptions
from edgeface_export.pipeline import export
from edgeface_export.result import ExportResult
from edgeface_export.separation import draw_pairs
from edgeface_export.third_party import third_party_model
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, ModelError, UsageError, load, read_contract
from edgeface_runtime.integrity import inspect_file

SPEC = InputSpec(size=16, layout="NCHW", dtype="float32", colour="BGR", mean=(123.7, 116.3, 103.5), std=(58.0, 57, 57))
CONTRACT = Contract(name="theirs", backbone="theirs", input=SPEC, embedding=EmbeddingSpec(length=6), licence="theirs")


def net(slopes: np.ndarray, *, opset: int = 17, batch: int = 1, as_node: bool = False, old: bool = False) -> Any:
    """Conv, PRelu, Conv to 6 numbers, NCHW; slopes as an initializer, as a Constant node, or as an input too."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(0, 0.2, (8, 3, 4, 4)).astype(np.float32),
        "w2": rng.normal(0, 0.3, (6, 8, 4, 4)).astype(np.float32),
    }
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Conv", ["x", "w1"], ["a"], strides=[4, 4]),
        make("PRelu", ["a", "s"], ["b"]),
        make("Conv", ["b", "w2"], ["c"]),
        make("Flatten", ["c"], ["y"]),
    ]
    if as_node:
        nodes.insert(0, make("Constant", [], ["s"], value=onnx.numpy_helper.from_array(slopes, "s")))
    else:
        constants["s"] = slopes
    inputs = [info("x", 1, [batch, 3, 16, 16])]
    if old:
        inputs += [info(name, 1, value.shape) for name, value in constants.items()]
    held = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [info("y", 1, [batch, 6])], held)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def answer(model: Any, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["x"]
    return session.run(None, {"x": x})[0]


SMALL = np.linspace(-0.5, 1, 8, dtype=np.float32).reshape(8, 1, 1)


BY_PRODUCT, STEEP = {"Mul", "Add", "Relu"}, {"Relu", "Neg", "Mul", "Sub"}


@pytest.mark.parametrize("form", ["affine", "depthwise"])
@pytest.mark.parametrize(
    ("slopes", "kinds"),
    [
        (SMALL, {"affine": BY_PRODUCT, "depthwise": {"Add", "Relu"}}),
        (np.full((1, 1, 1), 0.25, np.float32), {"affine": BY_PRODUCT, "depthwise": BY_PRODUCT}),
        (np.full((), 0.25, np.float32), {"affine": BY_PRODUCT, "depthwise": BY_PRODUCT}),
        (2 * SMALL, {"affine": STEEP, "depthwise": STEEP}),
    ],
    ids=["channels", "shared", "scalar", "steep"],
)
@pytest.mark.parametrize("options", [{}, {"as_node": True}, {"old": True}], ids=["weights", "node", "inputs"])
def test_prelu_is_rewritten_exactly(slopes: np.ndarray, kinds: dict[str, set[str]], form: str, options: dict[str, Any]):
    x = np.random.default_rng(1).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)
    expected = answer(net(slopes, as_node=options.get("as_node", False)), x)
    model = rewrite_prelu(net(slopes, **options), form)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} - {"Constant"} == kinds[form] | {"Conv", "Flatten"}
    np.testing.assert_allclose(answer(model, x), expected, atol=2e-5)


def test_slopes_that_are_computed_are_left_alone():
    model = net(SMALL)
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["s"], ["t"]))
    model.graph.node[2].input[1] = "t"
    assert [node.op_type for node in rewrite_prelu(model, "affine").graph.node].count("PRelu") == 1


def spread(form: str) -> Any:
    """The net with its PRelu written as TensorFlow's converters do."""
    model = net(SMALL)
    make, graph = onnx.helper.make_node, model.graph
    graph.node.remove(graph.node[1])
    half = np.array(0.5, np.float32)
    graph.initializer.extend([onnx.numpy_helper.from_array(-SMALL, "t"), onnx.numpy_helper.from_array(half, "half")])
    graph.initializer.append(onnx.numpy_helper.from_array(SMALL[None], "four"))
    forms = {
        "negated slopes": [("Neg", "a n"), ("Relu", "n r"), ("Mul", "t r m"), ("Add", "up m b")],
        "negated last": [("Neg", "a n"), ("Relu", "n r"), ("Mul", "r s k"), ("Neg", "k m"), ("Add", "m up b")],
        "subtracted": [("Neg", "a n"), ("Relu", "n r"), ("Mul", "r four m"), ("Sub", "up m b")],
        "absolute": [("Abs", "a n"), ("Sub", "a n d"), ("Mul", "s d e"), ("Mul", "e half m"), ("Add", "up m b")],
    }
    steps = [("Relu", "a up"), *forms[form]]
    for place, (kind, names) in enumerate(steps):
        *inputs, output = names.split()
        graph.node.insert(1 + place, make(kind, inputs, [output], f"step_{place}"))
    return model


@pytest.mark.parametrize("form", ["negated slopes", "negated last", "subtracted", "absolute"])
def test_prelu_spread_over_five_operators_is_found(form: str):
    x = np.random.default_rng(1).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)
    model = fold_prelu(spread(form))
    assert [node.op_type for node in model.graph.node] == ["Conv", "PRelu", "Conv", "Flatten"]
    np.testing.assert_allclose(answer(model, x), answer(net(SMALL), x), atol=2e-5)
    np.testing.assert_allclose(answer(spread(form), x), answer(net(SMALL), x), atol=2e-5)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_what_only_looks_like_prelu_is_left_alone(place: int):
    # Another tensor, no sign, or a slope that is computed: all of them compute something else.
    model = spread("negated slopes")
    node = model.graph.node[place]
    if place == 1:
        model.graph.node.insert(1, onnx.helper.make_node("Sigmoid", ["a"], ["other"]))
        node.input[0] = "other"
    elif place == 2:
        node.op_type = "Identity"
    else:
        model.graph.node.insert(1, onnx.helper.make_node("Sigmoid", ["t"], ["computed"]))
        node = next(item for item in model.graph.node if item.output[0] == "m")
        node.input[0] = "computed"
    before = answer(model, np.ones((1, 3, 16, 16), np.float32))
    made = fold_prelu(model)
    assert "PRelu" not in {item.op_type for item in made.graph.node}
    np.testing.assert_array_equal(answer(made, np.ones((1, 3, 16, 16), np.float32)), before)


@pytest.fixture
def photos() -> ExportFaces:
    faces = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
    labels = np.repeat(np.arange(6), 4)
    pairs = draw_pairs(labels)
    evaluation = EvaluationSet(faces, pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]])
    return ExportFaces(calibration=faces[:8], evaluation=evaluation)


def export_file(source: Path, contract: Contract, folder: Path, photos: ExportFaces, **options: Any) -> ExportResult:
    """An export whose gate is open."""
    options = {"max_drop": 100, "min_cosine": -1} | options
    return export(third_party_model(source, contract), photos, folder, ExportOptions(**options))


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(**options: Any) -> Path:
        path = tmp_path / "theirs.onnx"
        onnx.save(net(SMALL, **options), path)
        return path

    return write


@pytest.mark.parametrize("options", [{}, {"opset": 9, "old": True}, {"batch": 2}], ids=["new", "old", "batch 2"])
def test_each_precision_answers_as_the_source_does(
    options: dict[str, Any], save: Save, photos: ExportFaces, tmp_path: Path
):
    source = save(**options)
    before = source.read_bytes()
    faces = photos.evaluation.faces
    expected = load(source, contract=CONTRACT).embed(faces)
    precisions = ["fp32", "fp16", "int8", "int8-dynamic", "int8-weights"]
    made = export_file(source, CONTRACT, tmp_path / "models", photos, precisions=precisions)
    assert made.passed, made.reason
    assert [file.precision for file in made.files] == precisions
    for file, least in zip(made.files, (0.999999, 0.9999, 0.98, 0.98, 0.999), strict=True):
        cosines = (load(file.path).embed(faces) * expected).sum(axis=1)
        assert cosines.mean() > least, file.path
        contract = read_contract(file.path)
        assert (contract.input, contract.licence, contract.precision) == (SPEC, "theirs", file.precision)
        assert inspect_file(file.path).ok
    assert source.read_bytes() == before
    assert "BGR" in made.card.read_text("utf-8")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": replace(SPEC, size=32)}, ModelError, r"takes \(1, 3, 16, 16\), its contract says"),
        ({"input": replace(SPEC, layout="NHWC")}, ModelError, r"its contract says \(N, 16, 16, 3\)"),
        ({"embedding": EmbeddingSpec(length=7)}, ModelError, r"gave \(1, 6\), its contract says \(1, 7\)"),
    ],
)
def test_a_contract_that_does_not_fit_is_named(
    change: dict[str, Any], error: type[Exception], message: str, save: Save, photos: ExportFaces, tmp_path: Path
):
    with pytest.raises(error, match=message):
        export_file(save(), replace(CONTRACT, **change), tmp_path / "models", photos)
    assert not (tmp_path / "models").exists()


def test_what_cannot_be_exported_is_named(
    save: Save, photos: ExportFaces, tmp_path: Path, make_onnx: Callable[..., Path], tiny_tflite: Path
):
    target = tmp_path / "models"
    with pytest.raises(UsageError, match=r"theirs\.onnx: format tflite: it goes to onnx alone"):
        export_file(save(), CONTRACT, target, photos, formats=["onnx", "tflite"])
    for name in ("../theirs", "a/b", ""):
        with pytest.raises(UsageError, match="cannot begin the name of a file"):
            export_file(save(), replace(CONTRACT, name=name), target, photos)
    source = save().rename(tmp_path / "theirs.int8.onnx")
    with pytest.raises(UsageError, match=r"theirs\.int8\.onnx: would be written over"):
        export_file(source, CONTRACT, tmp_path, photos)
    model = net(SMALL)
    for side in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[side].dim_param = "side"
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(ModelError, match=r"free.onnx: takes \(1, 3, None, None\), its contract says"):
        export_file(tmp_path / "free.onnx", CONTRACT, target, photos)
    with pytest.raises(
        UsageError, match=r"precision int8: it goes to fp32 alone .* a TFLite file only gets its contract"
    ):
        export_file(tiny_tflite, read_contract(tiny_tflite), target, photos, precisions=["int8"])
    model = net(SMALL)
    for node in list(model.graph.node)[:3]:
        model.graph.node.remove(node)
    model.graph.node[0].input[0] = "x"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 768
    onnx.save(model, tmp_path / "flat.onnx")
    with pytest.raises(ModelError, match="holds no convolution and no matrix product"):
        export_file(tmp_path / "flat.onnx", replace(CONTRACT, embedding=EmbeddingSpec(length=768)), target, photos)
    onnx.save(net(SMALL), tmp_path / "outside.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"outside.onnx: .* its weights are in another file, which is absent: .*w.bin"):
        export_file(tmp_path / "outside.onnx", CONTRACT, target, photos)
    assert not target.exists()


def test_no_face_model_at_all_is_named(photos: ExportFaces, tmp_path: Path):
    (tmp_path / "notes.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"notes.onnx: "):
        export_file(tmp_path / "notes.onnx", CONTRACT, tmp_path / "models", photos)
    # A detector: it takes the image, and gives a map of scores.
    model = net(SMALL)
    del model.graph.node[-1]
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.ones((6, 8, 3, 3), np.float32), "w2"))
    model.graph.output[0].name = "c"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, tmp_path / "detector.onnx")
    with pytest.raises(ModelError, match=r"detector.onnx: gave \(1, 6, 2, 2\), its contract says \(1, 6\)"):
        export_file(tmp_path / "detector.onnx", CONTRACT, tmp_path / "models", photos)
    assert not (tmp_path / "models").exists()


def test_what_stays_float_is_named(photos: ExportFaces, tmp_path: Path):
    model = net(SMALL)
    make = onnx.helper.make_node
    model.graph.node.insert(2, make("Sin", ["b"], ["sine"]))
    model.graph.node.insert(3, make("Cos", ["sine"], ["wave"]))
    model.graph.node[4].input[0] = "wave"
    onnx.save(model, tmp_path / "waves.onnx")
    found = export_file(tmp_path / "waves.onnx", CONTRACT, tmp_path / "models", photos, precisions=["int8"])
    assert not found.passed
    assert "operators cannot be quantized and stayed float: " in str(found.reason)
    assert "Cos 1" in str(found.reason)
    assert "Sin 1" in str(found.reason)
    assert not (tmp_path / "models").exists()


def test_another_models_file_of_the_same_name_is_kept(save: Save, photos: ExportFaces, tmp_path: Path):
    source = save()
    made = export_file(source, CONTRACT, tmp_path / "out", photos, precisions=["fp32"])
    kept = made.files[0].path.read_bytes()
    again = export_file(source, CONTRACT, tmp_path / "out", photos, precisions=["fp32"])
    assert again.files[0].path.read_bytes() == kept
    save(opset=16)
    for precision in ("fp32", "int8-weights"):  # files of one name share a card
        with pytest.raises(UsageError, match=r"theirs.fp32.onnx: was made of another model of this name; .* with -o"):
            export_file(source, CONTRACT, tmp_path / "out", photos, precisions=[precision])
    assert made.files[0].path.read_bytes() == kept
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"theirs.fp32.onnx", "theirs.card.md"}
    other = export_file(source, replace(CONTRACT, name="other"), tmp_path / "out", photos, precisions=["fp32"])
    assert other.passed
