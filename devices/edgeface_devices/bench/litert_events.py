"""LiteRT's own operator profiler, reached through the C interface of its wheel (litert/c/litert_profiler.h).

The Python interface offers no profiler. Its shared library does: the same kernels as the interpreter's,
XNNPACK's operators one by one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import ModelError, UsageError

_CPU = 1
_READ, _WRITE = 0, 1
_OPERATOR, _DELEGATED = 2, 8
"""Event types: an operator of the interpreter, an operator inside a delegate."""
_TYPES = {1 << bit for bit in range(9)}
_TYPE_BYTES = 1024
"""Room for a LiteRtRankedTensorType, which is passed through unread."""
_TOO_OLD = "profiling needs ai-edge-litert 2.3 or another version with its profiler"


Handle = ctypes.c_void_p
Tensor = NDArray[np.generic]


class _Event(ctypes.Structure):
    """ProfiledEventData (litert/c/litert_profiler_event.h); each MemoryUsage holds three numbers."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory_before", ctypes.c_int64 * 3),
        ("memory_after", ctypes.c_int64 * 3),
        ("index", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


class Session:
    """A TFLite file compiled for the CPU with its profiler on. Nothing is freed: its process should end soon."""

    def __init__(self, data: bytes, *, threads: int) -> None:
        self._data = data  # the library reads from it for as long as the model lives
        self._library = _library()
        environment = self._made("LiteRtCreateEnvironment", 0, None)
        options = self._made("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        self._texts = [ctypes.create_string_buffer(b"num_threads = %d\n" % threads)]
        self._texts.append(ctypes.create_string_buffer(b"enable_profiling = true\n"))
        self._keep = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
        for name, text in zip((b"xnnpack", b"runtime_options_string"), self._texts, strict=True):
            option = self._made("LiteRtCreateOpaqueOptions", name, text, self._keep)
            self._call("LiteRtAddOpaqueOptions", options, option)
        model = self._made("LiteRtCreateModelFromBuffer", environment, data, ctypes.c_size_t(len(data)))
        self._compiled = self._made("LiteRtCreateCompiledModel", environment, model, options)
        main = ctypes.c_size_t()
        self._call("LiteRtGetMainModelSubgraphIndex", model, ctypes.byref(main))
        graph = self._made("LiteRtGetModelSubgraph", model, main)
        self._input, self._output = (self._buffer(environment, graph, kind) for kind in ("Input", "Output"))
        self._profiler = self._made("LiteRtCompiledModelGetProfiler", self._compiled)

    def run(self, values: Tensor, length: int) -> NDArray[np.float32]:
        """The first ``length`` floats of the first output for the first input."""
        self._copy(self._input, _WRITE, values.nbytes, values)
        buffers = [(ctypes.c_void_p * 1)(buffer) for buffer in (self._input, self._output)]
        one = ctypes.c_size_t(1)
        self._call("LiteRtRunCompiledModel", self._compiled, ctypes.c_size_t(0), one, buffers[0], one, buffers[1])
        output = np.empty(length, np.float32)
        self._copy(self._output, _READ, output.nbytes, output)
        return output

    def profile(self, values: Tensor, length: int) -> tuple[float, list[tuple[str, float]]]:
        """(processor milliseconds of one run, (operator, its milliseconds) in the order of execution)."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        started = time.process_time_ns()
        self.run(values, length)
        cpu_ms = (time.process_time_ns() - started) / 1e6
        self._call("LiteRtStopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        # Twice the room: a library whose events are larger is found out below, and does not write past the end.
        events = (_Event * (2 * count.value))()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        used = events[: count.value]
        if any(event.type not in _TYPES for event in used) or events[count.value].type:
            raise UsageError(f"{_TOO_OLD}: the events of this one cannot be read")
        operators = [event for event in used if event.type in (_OPERATOR, _DELEGATED)]
        return cpu_ms, [(event.tag.decode(), event.elapsed_us / 1e3) for event in operators]

    def _buffer(self, environment: Handle, graph: Handle, kind: str) -> Handle:
        zero = ctypes.c_size_t(0)
        tensor = self._made(f"LiteRtGetSubgraph{kind}", graph, zero)
        kind_of_tensor = ctypes.create_string_buffer(_TYPE_BYTES)
        self._call("LiteRtGetRankedTensorType", tensor, kind_of_tensor)
        needs = self._made(f"LiteRtGetCompiledModel{kind}BufferRequirements", self._compiled, zero, zero)
        return self._made("LiteRtCreateManagedTensorBufferFromRequirements", environment, kind_of_tensor, needs)

    def _copy(self, buffer: Handle, mode: int, size: int, values: Tensor) -> None:
        there = ctypes.c_size_t()
        self._call("LiteRtGetTensorBufferPackedSize", buffer, ctypes.byref(there))
        if there.value != size:
            raise ModelError(f"its tensor takes {there.value} bytes, its contract says {size}")
        address = ctypes.c_void_p()
        self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), mode)
        target, source = (address, values.ctypes.data) if mode == _WRITE else (values.ctypes.data, address)
        ctypes.memmove(target, source, size)
        self._call("LiteRtUnlockTensorBuffer", buffer)

    def _made(self, name: str, *arguments: object) -> Handle:
        handle = Handle()
        self._call(name, *arguments, ctypes.byref(handle))
        return handle

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, name, None)
        if function is None:
            raise UsageError(f"{_TOO_OLD}: this one has no {name}")
        status = function(*arguments)
        if status:
            raise ModelError(f"LiteRT cannot profile it: {name} answered {status}")


def _library() -> ctypes.CDLL:
    found = importlib.util.find_spec("ai_edge_litert")
    folder = Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None
    if folder is None or not (folder / "libLiteRt.so").exists():
        raise UsageError(f"{_TOO_OLD}; pip install ai-edge-litert")
    return ctypes.CDLL(str(folder / "libLiteRt.so"))
