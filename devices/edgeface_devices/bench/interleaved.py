"""Latency, load time, memory and size of model files, measured side by side."""

from __future__ import annotations

import math
import os
import platform
import random
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface_devices.bench.limits import NO_LIMITS, DoesNotFitError, Limits
from edgeface_devices.bench.process import Worker
from edgeface_devices.bench.timing import DISTURBED, Figure, Latency, Source, spread, summarise
from edgeface_runtime import Contract, ModelError, UsageError, read_contract
from edgeface_runtime.metadata import file_format

FORMAT_NAMES = {"onnx": "ONNX", "tflite": "TFLite", "ncnn": "ncnn"}
_WARM_UP = 10
"""Calls before the first one that counts: clocks rise and caches fill."""


@dataclass(frozen=True)
class Device:
    """The machine that the numbers belong to."""

    name: str
    source: Source
    cores: int
    system: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """What one model file did. None: not obtained."""

    path: Path
    contract: Contract
    format: str
    engine: str
    engine_version: str
    threads: int
    import_ms: Figure
    load_ms: Figure
    first_ms: Figure
    latency: Latency
    cpu_p50_ms: Figure
    """Median processor time of a call, all threads: what remains when other programs interrupt."""
    peak_mb: float
    size_bytes: int
    rounds_ms: tuple[float, float] | None = None
    """Between which medians the rounds moved: how far the machine itself wanders."""
    note: str = ""
    """Under which limits it ran."""
    embeddings: NDArray[np.float32] | None = None
    """(N, D) of the faces given to ``bench``."""
    top1: float | None = None
    auc: float | None = None

    @property
    def label(self) -> str:
        """Precision and format for a person: ``int8 TFLite``."""
        return f"{self.contract.precision} {FORMAT_NAMES[self.format]}"

    @property
    def source(self) -> Source:
        """Where the row's durations come from."""
        return self.latency.p50_ms.source

    def as_json(self) -> dict[str, Any]:
        """The row as in ``bench --json``."""
        latency = self.latency
        return {
            "path": str(self.path),
            "format": self.format,
            "engine": self.engine,
            "engine_version": self.engine_version,
            "precision": self.contract.precision,
            "recipe": self.contract.recipe,
            "threads": self.threads,
            "import_ms": _rounded(self.import_ms),
            "load_ms": _rounded(self.load_ms),
            "first_ms": _rounded(self.first_ms),
            "p50_ms": _rounded(latency.p50_ms),
            "p90_ms": _rounded(latency.p90_ms),
            "p99_ms": _rounded(latency.p99_ms),
            "cpu_p50_ms": _rounded(self.cpu_p50_ms),
            "interval_ms": list(latency.p50_ms.interval) if latency.p50_ms.interval else None,
            "rounds_ms": [round(end, 4) for end in self.rounds_ms] if self.rounds_ms else None,
            "calls": latency.calls,
            "peak_mb": round(self.peak_mb, 1),
            "size_bytes": self.size_bytes,
            "top1": self.top1,
            "auc": self.auc,
            "source": self.source,
            "note": self.note or None,
        }


@dataclass(frozen=True)
class Ratio:
    """One file's medians and size divided by another's of the same model."""

    a: Row
    b: Row
    p50: float
    cpu_p50: float
    """Of the processor time, which other programs' load touches less."""
    size: float

    def as_json(self) -> dict[str, Any]:
        """The ratio as in ``bench --json``."""
        numbers = {"p50": self.p50, "cpu_p50": self.cpu_p50, "size": self.size}
        return {"a": str(self.a.path), "b": str(self.b.path)} | {key: round(x, 4) for key, x in numbers.items()}


