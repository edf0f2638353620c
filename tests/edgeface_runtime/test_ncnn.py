from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import Contract, ContractError, EmbeddingSpec, InputSpec, ModelError, UsageError, load
from edgeface_runtime import engines as module
from edgeface_runtime.contract import read_contract, seal
from edgeface_runtime.integrity import inspect_file
from edgeface_runtime.metadata import file_format, tar_members, write_tar

PARAM = """7767517
5 5
Input in0 0 1 in0
Permute turn 1 1 in0 chw 0=4
Convolution conv 1 1 chw conv 0=8 1=4 11=4 12=1 13=4 14=0 2=1 3=4 4=0 5=1 6=384 9=1
Pooling pool 1 1 conv pooled 0=1 4=1
Flatten flat 1 1 pooled out0
"""
FLOAT32 = np.zeros(1, np.int32).tobytes()
Oracle = Callable[[np.ndarray], np.ndarray]


def make(path: Path, param: str = PARAM, precision: str = "fp32") -> Path:
    """The tiny net of the other formats, by hand: weights OIHW behind their tag, then the bias."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.3, (8, 4, 4, 3)).astype(np.float32)
    bias = rng.normal(0, 0.1, 8).astype(np.float32)
    contract = Contract(
        name="tiny", backbone="tiny", precision=precision, embedding=EmbeddingSpec(length=8),
        input=InputSpec(size=32, layout="NHWC", dtype="float32"),
    )  # fmt: skip
    planar = np.ascontiguousarray(weights.transpose(0, 3, 1, 2))
    members = {"model.param": param.encode(), "model.bin": FLOAT32 + planar.tobytes() + bias.tobytes()}
    write_tar(path, members | {"edgeface.json": contract.to_json().encode()})
    seal(path)
    return path


@pytest.fixture
def tiny_ncnn(tmp_path: Path) -> Path:
    pytest.importorskip("ncnn")
    return make(tmp_path / "tiny.ncnn")


@pytest.fixture
def faces() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_ncnn_computes_what_the_formula_says(
    precision: str, tolerance: float, tmp_path: Path, faces: np.ndarray, tiny_oracle: Oracle
):
    pytest.importorskip("ncnn")
    model = load(make(tmp_path / "tiny.ncnn", precision=precision))
    assert (model.engine.name, model.engine.input_shape) == ("ncnn", (1, 32, 32, 3))
    np.testing.assert_allclose(model.embed(faces), tiny_oracle(faces), atol=tolerance)


def test_threads_share_one_net(tiny_ncnn: Path, faces: np.ndarray, tiny_oracle: Oracle):
    model = load(tiny_ncnn)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(model.embed, [faces] * 8):
            np.testing.assert_allclose(found, tiny_oracle(faces), atol=1e-5)


def test_an_answer_stays_when_the_next_one_comes(tiny_ncnn: Path, faces: np.ndarray):
    engine = load(tiny_ncnn).engine
    first = engine.run(faces[:1].astype(np.float32))[0]
    kept = first.copy()
    engine.run(faces[1:2].astype(np.float32))
    np.testing.assert_array_equal(first, kept)


def test_the_contract_is_read_without_the_engine(tmp_path: Path):
    path = make(tmp_path / "tiny.onnx")  # the name may lie
    assert file_format(path.read_bytes()) == "ncnn"
    assert read_contract(path).name == "tiny"


def test_an_inspection_says_ncnn_and_finds_a_changed_byte(tiny_ncnn: Path):
    assert (inspect_file(tiny_ncnn).format, inspect_file(tiny_ncnn).intact) == ("ncnn", True)
    data = bytearray(tiny_ncnn.read_bytes())
    data[2000] ^= 1
    tiny_ncnn.write_bytes(data)
    assert not inspect_file(tiny_ncnn).intact
    with pytest.raises(ModelError, match="digest"):
        load(tiny_ncnn)


def test_members_are_those_that_tarfile_reads(tmp_path: Path):
    members = {"a": b"", "b.json": b"x" * 511, "c": b"y" * 513, "d": b"z" * 512}
    path = tmp_path / "x.tar"
    write_tar(path, members)
    assert tar_members(path.read_bytes()) == members


@pytest.mark.parametrize("end", [600, 1500, 2600])
def test_a_truncated_archive_is_one_clear_error(end: int, tmp_path: Path):
    path = make(tmp_path / "cut.ncnn")
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ModelError, match=r"cut\.ncnn: (not a whole|carries no edgeface contract)"):
        read_contract(path)


def test_an_archive_of_something_else_has_no_contract(tmp_path: Path):
    write_tar(tmp_path / "x.tar", {"readme": b"hello"})
    with pytest.raises(ContractError, match="carries no edgeface contract"):
        read_contract(tmp_path / "x.tar")


def test_a_graph_that_ncnn_does_not_know_is_one_clear_error(tmp_path: Path):
    pytest.importorskip("ncnn")
    path = make(tmp_path / "odd.ncnn", PARAM.replace("Pooling", "Ponding"))
    with pytest.raises(ModelError, match=r"odd\.ncnn: ncnn cannot open it"):
        load(path)


def test_without_ncnn_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(UsageError, match=r"pip install 'edgeface\[ncnn\]'"):
        load(make(tmp_path / "tiny.ncnn"))


def test_ncnn_is_imported_only_for_its_files(tiny_onnx: Path):
    code = f"import sys, edgeface_runtime as e; e.load({str(tiny_onnx)!r}); print('ncnn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_format_has_its_engine():
    assert {name: engine.name for name, engine in module._ENGINES.items()} == {
        "onnx": "onnxruntime",
        "tflite": "litert",
        "ncnn": "ncnn",
    }
