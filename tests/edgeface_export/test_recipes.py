"""The other six files of a short training run, and the table that they come from."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edgeface.deploy import ExportPhotos, export_model
from edgeface_export import pipeline
from edgeface_export.formats import FORMATS, onnx_file
from edgeface_export.options import RECIPES, ExportOptions, Recipe
from edgeface_export.result import ExportResult
from edgeface_runtime import load
from edgeface_runtime.gallery.database import Binding
from edgeface_runtime.integrity import inspect_file

if TYPE_CHECKING:
    from conftest import Trained

OTHERS = [recipe for recipe in RECIPES if recipe.format != "ncnn" and recipe.precision not in ("fp32", "int8")]


def test_files_of_one_net_and_precision_share_a_gallery_whatever_their_format():
    made = [(recipe.precision, recipe.name) for recipe in RECIPES]
    bindings = [
        Binding(name="net", file_sha256=str(i), parent_sha256="p", precision=precision, recipe=name, length=128)
        for i, (precision, name) in enumerate(made)
    ]
    for one, other in product(bindings, bindings):
        assert one.fits(other) == (one.precision == other.precision)


@pytest.fixture(scope="module")
def six(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """The files that the session's export does not make."""
    folder = tmp_path_factory.mktemp("six")
    precisions = sorted({recipe.precision for recipe in OTHERS})
    options = ExportOptions(precisions=precisions, calibration_faces=16, max_drop=100, min_cosine=-1)
    made = export_model(trained.run, ExportPhotos(data=trained.data), folder, options)
    assert made.passed, made.reason
    assert len(made.files) == 6
    return made


def by(recipe: Recipe, made: ExportResult) -> Path:
    return next(file.path for file in made.files if file.path.name.endswith(f"mobilefacenet.{recipe.suffix}"))


def test_the_table_makes_twelve_files_and_names_decode():
    assert len({recipe.suffix for recipe in RECIPES}) == len(RECIPES) == 12
    assert {recipe.format for recipe in RECIPES} == set(FORMATS)
    for recipe in RECIPES:
        assert recipe.name == "float" or re.fullmatch(
            r"(static|dynamic|weight_only|float)_w[if](8|16)_a[iuf](8|16|32)", recipe.name
        )
    assert {(recipe.name, recipe.bytes_each) for recipe in RECIPES} == {
        ("float", (4, 4)),
        ("float_wf16_af16", (2, 2)),
        ("weight_only_wf16_af32", (2, 4)),
        ("static_wi8_au8", (1, 1)),
        ("static_wi8_ai8", (1, 1)),
        ("dynamic_wi8_af32", (1, 4)),
        ("weight_only_wi8_af32", (1, 4)),
    }
    assert {recipe.precision for recipe in RECIPES if recipe.is_calibrated} == {"int8"}


@pytest.mark.parametrize("recipe", OTHERS, ids=lambda recipe: recipe.suffix)
def test_each_file_answers_as_the_fp32_file_does(recipe: Recipe, six: ExportResult, trained: Trained):
    faces = trained.data.faces[trained.data.rows("test")]
    expected = load(trained.file("fp32", recipe.format)).embed(faces)
    cosines = (load(by(recipe, six)).embed(faces) * expected).sum(axis=1)
    least = {"fp16": 0.9995, "int8-weights": 0.995, "int8-dynamic": 0.98}[recipe.precision]
    assert cosines.min() > least
    # It is no copy of the fp32 file.
    assert cosines.min() < 1 - 1e-8
    assert inspect_file(by(recipe, six)).ok
    golden = load(by(recipe, six)).golden_cosine()
    assert golden is not None
    assert golden > 0.999998  # here they are computed as they were when the file was made


