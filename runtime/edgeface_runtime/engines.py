"""Opens a model file in onnxruntime, LiteRT or ncnn; each engine is imported only when it is needed."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import platform
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import path_of, require_regular, whole
from edgeface_runtime.contract import Contract
from edgeface_runtime.errors import ModelError, UsageError
from edgeface_runtime.metadata import KEY, file_format, other_kind, tar_members

_USEARCH = (2, 26, 2)
"""From here on it must not be loaded before onnxruntime."""
_THREADS = 1024  # engines start as many as they are told, until the system has no more
_MUTING = threading.RLock()
_OVERFLOW = Path(__file__).parent / "overflow.onnx"
"""A convolution and a product of rows, each with 16 channels of the largest int8 weight (scripts/overflow_probe.py)."""
# What ncnn narrows to 16 bits unless told not to.
_NARROW = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")


class Engine(Protocol):
    """One opened graph: numpy in, numpy out. Calls from several threads are safe."""

    name: str
    version: str
    input_shape: tuple[int | None, ...]
    """Of the first input; None where the graph takes any size."""

    def run(self, *inputs: NDArray[np.generic]) -> list[NDArray[np.float32]]:
        """All outputs of the graph, in the file's order, for its inputs in the file's order."""
        ...


def onnxruntime(module: str = "") -> ModuleType:
    """The package onnxruntime, or a module in it by its name; edgeface imports it nowhere else.

    Its telemetry is off: importing ``edgeface_runtime`` has set ``ORT_DISABLE_TELEMETRY`` (docs/privacy.md).

    Raises:
        UsageError: it is not installed, or usearch was imported before it.
    """
    usearch = sys.modules.get("usearch")
    if usearch and "onnxruntime" not in sys.modules and _numbers(usearch) >= _USEARCH:
        raise UsageError(
            "usearch was imported before onnxruntime, and the two work in the other order only: "
            "import edgeface_runtime and onnxruntime before usearch"
        )
    return _import(f"onnxruntime.{module}".rstrip("."), "onnxruntime")


def onnx_options(threads: int, *, exact: bool = True) -> Any:
    """onnxruntime's options of a session on the CPU, as all sessions here have them.

    Not ``exact``: with its fastest int8 kernels, right or wrong (``int8_overflows``).
    """
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    if exact and int8_overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@functools.cache
def int8_overflows() -> bool:
    """Whether onnxruntime's fastest int8 kernels give wrong sums on this processor, asked of onnxruntime itself.

    x86 without VNNI adds two products of int8 in 16 bits, which overflow: embeddings come out at a mean cosine of 0.986
    to what they should be. The exact kernels take twice the time of VNNI's, which onnxruntime would give up for them.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    ort = onnxruntime()
    session = ort.InferenceSession(
        _OVERFLOW.read_bytes(), onnx_options(1, exact=False), providers=["CPUExecutionProvider"]
    )
    full = {item.name: np.full(item.shape, 255, np.uint8) for item in session.get_inputs()}
    convolved, multiplied = session.run(None, full)
    return bool((convolved != 200).any() or (multiplied != 16 * 255 * 127).any())


class OnnxEngine:
    """onnxruntime on the CPU."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        ort = onnxruntime()
        self.version: str = ort.__version__
        # By its path: of weights that lie beside the file, bytes alone would be looked up in the working directory.
        self._session = ort.InferenceSession(str(path), onnx_options(threads), providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        self._names = [item.name for item in inputs]
        self.input_shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)

    def run(self, *inputs: NDArray[np.generic]) -> list[NDArray[np.float32]]:
        """Runs the graph once; onnxruntime itself allows calls from several threads."""
        if len(inputs) != len(self._names):
            raise ValueError(_too_few(self._names))
        outputs: list[NDArray[np.float32]] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs


class TfliteEngine:
    """LiteRT (ai-edge-litert), or tflite-runtime where that is what there is: the same interface."""

    name = "litert"

    def __init__(self, path: Path, threads: int) -> None:
        litert, self.version = _tflite_module()
        with muted_stderr():
            self._interpreter = litert.Interpreter(model_content=path.read_bytes(), num_threads=threads)
            self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self._lock = threading.Lock()
        self._shapes: list[tuple[int, ...]] = []
        signature = self._interpreter.get_input_details()[0]["shape_signature"]
        self.input_shape = tuple(None if side < 0 else int(side) for side in signature)

    def run(self, *inputs: NDArray[np.generic]) -> list[NDArray[np.float32]]:
        """Runs the graph once under a lock: an interpreter holds one set of tensors.

        Integers with a scale are numbers: what goes in is turned into them, what comes out back.
        """
        if len(inputs) != len(self._inputs):
            raise ValueError(_too_few([item["name"] for item in self._inputs]))
        with self._lock:
            if None in self.input_shape:
                self._resize(inputs)
            for item, value in zip(self._inputs, inputs, strict=True):
                self._interpreter.set_tensor(item["index"], _quantized(value, item))
            self._interpreter.invoke()
            return [_real(self._interpreter.get_tensor(item["index"]), item) for item in self._outputs]

    def _resize(self, inputs: tuple[NDArray[np.generic], ...]) -> None:
        shapes = [value.shape for value in inputs]
        if shapes == self._shapes:
            return
        for item, shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(item["index"], shape)
        self._shapes = []
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _too_few(names: list[str]) -> str:
    return (
        f"it takes {len(names)} inputs ({', '.join(names)}), where an embedder takes the faces alone; make the others "
        "constants where it is exported"
    )


def _quantized(value: NDArray[np.generic], item: dict[str, Any]) -> NDArray[np.generic]:
    """Float numbers as a TFLite input's own integers, where those are what it takes."""
    scale, zero = item["quantization"]
    if not scale or value.dtype != np.float32 or not np.issubdtype(item["dtype"], np.integer):
        return value
    ends, numbers = np.iinfo(item["dtype"]), np.round(np.asarray(value, np.float32) / np.float32(scale)) + zero
    return np.asarray(np.clip(numbers, ends.min, ends.max), item["dtype"])


