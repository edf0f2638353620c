"""The four files of a short training run, and what refuses to become a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgeface.deploy import ExportPhotos, balanced, export_model
from edgeface.training.checkpoints import load_checkpoint
from edgeface_export import pipeline
from edgeface_export.faces import EvaluationSet
from edgeface_export.formats import STATIC_FORMATS, onnx_file
from edgeface_export.options import RECIPES, ExportOptions
from edgeface_export.rewrite import torch_embeddings
from edgeface_export.separation import draw_pairs
from edgeface_runtime import ModelError, UsageError, load, read_contract
from edgeface_runtime.contract import is_intact
from edgeface_runtime.integrity import inspect_file

if TYPE_CHECKING:
    from conftest import Trained

FILES = [
    (recipe.precision, recipe.format)
    for recipe in RECIPES
    if recipe.format in STATIC_FORMATS and recipe.precision in ("fp32", "int8")
]


@pytest.fixture(params=FILES, ids=".".join)
def file(request: pytest.FixtureRequest, trained: Trained) -> Path:
    return trained.file(*request.param)


def test_nothing_else_lies_in_the_folder(trained: Trained):
    names = {f"mobilefacenet.{precision}.{kind}" for precision, kind in FILES}
    assert {path.name for path in trained.models.iterdir()} == names | {"mobilefacenet.card.md"}
    assert {row.path for row in trained.export.files} | {trained.export.card} == set(trained.models.iterdir())


def test_embeddings_are_the_nets(file: Path, trained: Trained):
    checkpoint = load_checkpoint(trained.run)
    held_out = trained.data.faces[trained.data.rows("test")]
    assert len(held_out) == 24
    expected = torch_embeddings(checkpoint.net, checkpoint.contract.input, held_out)
    cosines = (load(file).embed(held_out) * expected).sum(axis=1)
    precision, kind = file.name.split(".")[1:]
    assert cosines.min() >= (0.9999 if precision == "fp32" else 0.9)
    row = next(row for row in trained.export.files if (row.precision, row.format) == (precision, kind))
    assert row.cosine_mean == pytest.approx(cosines.mean(), abs=1e-5)
    assert row.cosine_p1 == pytest.approx(np.percentile(cosines, 1), abs=1e-5)
    assert row.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert row.size_bytes == file.stat().st_size


def test_torch_embeddings_are_the_net_on_normalised_pixels(trained: Trained):
    checkpoint = load_checkpoint(trained.run)
    faces = trained.data.faces[:3]
    pixels = (faces.astype(np.float32) - 127.5) / 127.5
    with torch.no_grad():
        raw = checkpoint.net(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).numpy()
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(torch_embeddings(checkpoint.net, checkpoint.contract.input, faces), expected, atol=1e-5)


def test_the_contract_inside_is_whole(file: Path, trained: Trained):
    contract, checkpoint = read_contract(file), load_checkpoint(trained.run)
    precision, kind = file.name.split(".")[1:]
    recipe = next(recipe for recipe in RECIPES if (recipe.precision, recipe.format) == (precision, kind))
    assert (contract.precision, contract.recipe, contract.licence) == (precision, recipe.name, "test")
    assert contract.parent_sha256 == checkpoint.sha256
    assert contract.data_sha256 == trained.data.sha256
    assert sum(cost.macs for cost in contract.cost.values()) / 1e6 == pytest.approx(221, abs=0.5)
    assert contract.input == checkpoint.contract.input
    assert {"torch"} < contract.versions.keys()
    if precision == "int8":
        chosen = balanced(trained.data.labels, trained.data.rows("train"), 16, 0)
        digest = hashlib.sha256(trained.data.faces[chosen].tobytes()).hexdigest()
        assert contract.calibration == {
            "faces": 16, "seed": 0, "sha256": digest, "method": "mse", "float_layers": []
        }  # fmt: skip
    else:
        assert contract.calibration is None
    width = 1 if precision == "int8" else 4
    weights = sum(parameter.numel() for parameter in checkpoint.net.parameters())
    assert sum(cost.bytes for cost in contract.cost.values()) > width * 0.95 * weights
    assert sum(cost.bytes for cost in contract.cost.values()) % width == 0


def test_the_digest_belongs_to_the_one_contract_in_the_file(file: Path):
    data, digest = file.read_bytes(), read_contract(file).file_sha256
    assert data.count(b'"file_sha256":"') == 1
    assert hashlib.sha256(data.replace(digest.encode(), b"0" * 64)).hexdigest() == digest
    assert is_intact(file)


def test_golden_vectors_hold_and_are_the_files_own(file: Path):
    found = inspect_file(file)
    assert (found.ok, found.reason) == (True, None)
    assert found.min_cosine == pytest.approx(1, abs=1e-4)


def test_int8_files_are_int8_but_for_preprocessing(file: Path):
    operators = read_contract(file).operators
    if ".fp32." in file.name:
        assert operators["int8"] == 0
        assert operators["float"] > 50
    else:
        assert operators["int8"] > 50
        assert operators["float"] <= 3  # subtract the mean, scale; the global depthwise convolution of TFLite


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_int8_files_are_small(kind: str, trained: Trained):
    assert trained.file("int8", kind).stat().st_size <= 0.36 * trained.file("fp32", kind).stat().st_size


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_onnx_takes_any_batch_and_tflite_one(kind: str, trained: Trained):
    assert load(trained.file("int8", kind)).engine.input_shape == (None if kind == "onnx" else 1, 112, 112, 3)


def test_exported_again_the_onnx_files_are_the_same_bytes(trained: Trained, tmp_path: Path):
    options = ExportOptions(formats=["onnx"], calibration_faces=16, max_drop=100, min_cosine=-1)
    again = export_model(trained.run, ExportPhotos(data=trained.data), tmp_path, options)
    for row in again.files:
        assert row.path.read_bytes() == trained.file(row.precision, row.format).read_bytes()


class Small(torch.nn.Module):
    """A net that exports in a second."""

    def __init__(self) -> None:
        super().__init__()
        body = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.BatchNorm2d(8), torch.nn.PReLU(8)
        self.layers = torch.nn.Sequential(*body, torch.nn.Conv2d(8, 6, 4), torch.nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def pairs_of_four(pairs: np.ndarray) -> EvaluationSet:
    return EvaluationSet(np.zeros((4, 16, 16, 3), np.uint8), pairs, np.ones(len(pairs), bool))


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    from edgeface_runtime import Contract, EmbeddingSpec, InputSpec

    torch.manual_seed(0)
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(6), 4)
    # Six people whom random weights tell apart.
    people = rng.integers(0, 256, (6, 16, 16, 3))[labels]
    faces = np.clip(people + rng.normal(0, 2, people.shape), 0, 255).astype(np.uint8)
    pairs = draw_pairs(labels)
    return {
        "net": Small().eval(),
        "contract": Contract(
            name="small", backbone="small", input=InputSpec(size=16), embedding=EmbeddingSpec(length=6)
        ),
        "folder": tmp_path / "models",
        "calibration": faces[:8],
        "evaluation": EvaluationSet(faces, pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]]),
        "formats": ["onnx"],
        "precisions": ["fp32"],
    }


def test_a_small_net_passes_and_says_what_it_does(export_net: Callable[..., Any], job: dict[str, Any]):
    said: list[str] = []
    result = export_net(**job, progress=said.append)
    assert (result.passed, said[1:]) == (True, ["writing small.fp32.onnx", "timing"])
    assert said[0].startswith("36 genuine pairs cannot show a loss of 0.15 points; give more test photos")
    assert result.warnings == (said[0],)
    assert result.as_json()["gate"] == {"passed": True, "max_drop_points": 0.15, "reason": None}
    assert sorted(path.name for path in job["folder"].iterdir()) == ["small.card.md", "small.fp32.onnx"]


def test_the_options_stand_in_the_json_and_the_card(export_net: Callable[..., Any], job: dict[str, Any]):
    asked = job | {"precisions": None, "formats": ["onnx"]}
    result = export_net(**asked, max_drop=100, min_cosine=0.5, calibrator="minmax", calibration_faces=7, seed=3)
    options = result.as_json()["options"]
    assert options == {
        "formats": ("onnx",), "precisions": ("fp32", "int8"), "calibrator": "minmax", "calibration_faces": 7,
        "min_cosine": 0.5, "max_drop": 100, "converter": "litert", "qat": False, "qat_steps": 300, "seed": 3,
    }  # fmt: skip
    assert [file.precision for file in result.files] == ["fp32", "int8"]
    (line,) = (line for line in result.card.read_text("utf-8").splitlines() if line.startswith("Export options: "))
    for name, value in options.items():
        assert f"{name} {' and '.join(value) if isinstance(value, tuple) else value}" in line


def test_float_files_need_nobody_to_calibrate_with(export_net: Callable[..., Any], job: dict[str, Any]):
    assert export_net(**job | {"calibration": job["calibration"][:0]}).passed


@pytest.mark.parametrize("is_there", [False, True])
def test_a_refusal_writes_nothing(
    export_net: Callable[..., Any], is_there: bool, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    if is_there:
        job["folder"].mkdir()
        (job["folder"] / "small.fp32.onnx").write_bytes(b"an older export")
    result = export_net(**job, max_drop=-1)
    assert not result.passed
    lost = "small.fp32.onnx: loses 0.000 points on 276 pairs (0.00 points of TAR), at most -1 are allowed"
    assert result.reason == f"{lost}, and 0.13 that chance can make"
    assert result.files[0].path == job["folder"] / "small.fp32.onnx"
    if is_there:
        assert [path.read_bytes() for path in job["folder"].iterdir()] == [b"an older export"]
    else:
        assert not job["folder"].exists()


def test_an_fp32_file_that_is_not_the_net_is_refused(
    export_net: Callable[..., Any], job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    parity = pipeline.parity
    monkeypatch.setattr(pipeline, "parity", lambda *arguments: replace(parity(*arguments), cosine_p1=0.9998))
    reason = "small.fp32.onnx: cosine to the source model 0.999800, at least 0.9999 is needed"
    assert export_net(**job).reason == reason


def test_a_source_model_that_diverged_is_named(export_net: Callable[..., Any], job: dict[str, Any]):
    with torch.no_grad():
        job["net"].layers[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"^small: gives embeddings that are not finite numbers$"):
        export_net(**job)
    assert not job["folder"].exists()


def test_an_int8_file_whose_operators_stayed_float_is_refused(
    export_net: Callable[..., Any], job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    counts = {"int8": Counter(QLinearConv=5), "float": Counter(Resize=1, Gelu=3), "other": Counter(Cast=3)}
    monkeypatch.setattr(onnx_file, "operators", lambda path, source: counts)
    result = export_net(**job | {"precisions": ["int8"]}, max_drop=100)
    reason = "small.int8.onnx: 4 operators cannot be quantized and stayed float: Gelu 3, Resize 1"
    assert (result.reason, result.files[0].excluded) == (reason, ())


def test_a_short_net_is_not_refused_for_its_preprocessing(
    export_net: Callable[..., Any], job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    counts = {"int8": Counter(QLinearConv=9, NhwcMaxPool=5), "float": Counter(Sub=1, Mul=1), "other": Counter(Cast=1)}
    monkeypatch.setattr(onnx_file, "operators", lambda path, source: counts)
    assert export_net(**job | {"precisions": ["int8"]}, max_drop=100).passed


def test_a_conversion_that_fails_leaves_nothing(
    export_net: Callable[..., Any], job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise RuntimeError("the converter gave up\nat line 7")

    monkeypatch.setattr(onnx_file, "write_int8", fail)
    with pytest.raises(ModelError, match=r"^small.int8.onnx: cannot be made: RuntimeError: the converter gave up$"):
        export_net(**job | {"precisions": ["fp32", "int8"]})
    assert not job["folder"].exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formats": ["onnx", "coreml"]}, "format onnx, coreml: there are ncnn, onnx, tflite"),
        ({"formats": []}, "format : there are"),
        ({"formats": ["ncnn"]}, r"small: format ncnn: it goes to onnx, tflite alone"),
        ({"formats": ["ncnn", "onnx"]}, "format ncnn goes alone"),
        ({"precisions": []}, "precision : there are"),
        ({"converter": "onnx2tf"}, "converter onnx2tf: there are litert, keras"),
        ({"calibration_faces": 0}, "taken from 0 faces; at least 1"),
        ({"qat": True, "precisions": ["int8", "fp16"]}, "--qat moves the weights for int8; export fp16 without it"),
        ({"precisions": ["int4"]}, "precision int4: there are fp16, fp32, int8, int8-dynamic, int8-weights"),
        ({"calibrator": "taste"}, "calibrator taste: there are auto, moving-average, minmax, percentile, entropy, mse"),
        ({"calibrator": "auto"}, "no photos are left to choose a calibrator on"),
        ({"max_drop": float("nan")}, "the largest drop must be a number"),
        ({"min_cosine": 1.5}, r"the least cosine is 1\.5; a cosine lies between -1 and 1"),
        (
            {"calibration": np.zeros((0, 16, 16, 3), np.uint8), "precisions": ["int8"]},
            r"calibration faces are uint8 \(0, 16, 16, 3\)",
        ),
        ({"calibration": np.zeros((2, 16, 16, 3), np.float32)}, "calibration faces are float32"),
        ({"calibration": np.zeros((2, 8, 8, 3), np.uint8)}, r"calibration faces are uint8 \(2, 8, 8, 3\), not uint8"),
        ({"calibration": np.zeros((2, 3, 16, 16), np.uint8)}, r"calibration faces are uint8 \(2, 3, 16, 16\), not"),
        (
            {"evaluation": pairs_of_four(np.zeros((0, 2), np.int64))},
            "0 pairs measure no accuracy: genuine and impostor pairs",
        ),
        ({"evaluation": pairs_of_four(np.array([[0, 1]]))}, "1 pairs measure no accuracy"),
    ],
)
def test_what_does_not_fit_is_named(
    export_net: Callable[..., Any], change: dict[str, Any], message: str, job: dict[str, Any]
):
    with pytest.raises(UsageError, match=message):
        export_net(**job | change)
    assert not job["folder"].exists()


def test_a_folder_that_cannot_be_written_is_named(export_net: Callable[..., Any], job: dict[str, Any], tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"file.*: cannot be written to \("):
            export_net(**job | {"folder": folder})


def test_calibration_faces_take_turns():
    labels = np.array([0] * 20 + [1] * 3 + [2] * 5)
    rows = np.arange(2, 28)
    chosen = balanced(labels, rows, 9, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [3, 3, 3]
    assert np.bincount(labels[balanced(labels, rows, 14, seed=0)]).tolist() == [6, 3, 5]
    assert set(chosen) <= set(rows)
    assert (np.diff(chosen) > 0).all()
    assert len(balanced(labels, rows, 100, seed=0)) == 26
    assert (balanced(labels, rows, 9, seed=1) != chosen).any()


@pytest.mark.parametrize("faces", [8, 16])
def test_the_selection_set_neither_calibrates_nor_evaluates(faces: int, trained: Trained):
    found = ExportPhotos(data=trained.data).select(112, ExportOptions(calibration_faces=faces))
    assert found.selection is not None
    groups = [found.calibration, found.selection.faces, found.evaluation.faces]
    digests = [{face.tobytes() for face in group} for group in groups]
    assert all(digests)
    assert sum(map(len, digests)) == len(set.union(*digests))
    assert 0 < found.selection.same.sum() < len(found.selection.same)


def test_where_nobody_is_left_there_is_no_selection_set(trained: Trained):
    data = replace(trained.data, split=np.where(trained.data.split == "val", "train", trained.data.split))
    assert ExportPhotos(data=data).select(112, ExportOptions(calibration_faces=10_000)).selection is None


def test_photos_without_a_test_split_cannot_evaluate(trained: Trained, tmp_path: Path):
    data = replace(trained.data, split=np.where(trained.data.split == "test", "val", trained.data.split))
    with pytest.raises(UsageError, match="no test split to evaluate an export on"):
        export_model(trained.run, ExportPhotos(data=data), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_faces_in_the_wrong_order_of_colours_are_asked_about(export_net: Callable[..., Any], job: dict[str, Any]):
    said: list[str] = []
    reddish = job["calibration"] // np.array([1, 2, 4], np.uint8)
    export_net(**job | {"calibration": reddish}, progress=said.append)
    assert not any("BGR" in line for line in said)
    export_net(**job | {"calibration": np.ascontiguousarray(reddish[..., ::-1])}, progress=said.append)
    assert "calibration faces have more blue than red: are they BGR? RGB is what is asked for" in said


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_exported_again_every_file_is_the_same_bytes(
    export_net: Callable[..., Any], kind: str, job: dict[str, Any], tmp_path: Path
):
    if kind == "tflite":
        pytest.importorskip("litert_torch")
    precisions = sorted({recipe.precision for recipe in RECIPES})
    twice = [
        export_net(**job | {"folder": tmp_path / name, "formats": [kind], "precisions": precisions}, max_drop=100)
        for name in ("first", "second")
    ]
    assert [file.sha256 for file in twice[0].files] == [file.sha256 for file in twice[1].files]
    assert len(twice[0].files) == 5


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_tflite_file_can_be_resized_to_any_batch(precision: str, trained: Trained):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    faces = trained.data.faces[:3]
    runner = interpreter.Interpreter(model_path=str(trained.file(precision, "tflite")), num_threads=1)
    entry, exit_ = runner.get_input_details()[0]["index"], runner.get_output_details()[0]["index"]
    runner.resize_tensor_input(entry, faces.shape)
    runner.allocate_tensors()
    runner.set_tensor(entry, faces)
    runner.invoke()
    rows = runner.get_tensor(exit_)
    expected = load(trained.file(precision, "tflite")).embed(faces)
    np.testing.assert_allclose(rows / np.linalg.norm(rows, axis=1, keepdims=True), expected, atol=1e-6)
