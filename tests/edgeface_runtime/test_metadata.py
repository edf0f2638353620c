from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import ContractError, EdgefaceError, ModelError, load, read_contract
from edgeface_runtime.metadata import KEY, file_format, read_text


@pytest.fixture(params=["onnx", "tflite"])
def model(request: pytest.FixtureRequest, tiny_onnx: Path, tiny_tflite: Path) -> Path:
    return {"onnx": tiny_onnx, "tflite": tiny_tflite}[request.param]


def test_the_format_is_told_by_the_bytes_not_the_name(model: Path, tmp_path: Path):
    other = tmp_path / "model.bin"
    other.write_bytes(model.read_bytes())
    assert file_format(other.read_bytes()) == model.suffix[1:]
    assert read_text(other) == read_text(model)


def test_onnx_text_is_what_the_onnx_package_reads(tiny_onnx: Path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_onnx)
    onnx.checker.check_model(model, full_check=True)
    assert {prop.key: prop.value for prop in model.metadata_props} == {KEY: read_text(tiny_onnx)}


def test_onnx_text_is_found_among_other_properties(tiny_onnx: Path, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_onnx)
    text = "ünïcode " * 40_000
    onnx.helper.set_model_props(model, {"a": "b", KEY: text, "edgeface2": "no", "z": ""})
    model.doc_string = KEY
    onnx.save(model, tmp_path / "more.onnx")
    assert read_text(tmp_path / "more.onnx") == text


def test_tflite_text_is_what_the_flatbuffers_object_api_reads(tiny_tflite: Path):
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(tiny_tflite.read_bytes(), 0)
    entries = {item.name.decode(): bytes(model.buffers[item.buffer].data).decode() for item in model.metadata}
    assert entries == {KEY: read_text(tiny_tflite)}


@pytest.fixture
def behind(tiny_tflite: Path, tmp_path: Path) -> Path:
    """The contract lies behind the flatbuffer, as large files have their buffers."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(tiny_tflite.read_bytes(), 0)
    buffer = model.buffers[model.metadata[0].buffer]
    text, buffer.data = bytes(buffer.data), None
    buffer.offset, buffer.size = 2, len(text)
    for _ in range(2):  # a place that is not known yet takes as many bytes as one that is
        builder = flatbuffers.Builder(0)
        builder.Finish(model.Pack(builder), b"TFL3")
        buffer.offset = len(builder.Output())
    path = tmp_path / "behind.tflite"
    path.write_bytes(builder.Output() + text)
    return path


def test_tflite_text_behind_the_flatbuffer_is_read_as_well(behind: Path, tiny_tflite: Path):
    assert read_text(behind) == read_text(tiny_tflite)
    behind.write_bytes(behind.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not a whole"):
        read_text(behind)


def test_an_export_replaces_a_contract_behind_the_flatbuffer(behind: Path):
    tflite_file = pytest.importorskip("edgeface_export.formats.tflite_file")
    tflite_file.write_contract(behind, "another")
    assert read_text(behind) == "another"


def test_a_model_without_the_key_carries_no_contract(tiny_tflite: Path, tiny_onnx: Path, tmp_path: Path):
    for source in (tiny_onnx, tiny_tflite):
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes().replace(b"edgeface", b"somebody"))
        with pytest.raises(ContractError, match=f"{path.name}: carries no edgeface contract"):
            read_text(path)


def test_a_property_without_a_value_is_a_broken_file(tmp_path: Path):
    path = tmp_path / "half.onnx"
    entry = b"\x0a\x08edgeface"
    path.write_bytes(b"\x72" + bytes([len(entry)]) + entry)
    with pytest.raises(ModelError, match="not a whole"):
        read_text(path)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 64, b"\xff" * 64, b"PK\x03\x04" * 9, b"\x00\x00\x00\x00TFL3", b"\x10\0\0\0TFL3"]
)
def test_other_files_are_no_models(data: bytes, tmp_path: Path):
    (tmp_path / "other").write_bytes(data)
    with pytest.raises(
        ModelError, match=r"other: (the file is empty|packed: unpack it|not a whole ONNX or TFLite model)"
    ):
        read_text(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.pth", "torch.onnx.export"),
        ("net.safetensors", "torch.onnx.export"),
        ("net.h5", "TFLiteConverter"),
        ("net.keras", "TFLiteConverter"),
        ("net.pb", "tf2onnx"),
        ("net.xml", "OpenVINO"),
        ("net.bin", "ncnn or OpenVINO"),
        ("net.MNN", "MNN"),
        ("net.engine", "TensorRT"),
        ("net.rknn", "one kind of chip"),
        ("net.mlmodel", "Core ML"),
        ("net.pdmodel", "paddle2onnx"),
        ("net.params", "MXNet"),
        ("net.caffemodel", "Caffe"),
        ("buffalo_l.zip", "unpack it"),
    ],
)
def test_a_model_of_another_kind_is_named_with_what_to_do(name: str, words: str, tmp_path: Path, tiny_onnx: Path):
    path, contract = tmp_path / name, read_contract(tiny_onnx)
    path.write_bytes(b"\xff" * 600)
    for read in (read_text, lambda path: load(path, contract=contract)):
        with pytest.raises(ModelError, match=words) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    # A name may lie: what an engine opens is a model.
    path.write_bytes(tiny_onnx.read_bytes())
    assert load(path).contract == contract


@pytest.mark.parametrize(("head", "words"), [(b"\x89HDF\r\n\x1a\n", "Keras"), (b'<?xml version="1.0"?>', "OpenVINO")])
def test_a_model_of_another_kind_is_known_by_its_bytes(head: bytes, words: str, tmp_path: Path):
    (tmp_path / "net").write_bytes(head + b"\xff" * 600)
    with pytest.raises(ModelError, match=words):
        read_text(tmp_path / "net")


def test_what_is_no_file_is_said(tmp_path: Path):
    with pytest.raises(ModelError, match="none: No such file"):
        read_text(tmp_path / "none")
    with pytest.raises(ModelError, match="Is a directory"):
        read_text(tmp_path)


def test_a_file_cut_anywhere_is_a_model_error(model: Path, tmp_path: Path):
    data = model.read_bytes()
    cut = tmp_path / f"cut{model.suffix}"
    for length in {*range(0, len(data), 11), *range(len(data) - 40, len(data))}:
        cut.write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"cut\.") as caught:
            load(cut)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(3))
def test_changed_bytes_never_raise_anything_but_our_errors(seed: int, model: Path, tmp_path: Path):
    rng, data = np.random.default_rng(seed), model.read_bytes()
    changed = tmp_path / f"changed{model.suffix}"
    outcomes: set[Callable[..., object]] = set()
    for _ in range(250):
        spoilt = bytearray(data)
        for spot in rng.integers(0, len(data), rng.integers(1, 6)):
            spoilt[spot] = rng.integers(256)
        changed.write_bytes(spoilt)
        try:
            read_contract(changed)
        except EdgefaceError as error:
            outcomes.add(type(error))
        except Exception as error:
            pytest.fail(f"{os.fspath(changed)}: {error!r}")
    assert outcomes >= {ModelError, ContractError}
