"""Calibrators chosen by measurement, and a net made hostile to int8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgeface_export import pipeline
from edgeface_export.faces import EvaluationSet, ExportFaces
from edgeface_export.formats import STATIC_FORMATS
from edgeface_export.options import ExportOptions
from edgeface_export.quantize.ranges import METHODS
from edgeface_export.quantize.sensitivity import exclude_layers
from edgeface_export.quantize.static import Calibrated, Trial, try_methods
from edgeface_export.separation import draw_pairs
from edgeface_export.source_model import torch_source
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, load, read_contract

nn = torch.nn
LOUD = 1000


class Net(nn.Module):
    """Seven convolutions, PReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        middle = [layer for _ in range(5) for layer in (nn.Conv2d(8, 8, 1), nn.PReLU(8))]
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.PReLU(8), *middle, nn.Conv2d(8, 16, 4), nn.Flatten()
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def net(*, hostile: bool) -> Net:
    """A net of random weights; hostile: one channel scaled by 1,000 and undone in the next layer."""
    torch.manual_seed(0)
    made = Net().eval()
    if hostile:
        with torch.no_grad():
            made.layers[2].weight[0] *= LOUD
            made.layers[2].bias[0] *= LOUD
            made.layers[4].weight[:, 0] /= LOUD
    return made


def with_pairs(faces: np.ndarray, labels: np.ndarray) -> EvaluationSet:
    pairs = draw_pairs(labels)
    return EvaluationSet(faces, pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]])


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """Forty people whom even random weights tell apart, six photos each."""
    rng = np.random.default_rng(0)
    people = np.repeat(rng.integers(0, 256, (40, 16, 16, 3)), 6, axis=0)
    faces = np.clip(people + rng.normal(0, 12, people.shape), 0, 255).astype(np.uint8)
    labels, turn = np.repeat(np.arange(40), 6), np.arange(240) % 6
    spec = {"input": InputSpec(size=16), "embedding": EmbeddingSpec(length=16)}
    return {
        "contract": Contract(name="net", backbone="net", **spec),
        "folder": tmp_path / "models",
        "calibration": faces[turn == 0],
        "selection": with_pairs(faces[turn == 1], np.repeat(np.arange(20), 2)),
        "evaluation": with_pairs(faces[turn > 1], labels[turn > 1]),
        "formats": ["onnx"],
        "precisions": ["int8"],
    }


HOSTILE = {"onnx": ["/1/layers.3/times_a/Conv", "/1/layers.5/times_a/Conv"], "tflite": ["Conv2d_2", "Conv2d_4"]}