@pytest.mark.parametrize("recipe", OTHERS, ids=lambda recipe: recipe.suffix)
def test_each_file_is_small_and_says_how_it_was_made(recipe: Recipe, six: ExportResult, trained: Trained):
    row = next(file for file in six.files if file.path == by(recipe, six))
    ratio = row.size_bytes / trained.file("fp32", recipe.format).stat().st_size
    assert ratio < (0.53 if recipe.precision == "fp16" else 0.36)
    assert (row.contract.precision, row.contract.recipe) == (recipe.precision, recipe.name)
    assert row.contract.calibration is None
    computes_in_int8 = recipe.precision == "int8-dynamic"
    assert (row.operators["int8"] > 30) == computes_in_int8
    assert (row.operators["int8"] == 0) != computes_in_int8
    # Input and output stay as they are.
    spec = row.contract.input
    assert (spec.dtype, spec.layout) == ("uint8", "NHWC")


def test_int8_weights_are_within_half_a_step_channel_by_channel(tmp_path: Path):
    rng = np.random.default_rng(0)
    conv = (rng.normal(0, 1, (4, 3, 3, 3)) * np.array([1e-3, 1, 50, 0]).reshape(-1, 1, 1, 1)).astype(np.float32)
    gemm, product = (rng.normal(0, 1, shape).astype(np.float32) for shape in ((5, 4), (5, 6)))
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Conv", ["x", "conv"], ["a"]),
        make("Conv", ["x", "conv"], ["again"]),
        make("Add", ["a", "again"], ["sum"]),
        make("GlobalAveragePool", ["sum"], ["pool"]),
        make("Flatten", ["pool"], ["flat"]),
        make("Gemm", ["flat", "gemm"], ["b"], transB=1),
        make("MatMul", ["b", "product"], ["y"]),
    ]
    constants = {"conv": conv, "gemm": gemm, "product": product}
    graph = onnx.helper.make_graph(
        nodes, "g", [info("x", 1, [1, 3, 8, 8])], [info("y", 1, [1, 6])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "a.onnx")
    onnx_file.write_weights(tmp_path / "a.onnx", tmp_path / "b.onnx")
    written = onnx.load(tmp_path / "b.onnx")
    onnx.checker.check_model(written, full_check=True)
    found = {item.name: onnx.numpy_helper.to_array(item) for item in written.graph.initializer}
    for name, axis in (("conv", 0), ("gemm", 0), ("product", 1)):
        shape = [-1 if side == axis else 1 for side in range(constants[name].ndim)]
        scale = found[f"{name}_scale"].reshape(shape)
        assert found[name].dtype == np.int8
        assert (np.abs(found[name] * scale - constants[name]) <= 0.501 * scale).all()
        assert len(found[f"{name}_scale"]) == constants[name].shape[axis]


def test_an_fp16_file_that_is_not_its_source_model_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parity = pipeline.parity
    monkeypatch.setattr(pipeline, "parity", lambda *arguments: replace(parity(*arguments), cosine_p1=0.9989))
    options = ExportOptions(formats=["onnx"], precisions=["fp16"], calibration_faces=16, max_drop=100)
    found = export_model(trained.run, ExportPhotos(data=trained.data), tmp_path / "models", options)
    assert found.reason == "mobilefacenet.fp16.onnx: cosine to the source model 0.998900, at least 0.999 is needed"
    assert not (tmp_path / "models").exists()


def test_dynamic_int8_need_not_be_int8_throughout(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    counts = {"int8": Counter(QLinearConv=1), "float": Counter(Erf=9), "other": Counter()}
    monkeypatch.setattr(onnx_file, "operators", lambda path, source: counts)
    photos = ExportPhotos(data=trained.data)
    options = ExportOptions(
        formats=["onnx"], precisions=["int8-dynamic"], calibration_faces=4, max_drop=100, min_cosine=-1
    )
    assert export_model(trained.run, photos, tmp_path, options).passed
    found = export_model(trained.run, photos, tmp_path, replace(options, precisions=["int8"]))
    assert found.reason == "mobilefacenet.int8.onnx: 9 operators cannot be quantized and stayed float: Erf 9"