@dataclass(frozen=True)
class Bench:
    """Rows measured together on one machine, in the order the files were given."""

    device: Device
    rows: tuple[Row, ...]

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """int8 over fp32 within a format, then TFLite and ncnn over ONNX within a precision, of one trained model."""
        return tuple(_ratios(self.rows))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(columns, rows) for a terminal of 80 characters: times in ms, peak and size in MB, top-1 in %."""
        columns = ["file", "p50", "p90", "p99", "first", "load", "peak", "size", "top-1", "AUC"]
        return columns, [[self.name(row), *_cells(row)] for row in self.rows]

    def ratio_table(self) -> tuple[list[str], list[list[str]]]:
        """(columns, rows) of the ratios for a terminal."""
        columns = ["file", "against", "p50", "cpu p50", "size"]
        ratios = [(self.name(r.a), self.name(r.b), (r.p50, r.cpu_p50, r.size)) for r in self.ratios]
        return columns, [[a, b, *(f"{number:.2f}" for number in numbers)] for a, b, numbers in ratios]

    @property
    def is_disturbed(self) -> bool:
        """Other programs held the processor for so long that calls took much longer than they computed."""
        waits = [row.latency.p50_ms.value / row.cpu_p50_ms.value for row in self.rows]
        return max(waits) > DISTURBED

    def name(self, row: Row) -> str:
        """What tells a row from the others: its label, its file's name where two share one, or its whole path."""
        for of in (attrgetter("label"), attrgetter("path.name")):
            if len({of(other) for other in self.rows}) == len(self.rows):
                return str(of(row))
        return str(row.path)

    def as_json(self) -> dict[str, Any]:
        """The document of ``bench --json``, schema 1."""
        return {
            "schema": 1,
            "device": {
                "name": self.device.name,
                "source": self.device.source,
                "cores": self.device.cores,
                "system": self.device.system,
            },
            "rows": [row.as_json() for row in self.rows],
            "ratios": [ratio.as_json() for ratio in self.ratios],
        }


def bench(
    paths: Sequence[Path],
    *,
    threads: int = 1,
    limits: Limits = NO_LIMITS,
    calls: int = 200,
    rounds: int = 20,
    seed: int = 0,
    faces: NDArray[np.uint8] | None = None,
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] = iter,
) -> Bench:
    """Measures model files on this machine, each in a fresh process, all alive together.

    The calls come in ``rounds``; in each round every file is timed for a few calls, in an order that
    changes from round to round, so that a slow minute of the machine falls on all files alike.

    Args:
        paths: ONNX and TFLite files, each with its contract.
        threads: how many threads one call may use.
        limits: processors and memory of each process; the photos of ``faces`` are embedded without that of memory.
        calls: timed calls of each file, rounded up to a multiple of ``rounds``.
        rounds: into how many turns a file's calls are divided.
        seed: of the order within the rounds.
        faces: (N, S, S, 3) uint8 RGB; when given, each row keeps its embeddings of them.
        progress: wraps the sequence of rounds, as a progress bar does.

    Raises:
        DoesNotFitError: a file does not run within ``limits``.
        ModelError: a file is no model, is damaged, or its process died; names the file.
        UsageError: no file, one file twice, a number below 1, or limits that this machine cannot impose.
    """
    limits.check()
    _check(paths, threads=threads, calls=calls, rounds=rounds)
    contracts = [read_contract(path) for path in paths]
    rounds = min(rounds, calls)
    with ExitStack() as stack:
        workers: list[Worker] = []
        for path in paths:
            workers.append(_start(path, threads, limits))
            stack.callback(workers[-1].close)
        for worker in workers:
            worker.time(_WARM_UP)
        wall: list[list[float]] = [[] for _ in workers]
        cpu: list[list[float]] = [[] for _ in workers]
        for order in progress(_schedule(len(workers), rounds, seed)):
            for turn in order:
                wall_ms, cpu_ms = workers[turn].time(math.ceil(calls / rounds))
                wall[turn] += wall_ms
                cpu[turn] += cpu_ms
        # Before the embeddings: those run in batches, which take memory that one face does not.
        peaks = [worker.peak_mb() for worker in workers]
        embeddings = _embed(workers, faces) if faces is not None else [None] * len(workers)
        rows = [
            _row(
                paths[turn],
                contracts[turn],
                threads,
                workers[turn],
                wall[turn],
                cpu[turn],
                peaks[turn],
                spread(wall[turn], rounds),
                embeddings[turn],
            )
            for turn in range(len(paths))
        ]
    return Bench(local_device(), tuple(replace(row, note=limits.words) for row in rows))