def convert_once(converter: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float file of one net is converted the first time, and copied then: conversion is what takes time."""
    convert, kept = converter.write_float, folder / "converted"

    def write(module: Any, size: int, path: Path) -> None:
        if not kept.exists():
            convert(module, size, kept)
        path.write_bytes(kept.read_bytes())

    monkeypatch.setattr(converter, "write_float", write)


def test_layers_are_searched_for_after_fine_tuning_too(job: dict[str, Any]):
    # Its float weights were moved away from the source model: that they are no better than asked says nothing of int8.
    source, tuned = net(hostile=True), net(hostile=True)
    with torch.no_grad():
        tuned.layers[-2].weight += 0.03 * torch.randn_like(tuned.layers[-2].weight)
    spec, said = job["contract"], list[str]()
    faces = ExportFaces(**{name: job[name] for name in ("calibration", "selection", "evaluation")})
    model = torch_source(tuned, spec, reference=source)
    for qat in (False, True):
        options = ExportOptions(formats=["onnx"], precisions=["int8"], qat=qat, max_drop=100, min_cosine=0.999)
        pipeline.export(model, faces, job["folder"] / str(qat), options, progress=said.append)
        assert any("searching which layers" in line for line in said) == qat


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_the_sensitive_layers_of_a_hostile_net_are_excluded(
    export_net: Callable[..., Any], kind: str, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    if kind == "tflite":
        pytest.importorskip("litert_torch")
    job["formats"] = [kind]
    convert_once(STATIC_FORMATS[kind], job["folder"].parent, monkeypatch)
    mended = export_net(net(hostile=True), **job)
    (file,) = mended.files
    assert mended.passed, mended.reason
    assert file.drop.points <= 0.15 + 0.8 / file.drop.genuine**0.5
    # It is the two layers beside the loud channel, or the one that cannot read it.
    names = [item.layer.rsplit("conv.", 1)[-1].split(";")[0] for item in file.excluded]
    assert set(names) <= set(HOSTILE[kind])
    assert HOSTILE[kind][1] in names
    assert read_contract(file.path).calibration["float_layers"] == [item.layer for item in file.excluded]
    assert file.operators["int8"] > file.operators["float"] > 2
    row = file.as_json()["float_layers"][0]
    assert set(row) == {"layer", "cosine_alone", "size_bytes", "latency_ratio"}
    assert row["latency_ratio"] > 0
    # Without layers in float the same file loses nearly everything, and does not get its name.
    monkeypatch.setattr(pipeline, "exclude_layers", lambda *_: None)
    refused = export_net(net(hostile=True), **job | {"folder": job["folder"] / "refused"})
    assert not refused.passed
    assert refused.files[0].drop.points > 20
    assert f"net.int8.{kind}: loses " in str(refused.reason)
    assert not (job["folder"] / "refused").exists()


def test_a_net_that_is_not_hostile_is_int8_throughout(export_net: Callable[..., Any], job: dict[str, Any]):
    made = export_net(net(hostile=False), **job)
    assert made.passed, made.reason
    assert made.files[0].excluded == ()
    assert made.files[0].contract.calibration["method"] == "mse"


def test_the_calibrator_is_chosen_and_recorded(export_net: Callable[..., Any], job: dict[str, Any]):
    said: list[str] = []
    made = export_net(net(hostile=False), **job, calibrator="auto", progress=said.append)
    (file,) = made.files
    assert "choosing the calibrator of net.int8.onnx" in said
    assert sorted(trial.method for trial in file.trials) == sorted(METHODS)
    assert file.contract.calibration["method"] == file.as_json()["calibrator"] == file.trials[0].method
    found = load(file.path).embed(job["selection"].faces)
    named = export_net(net(hostile=False), **job, calibrator=file.trials[0].method)
    # The chosen method by name gives the same file.
    assert named.files[0].sha256 == file.sha256
    np.testing.assert_array_equal(load(named.files[0].path).embed(job["selection"].faces), found)


def trials_by(cosines: dict[str, float], job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """What is chosen among methods that turn each embedding by a known angle."""
    rng = np.random.default_rng(1)
    faces = job["selection"].faces
    expected = rng.normal(0, 1, (len(faces), 16)).astype(np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    side = rng.normal(0, 1, expected.shape).astype(np.float32)
    side -= (side * expected).sum(axis=1, keepdims=True) * expected
    side /= np.linalg.norm(side, axis=1, keepdims=True)

    class Model:
        def __init__(self, cosine: float) -> None:
            self.cosine = cosine

        def embed(self, _: np.ndarray) -> np.ndarray:
            return self.cosine * expected + np.sqrt(1 - self.cosine**2) * side

    monkeypatch.setattr("edgeface_export.quantize.static.load", lambda path, contract: Model(cosines[path.name]))
    monkeypatch.setattr(Calibrated, "write", lambda self, path, method, keep=(): path.with_name(method))
    ready = Calibrated(None, Path("a"), {}, {}, {})
    return try_methods(ready, job["contract"], job["selection"], expected, Path("b"))


def test_the_closest_method_comes_first_where_accuracy_is_the_same(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    cosines = dict(zip(METHODS, (0.9991, 0.9992, 0.9999, 0.9993, 0.9994), strict=True))
    found = trials_by(cosines, job, monkeypatch)
    assert [trial.method for trial in found] == sorted(METHODS, key=lambda method: -cosines[method])
    for trial in found:
        assert trial.cosine_mean == pytest.approx(cosines[trial.method], abs=1e-5)


LAYERS = [f"l{number}" for number in range(9)]


@pytest.mark.parametrize("needed", [{"l3"}, {"l5", "l6"}, {"l8"}, {"l0", "l4", "l8"}])
def test_the_fewest_layers_are_excluded(needed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alone = {layer: 0.9 + 0.01 * (layer not in needed) for layer in sorted(LAYERS, key=lambda name: name not in needed)}
    kept = search(alone, needed, tmp_path, monkeypatch)
    assert kept is not None
    assert {item.layer for item in kept} == needed
    # Each costs its own length: l3 is 4 bytes long in float.
    assert {item.layer: item.size_bytes for item in kept} == {layer: int(layer[1:]) + 1 for layer in needed}


def test_a_layer_that_looks_insensitive_is_found_and_the_others_included_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alone = dict.fromkeys(LAYERS, 0.9)
    kept = search(alone, {"l4"}, tmp_path, monkeypatch)
    assert kept is not None
    assert [item.layer for item in kept] == ["l4"]


def test_more_than_half_of_the_layers_are_never_excluded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert search(dict.fromkeys(LAYERS, 0.9), {"l5"}, tmp_path, monkeypatch) is None


def search(alone: dict[str, float], needed: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``exclude_layers`` where a file fits when all ``needed`` layers are in float."""

    def write(self: Calibrated, path: Path, method: str, keep: Any = ()) -> Path:
        path.write_text("".join("x" * (int(layer[1:]) + 1) for layer in keep))
        path.with_suffix(".keep").write_text(" ".join(keep))
        return path

    monkeypatch.setattr(Calibrated, "write", write)
    monkeypatch.setattr("edgeface_export.quantize.sensitivity.load", lambda path, contract: path)
    monkeypatch.setattr("edgeface_export.quantize.sensitivity.compare_speed", lambda models: [2.0, 1.0])
    ready = Calibrated(None, folder, dict.fromkeys(alone, ()), {}, {})

    def fits(path: Path) -> bool:
        return needed <= set(path.with_suffix(".keep").read_text().split())

    return exclude_layers(ready, "mse", None, alone, fits, folder / "scratch.onnx")  # type: ignore[arg-type]
