from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("ncnn")

from edgeface.cli import run
from edgeface.evaluation.opening import open_embedder
from edgeface_devices.bench.interleaved import bench
from edgeface_export import pipeline
from edgeface_export.compare import compare_files
from edgeface_export.faces import EvaluationSet, ExportFaces
from edgeface_export.formats import ncnn_file
from edgeface_export.options import ExportOptions
from edgeface_export.result import ExportResult
from edgeface_export.source_model import exported_onnx
from edgeface_runtime import MissingExtraError, ModelError, UsageError, load
from edgeface_runtime.integrity import inspect_file


@pytest.fixture(scope="module")
def photos() -> ExportFaces:
    """Three people of four noisy photos, and every pair of them; ncnn needs nobody to calibrate with."""
    rng = np.random.default_rng(0)
    people = rng.integers(0, 256, (3, 32, 32, 3))
    faces = np.clip(people[np.arange(12) // 4] + rng.normal(0, 20, (12, 32, 32, 3)), 0, 255).astype(np.uint8)
    pairs = np.stack(np.triu_indices(12, 1), axis=1)
    evaluation = EvaluationSet(faces, pairs, pairs[:, 0] // 4 == pairs[:, 1] // 4)
    return ExportFaces(calibration=faces[:0], evaluation=evaluation)


def export_ncnn(source: Path, folder: Path, photos: ExportFaces, **options: Any) -> ExportResult:
    return pipeline.export(exported_onnx(source), photos, folder, ExportOptions(**options))


def test_both_precisions_answer_as_their_source_model_does(tiny_onnx: Path, photos: ExportFaces, tmp_path: Path):
    made = export_ncnn(tiny_onnx, tmp_path, photos, precisions=["fp32", "fp16"])
    assert made.reason is None
    assert [file.path.name for file in made.files] == ["tiny.fp32.ncnn", "tiny.fp16.ncnn"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.fp16.ncnn", "tiny.fp32.ncnn", "tiny.ncnn.card.md"]
    expected = load(tiny_onnx).embed(photos.evaluation.faces)
    for file, tolerance in zip(made.files, (1e-5, 5e-3), strict=True):
        found = load(file.path).embed(photos.evaluation.faces)
        np.testing.assert_allclose(found, expected, atol=tolerance)
        assert file.cosine_mean == pytest.approx(float((found * expected).sum(axis=1).mean()), abs=1e-6)
        assert file.contract.accuracy["verification"]["pairs"] == len(photos.evaluation.pairs)
        assert inspect_file(file.path).ok
    assert [file.contract.recipe for file in made.files] == ["float", "float_wf16_af16"]
    keys = {"path", "format", "precision", "size_bytes", "sha256", "cosine_mean", "cosine_p1", "drop_points"}
    assert keys | {"drop_interval", "operators"} <= set(made.as_json()["files"][0])
    assert made.options.formats == ("ncnn",)
    row = bench([made.files[1].path], calls=4).to_json()["rows"][0]
    assert (row["format"], row["engine"], row["precision"]) == ("ncnn", "ncnn", "fp16")


def test_eval_and_its_like_open_such_a_file(tiny_onnx: Path, photos: ExportFaces, tmp_path: Path):
    (file,) = export_ncnn(tiny_onnx, tmp_path, photos).files
    faces = photos.evaluation.faces
    np.testing.assert_array_equal(open_embedder(file.path).embed(faces), load(file.path).embed(faces))


def test_two_files_are_not_compared_layer_by_layer(tiny_onnx: Path, photos: ExportFaces, tmp_path: Path):
    made = export_ncnn(tiny_onnx, tmp_path, photos, precisions=["fp32", "fp16"])
    with pytest.raises(UsageError, match=r"are ncnn files; compare two \.onnx or two \.tflite files"):
        compare_files(*(file.path for file in made.files))


def test_a_file_that_loses_too_much_gets_no_name(tiny_onnx: Path, photos: ExportFaces, tmp_path: Path):
    made = export_ncnn(tiny_onnx, tmp_path, photos, max_drop=-1)
    assert "loses" in made.reason
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_direction_gets_no_name(
    tiny_onnx: Path, make_onnx, photos: ExportFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = make_onnx(tmp_path / "other.onnx", seed=5)
    write = ncnn_file.WRITERS["fp16"]
    monkeypatch.setitem(ncnn_file.WRITERS, "fp16", lambda source, path: write(other, path))
    made = export_ncnn(tiny_onnx, tmp_path / "out", photos)
    assert "cosine to the source model" in made.reason
    assert not (tmp_path / "out").exists()


def test_other_sources_and_precisions_are_refused(tiny_tflite: Path, make_onnx, photos: ExportFaces, tmp_path: Path):
    int8 = make_onnx(tmp_path / "int8.onnx", precision="int8")
    for source in (tiny_tflite, int8):
        with pytest.raises(UsageError, match="made of fp32 ONNX files"):
            export_ncnn(source, tmp_path / "out", photos)
    fp32 = make_onnx(tmp_path / "fp32.onnx")
    with pytest.raises(UsageError, match=r"fp32.onnx: precision int8: it goes to fp32, fp16 alone"):
        export_ncnn(fp32, tmp_path / "out", photos, precisions=["int8"])


def test_without_pnnx_the_line_names_the_extra(tiny_onnx, photos: ExportFaces, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(ncnn_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"edgeface\[ncnn-export\]"):
        export_ncnn(tiny_onnx, tmp_path, photos)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no such operator >&2; exit 3", "pnnx cannot convert it.*no such operator"),
        ("exit 0", "pnnx cannot convert it.*exit 0"),
        ("printf '7767517\\n1 1\\naten::odd x 0 1 in0\\n' > net.ncnn.param; touch net.ncnn.bin", "ncnn cannot open"),
        (
            "printf '7767517\\n1 1\\nTensor.odd x 0 1 in0\\n' > net.ncnn.param; touch net.ncnn.bin",
            "ncnn has no Tensor.odd",
        ),
    ],
)
def test_what_pnnx_does_not_manage_is_one_clear_error(
    script: str, message: str, tiny_onnx: Path, photos: ExportFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = tmp_path / "pnnx"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(ncnn_file, "_pnnx", lambda: program)
    with pytest.raises(ModelError, match=message):
        export_ncnn(tiny_onnx, tmp_path / "out", photos)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_trained_net_becomes_ncnn_by_the_command_line(trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = Path(shutil.copy(trained.file("fp32", "onnx"), tmp_path))
    arguments = ["export", str(source), "--format", "ncnn", "-d", str(trained.photos), "-o", str(tmp_path / "out")]
    # Two epochs make a poor net, whose pairs turn at a breath.
    assert run([*arguments, "--max-drop", "100", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["files"][0]["cosine_p1"] > 0.999
    assert load(tmp_path / "out" / "mobilefacenet.fp16.ncnn").golden_cosine() > 0.9999
    assert run([*arguments, "--max-drop", "-101"]) == 1
    assert run(["export", str(trained.run), "--format", "ncnn", "-d", str(trained.photos)]) == 2
    assert "made of fp32 ONNX files" in capsys.readouterr().err