def _real(value: NDArray[np.float32], item: dict[str, Any]) -> NDArray[np.float32]:
    """A TFLite output's integers as the numbers that they stand for."""
    scale, zero = item["quantization"]
    if not scale or not np.issubdtype(value.dtype, np.integer):
        return value
    return np.asarray((value.astype(np.float32) - zero) * np.float32(scale), np.float32)


class NcnnEngine:
    """ncnn on the CPU, of a tar archive with ``model.param``, ``model.bin`` and the contract; one image a run."""

    name = "ncnn"

    def __init__(self, path: Path, threads: int) -> None:
        ncnn = _import("ncnn", "'edgeface[ncnn]'")
        self.version: str = ncnn.__version__
        members = tar_members(path.read_bytes())
        contract = Contract.from_json(members[f"{KEY}.json"].decode())
        size, is_planar = contract.input.size, contract.input.layout == "NCHW"
        self.input_shape: tuple[int | None, ...] = (1, 3, size, size) if is_planar else (1, size, size, 3)
        self._mat, self._net = ncnn.Mat, ncnn.Net()
        self._net.opt.num_threads = threads
        if contract.precision == "fp32":
            for option in _NARROW:
                setattr(self._net.opt, option, False)
        with muted_stderr():
            if self._net.load_param_mem(members["model.param"].decode()):
                raise ValueError("its model.param is of an operator or a version that this ncnn does not know")
            self._bin = members["model.bin"]  # ncnn reads from it for as long as the net lives
            self._net.load_model_mem(self._bin)
        self._ends = self._net.input_names()[0], self._net.output_names()[0]

    def run(self, *inputs: NDArray[np.generic]) -> list[NDArray[np.float32]]:
        """Runs the graph once, as float32; each call has an extractor of its own, so threads may share the net."""
        image = np.ascontiguousarray(inputs[0][0], np.float32)
        extractor = self._net.create_extractor()
        extractor.input(self._ends[0], self._mat(image).clone())
        status, output = extractor.extract(self._ends[1])
        if status:
            raise RuntimeError(f"ncnn answered {status}")
        return [output.numpy().reshape(1, -1).copy()]


def open_engine(path: str | Path, *, threads: int = 1) -> Engine:
    """Opens an ONNX, TFLite or ncnn file, told apart by its bytes.

    Args:
        path: the model file.
        threads: how many threads one call may use, 1 to 1,024.

    Raises:
        UsageError: ``threads`` is out of these bounds, or the engine is not installed.
        ModelError: the engine does not take the file.
    """
    threads, path = whole("threads", threads, most=_THREADS), path_of("the model file", path)
    try:
        require_regular(path)
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    engine = _ENGINES.get(file_format(head))
    if engine is None:
        raise ModelError(f"{path}: an ensemble of models, which no engine opens as one; edgeface_runtime.load does")
    try:
        return engine(path, threads)
    except UsageError:
        raise
    except Exception as error:  # each engine raises types of its own for a bad file
        if other := other_kind(path, head):
            raise ModelError(f"{path}: {other}") from error
        raise ModelError(f"{path}: {engine.name} cannot open it: {_told(error)}") from error


_ENGINES: dict[str, type[OnnxEngine | TfliteEngine | NcnnEngine]] = {
    "onnx": OnnxEngine,
    "tflite": TfliteEngine,
    "ncnn": NcnnEngine,
}


def is_installed(path: str | Path) -> bool:
    """True where the engine for a file of that name's ending can be imported."""
    modules = ("ai_edge_litert", "tflite_runtime") if Path(path).suffix == ".tflite" else ("onnxruntime",)
    return any(importlib.util.find_spec(module) is not None for module in modules)


def _told(error: Exception) -> str:
    missing = re.search(r'External data path does not exist: "(.*?)"', str(error))
    return f"its weights are in another file, which is absent: {missing[1]}" if missing else first_line(error)


def first_line(error: Exception) -> str:
    """What an engine said, shortened to a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Silences what native code writes to stderr (LiteRT announces its delegate at every start)."""
    with _MUTING, contextlib.ExitStack() as stack:
        try:
            saved = os.dup(2)
        except OSError:  # stderr is closed: nothing to silence
            yield
            return
        stack.callback(os.close, saved)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        os.close(sink)
        stack.callback(os.dup2, saved, 2)
        yield


def _import(module: str, distribution: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} cannot be imported ({error}); pip install {distribution}") from error


def _numbers(module: ModuleType) -> tuple[int, ...]:
    """Of its version; above all others where it states none."""
    found = re.findall(r"\d+", getattr(module, "__version__", ""))
    return tuple(map(int, found)) or (sys.maxsize,)


def _tflite_module() -> tuple[ModuleType, str]:
    try:
        module = importlib.import_module("ai_edge_litert.interpreter")
        version = getattr(importlib.import_module("ai_edge_litert"), "__version__", "")
        return module, version or _installed("ai-edge-litert")
    except ImportError:
        module = _import("tflite_runtime.interpreter", "ai-edge-litert")
        # Built against numpy 1: under numpy 2 it imports and then dies at the first interpreter.
        if int(np.__version__.split(".")[0]) >= 2:
            raise UsageError(
                "tflite-runtime needs numpy below 2; install ai-edge-litert, or: pip install 'numpy<2'"
            ) from None
        return module, _installed("tflite-runtime")


def _installed(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
