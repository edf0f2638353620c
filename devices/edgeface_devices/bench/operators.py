"""Which operators of a model take the time, by the engine's own profiler."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_devices.bench.process import Worker
from edgeface_runtime import Model, ModelError, UsageError, read_contract
from edgeface_runtime.engines import muted_stderr, onnx_options, onnxruntime
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.model import as_input, probe_images, unit_rows

Rows = NDArray[np.float32]

_WARM_UP = 5
_NODE = "_kernel_time"
_SAME = 0.999
"""Least cosine between the profiled run and the engine's own: the profiled kernels must be those that users run."""


@dataclass(frozen=True)
class Operator:
    """One operator of the graph as the engine runs it: fused, and possibly split or renamed."""

    name: str
    kind: str
    ms: float
    """Median over the calls."""


@dataclass(frozen=True, kw_only=True)
class OperatorProfile:
    """The operators of one model on this machine, in the order of execution."""

    path: Path
    precision: str
    engine: str
    engine_version: str
    threads: int
    calls: int
    cpu_ms: float
    """Median processor time of a profiled call, all threads; profiling itself slows it."""
    operators: tuple[Operator, ...]

    @property
    def total_ms(self) -> float:
        """Of all operators together."""
        return sum(operator.ms for operator in self.operators)

    def by_kind(self) -> list[tuple[str, int, float]]:
        """(kind, number of operators, their milliseconds), the slowest kind first."""
        kinds = dict.fromkeys(operator.kind for operator in self.operators)
        its = {kind: [operator.ms for operator in self.operators if operator.kind == kind] for kind in kinds}
        return sorted(((kind, len(ms), sum(ms)) for kind, ms in its.items()), key=lambda row: -row[2])

    def slowest(self, count: int = 10) -> list[tuple[int, Operator]]:
        """(place in the order of execution from 1, operator) of those that take longest."""
        ordered = sorted(enumerate(self.operators, 1), key=lambda item: -item[1].ms)
        return ordered[:count]

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """(columns, rows) for a terminal: by kind, then the ten slowest operators."""
        kinds = [[kind, str(count), f"{ms:.3f}", self._share(ms)] for kind, count, ms in self.by_kind()]
        names = {n: f"{n}" if o.name == o.kind else f"{n} {o.name}" for n, o in self.slowest()}
        slowest = [[names[n], o.kind, f"{o.ms:.3f}", self._share(o.ms)] for n, o in self.slowest()]
        return [(["kind", "operators", "ms", "share"], kinds), (["operator", "kind", "ms", "share"], slowest)]

    def as_json(self) -> dict[str, object]:
        """The document of ``edgeface profile --json``."""
        kinds = [{"kind": kind, "operators": count, "ms": round(ms, 4)} for kind, count, ms in self.by_kind()]
        document = asdict(self) | {"path": str(self.path), "cpu_ms": round(self.cpu_ms, 4), "kinds": kinds}
        document["operators"] = [asdict(o) | {"ms": round(o.ms, 4)} for o in self.operators]
        return {"schema": 1, "source": "measured"} | document

    def _share(self, ms: float) -> str:
        return f"{100 * ms / self.total_ms:.1f} %" if self.total_ms else "–"


def profile(path: Path, *, threads: int = 1, calls: int = 50) -> OperatorProfile:
    """Profiles a model file in a process of its own.

    Args:
        path: an ONNX or TFLite file with its contract.
        threads: of one call.
        calls: profiled calls, after five to warm up.

    Raises:
        ModelError: the file cannot be opened, its process died, or the profiled run computes something else than
            the engine does.
        UsageError: a number below 1.
    """
    for name, value in {"threads": threads, "calls": calls}.items():
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    contract = read_contract(path)
    worker = Worker(path, threads=threads)
    try:
        cpu_ms, operators = worker.profile(calls)
    finally:
        worker.close()
    return OperatorProfile(
        path=path,
        precision=contract.precision,
        engine=worker.loaded.engine,
        engine_version=worker.loaded.engine_version,
        threads=threads,
        calls=calls,
        cpu_ms=cpu_ms,
        operators=tuple(Operator(*operator) for operator in operators),
    )


def profile_here(model: Model, *, threads: int, calls: int) -> tuple[float, list[Operator]]:
    """(median processor milliseconds of a call, operators) of an opened model, in this process.

    Raises:
        ModelError: the profiled run computes something else than the engine does.
        UsageError: the engine has no profiler.
    """
    profiler = {"onnxruntime": _onnxruntime, "litert": _litert}.get(model.engine.name)
    if profiler is None:
        why = "has no profiler of operators in its wheel"
        if model.contract.members:
            why = "of several models: profile each of them"
        raise UsageError(f"{model.path}: {model.engine.name} {why}")
    expected = model.engine.run(_feed(model))[0]
    cpu_ms, operators, output = profiler(model, expected, threads, calls)
    cosine = float((unit_rows(output.reshape(1, -1)) * unit_rows(expected.reshape(1, -1))).sum())
    if not cosine >= _SAME:
        raise ModelError(f"{model.path}: its profiled run computes something else (cosine {cosine:.4f})")
    return cpu_ms, operators


def _feed(model: Model) -> NDArray[np.generic]:
    spec = model.contract.input
    return as_input(probe_images(spec.size)[: model.engine.input_shape[0] or 1], spec)


def _onnxruntime(model: Model, _: Rows, threads: int, calls: int) -> tuple[float, list[Operator], Rows]:
    feed = _feed(model)
    options = onnx_options(threads)
    with temporary_folder() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "run")
        session = onnxruntime().InferenceSession(model.path.read_bytes(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        durations = []
        for _turn in range(_WARM_UP + calls):
            started = time.process_time_ns()
            output = session.run(None, {name: feed})[0]
            durations.append((time.process_time_ns() - started) / 1e6)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_NODE):
            key = event["name"].removesuffix(_NODE), event["args"]["op_name"]
            times.setdefault(key, []).append(event["dur"] / 1e3)
    operators = [Operator(name, kind, float(np.median(ms[_WARM_UP:]))) for (name, kind), ms in times.items()]
    return float(np.median(durations[_WARM_UP:])), operators, output


def _litert(model: Model, expected: Rows, threads: int, calls: int) -> tuple[float, list[Operator], Rows]:
    from edgeface_devices.bench.litert_events import Session

    feed = _feed(model)
    with muted_stderr():
        session = Session(model.path.read_bytes(), threads=threads)
        for _ in range(_WARM_UP):
            output = session.run(feed, expected.size)
        runs = [session.profile(feed, expected.size) for _ in range(calls)]
    # LiteRT gives no names; a run has its operators always in the same order.
    times = [[ms for _, ms in operators] for _, operators in runs]
    kinds = [kind for kind, _ in runs[0][1]]
    operators = [Operator(kind, kind, ms) for kind, ms in zip(kinds, np.median(times, axis=0).tolist(), strict=True)]
    return float(np.median([cpu_ms for cpu_ms, _ in runs])), operators, output
