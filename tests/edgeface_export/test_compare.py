"""``inspect --compare``: what both files compute, against the formula, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edgeface.cli import run
from edgeface_export.compare import compare_files
from edgeface_export.formats import onnx_file
from edgeface_export.quantize.static import calibrate
from edgeface_export.rewrite import embedder
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, UsageError, load
from edgeface_runtime.contract import seal
from edgeface_runtime.model import probe_images

if TYPE_CHECKING:
    from conftest import MakeModel, Trained

OPENED = (32, 4, 8)


def features(path: Path) -> NDArray[np.float64]:
    """(4, 8, 8, 8) what the tiny net's ReLU gives for the probes, by loops over its formula."""
    size, step, channels = OPENED
    weights, bias = (onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer)
    weights = weights.transpose(0, 2, 3, 1)
    maps = np.zeros((4, size // step, size // step, channels))
    for number, face in enumerate((probe_images(size) - 127.5) / 127.5):
        for y in range(0, size, step):
            for x in range(0, size, step):
                values = (weights * face[y : y + step, x : x + step]).sum(axis=(1, 2, 3)) + bias
                maps[number, y // step, x // step] = np.maximum(values, 0)
    return maps


def cosine_and_sqnr(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    pairs = [(x.ravel(), y.ravel()) for x, y in zip(a, b, strict=True)]
    cosines = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in pairs]
    return float(np.mean(cosines)), float(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_figures_are_the_formulas(kind: str, make_onnx: MakeModel, request: pytest.FixtureRequest, tmp_path: Path):
    maps = [features(make_onnx(tmp_path / f"{seed}.weights", seed=seed)) for seed in (0, 1)]
    make: MakeModel = request.getfixturevalue(f"make_{kind}")
    layers = compare_files(*(make(tmp_path / f"{seed}.{kind}", seed=seed) for seed in (0, 1)))
    expected = {"relu" if kind == "onnx" else "conv": maps, "embedding": [each.mean((1, 2)) for each in maps]}
    found = {layer.name: (layer.cosine, layer.sqnr_db) for layer in layers}
    for name, pair in expected.items():
        assert found[name] == pytest.approx(cosine_and_sqnr(*pair), rel=1e-4)
    assert layers[-1].shape == (8,)


def test_a_file_is_equal_to_itself(tiny_onnx: Path):
    layers = compare_files(tiny_onnx, tiny_onnx)
    assert [layer.name for layer in layers] == ["nchw", "conv", "relu", "pooled", "embedding"]
    assert all(layer.cosine == pytest.approx(1) and layer.sqnr_db is None for layer in layers)


def renamed(source: Path, target: Path, *, twice: bool = False) -> Path:
    """The same graph with other names inside; ``twice`` computes its last tensor once more."""
    model = onnx.load(source)
    if twice:
        model.graph.node.append(onnx.helper.make_node("Identity", ["embedding"], ["again"]))
        model.graph.output[0].name = "again"
    inner = {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"other_{name}" if name in inner else name for name in names]
    model.graph.output[0].name = f"other_{model.graph.output[0].name}"
    target.write_bytes(model.SerializeToString(deterministic=True))
    seal(target)
    return target


def test_other_names_are_matched_by_order(make_onnx: MakeModel, tmp_path: Path):
    first, second = (make_onnx(tmp_path / f"{seed}.onnx", seed=seed) for seed in (0, 1))
    by_name = compare_files(first, second)
    by_order = compare_files(first, renamed(second, tmp_path / "renamed.onnx"))
    assert by_order == by_name


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_int8_stays_near_its_parent_and_ends_where_the_engine_does(kind: str, trained: Trained):
    files = [trained.file(precision, kind) for precision in ("fp32", "int8")]
    layers = compare_files(*files)
    assert len(layers) >= 100
    assert min(layer.cosine for layer in layers) > 0.5
    parent, child = (load(file).embed(probe_images(112)) for file in files)
    assert layers[-1].shape == (128,)
    assert layers[-1].cosine == pytest.approx((parent * child).sum(axis=1).mean(), abs=2e-3)


def test_int8_values_are_those_after_the_relu_that_the_quantizer_drops(tmp_path: Path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 8), torch.nn.Flatten()
    )
    faces = probe_images(32)
    onnx_file.write_float(embedder(net, InputSpec(size=32), "affine"), 32, tmp_path / "fp32.onnx")
    calibrate(onnx_file, tmp_path / "fp32.onnx", faces, tmp_path).write(tmp_path / "int8.onnx", "minmax")
    contract = Contract(name="net", backbone="net", input=InputSpec(size=32), embedding=EmbeddingSpec(length=8))
    for path in (tmp_path / "fp32.onnx", tmp_path / "int8.onnx"):
        onnx_file.write_contract(path, contract.to_json())
        seal(path)
    assert not any(node.op_type == "Relu" for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    layers = compare_files(tmp_path / "fp32.onnx", tmp_path / "int8.onnx")
    noise = {layer.name: layer.sqnr_db for layer in layers[3:]}
    assert list(noise) == ["/0/Transpose_output_0", "/1/1.1/Relu_output_0", "/1/1.2/Conv_output_0", "embedding"]
    assert all(30 < value < 60 for value in noise.values())


def test_the_command_line(make_onnx: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = [str(make_onnx(tmp_path / f"{seed}.onnx", seed=seed)) for seed in (0, 1)]
    assert run(["inspect", "--compare", *files, "--worst", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compared"] == files
    noise = [layer["sqnr_db"] for layer in found["layers"]]
    assert noise[-1] is None
    assert noise[:-1] == sorted(noise[:-1])
    assert run(["inspect", "--compare", *files]) == 0
    assert "SQNR, dB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parent_sha256": "a" * 64}, "different models: parent None and aaa"),
        ({"backbone": "other"}, "different models: backbone tiny and other"),
    ],
)
def test_different_nets_are_named(change: dict[str, str], reason: str, make_onnx: MakeModel, tmp_path: Path):
    first, second = make_onnx(tmp_path / "a.onnx"), make_onnx(tmp_path / "b.onnx", **change)
    with pytest.raises(UsageError, match=reason):
        compare_files(first, second)


def test_nothing_in_common_is_named(tiny_onnx: Path, tmp_path: Path):
    other = renamed(tiny_onnx, tmp_path / "other.onnx", twice=True)
    with pytest.raises(UsageError, match="they have no layer in common"):
        compare_files(tiny_onnx, other)


def test_two_formats_are_named(tiny_onnx: Path, tiny_tflite: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["inspect", "--compare", str(tiny_onnx), str(tiny_tflite)]) == 2
    assert "are of two formats" in capsys.readouterr().err