def _start(path: Path, threads: int, limits: Limits) -> Worker:
    try:
        return Worker(path, threads=threads, limits=limits)
    except ModelError as error:
        if limits.memory_mb is None:
            raise
        # Engines word want of memory in many ways: it is to blame where the file runs without the limit.
        Worker(path, threads=threads).close()
        reason = f"does not fit into {limits.memory_mb} MB (--memory)"
        raise DoesNotFitError(f"{path}: {reason}; without the limit it runs") from error


def _row(
    path: Path,
    contract: Contract,
    threads: int,
    worker: Worker,
    wall_ms: list[float],
    cpu_ms: list[float],
    peak_mb: float,
    rounds_ms: tuple[float, float] | None,
    embeddings: NDArray[np.float32] | None,
) -> Row:
    loaded = worker.loaded
    return Row(
        path=path,
        contract=contract,
        format=file_format(path.read_bytes()),
        engine=loaded["engine"],
        engine_version=loaded["engine_version"],
        threads=threads,
        import_ms=Figure(loaded["import_ms"], "measured"),
        load_ms=Figure(loaded["load_ms"], "measured"),
        first_ms=Figure(loaded["first_ms"], "measured"),
        latency=summarise(wall_ms),
        cpu_p50_ms=summarise(cpu_ms).p50_ms,
        peak_mb=peak_mb,
        size_bytes=path.stat().st_size,
        rounds_ms=rounds_ms,
        embeddings=embeddings,
    )


def local_device() -> Device:
    """This machine: a board's own name where it has one, else the processor's."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return Device(_device_name(), "measured", os.cpu_count() or 1, system)


def _device_name() -> str:
    board, cpuinfo = Path("/proc/device-tree/model"), Path("/proc/cpuinfo")
    if board.exists():
        return board.read_text().strip("\0\n ")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _check(paths: Sequence[Path], **numbers: int) -> None:
    if not paths:
        raise UsageError("no model file given")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UsageError(f"{path}: given twice")
        seen.add(path.resolve())
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")


def _schedule(count: int, rounds: int, seed: int) -> list[list[int]]:
    """For each round an order of the ``count`` files."""
    generator = random.Random(seed)
    return [generator.sample(range(count), count) for _ in range(rounds)]


def _embed(workers: Sequence[Worker], faces: NDArray[np.uint8]) -> list[NDArray[np.float32] | None]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "faces.npy"
        np.save(source, faces)
        return [worker.embed(source, Path(folder) / f"{number}.npy") for number, worker in enumerate(workers)]


def _cells(row: Row) -> list[str]:
    latency = row.latency
    times = (latency.p50_ms, latency.p90_ms, latency.p99_ms, row.first_ms, row.load_ms)
    megabytes = (row.peak_mb, row.size_bytes / 1e6)
    accuracy = ("–" if row.top1 is None else f"{100 * row.top1:.1f}", "–" if row.auc is None else f"{row.auc:.4f}")
    return [*("–" if time is None else _short(time) for time in times), *map(_short, megabytes), *accuracy]


def _short(number: Figure | float) -> str:
    """Three digits are what a terminal has room for, and more than a timing is worth."""
    size = number.value if isinstance(number, Figure) else number
    return f"{number:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"


def _ratios(rows: Sequence[Row]) -> Iterator[Ratio]:
    pairs = [(a, b) for a in rows for b in rows if _model(a) == _model(b) and a is not b]
    within = [(a, b) for a, b in pairs if a.format == b.format and _is_lower(a, b)]
    across = [(a, b) for a, b in pairs if b.format == "onnx" != a.format and _same_precision(a, b)]
    for a, b in within + across:
        p50, cpu_p50 = a.latency.p50_ms.over(b.latency.p50_ms), a.cpu_p50_ms.over(b.cpu_p50_ms)
        yield Ratio(a, b, p50, cpu_p50, a.size_bytes / b.size_bytes)


def _model(row: Row) -> tuple[str | None, str]:
    return row.contract.parent_sha256, row.contract.backbone


def _is_lower(a: Row, b: Row) -> bool:
    return a.contract.precision != "fp32" and b.contract.precision == "fp32"


def _same_precision(a: Row, b: Row) -> bool:
    return a.contract.precision == b.contract.precision


def _rounded(figure: Figure | None) -> float | None:
    return None if figure is None else round(figure.value, 4)
