"""Latency, load time, memory and size of model files, measured with interleaved calls."""

from __future__ import annotations

import math
import os
import platform
import random
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from edgeface_devices.bench.limits import NO_LIMITS, DoesNotFitError, Limits
from edgeface_devices.bench.process import Worker
from edgeface_devices.bench.protocol import PhotoTimes
from edgeface_devices.bench.scenes import SCENES
from edgeface_devices.bench.timing import spread, summarise
from edgeface_devices.figures import Figure
from edgeface_devices.measurement import Embeddings, Faces, Measurement, of_file
from edgeface_devices.results import Device, Results, ratios
from edgeface_devices.way import PARTS, WHOLE, Part, PhotoWay, Setting
from edgeface_runtime import ModelError, UsageError
from edgeface_runtime.files import temporary_folder

_WARM_UP = 10
"""Calls before the first one that counts: clocks rise and caches fill."""
_PHOTO_CALLS, _PHOTO_ROUNDS = 30, 3
"""Timed calls of each part of the whole way, at most, and in how many rounds the files take turns."""


def bench(
    paths: Sequence[Path],
    *,
    threads: int = 1,
    limits: Limits = NO_LIMITS,
    calls: int = 200,
    rounds: int = 20,
    seed: int = 0,
    faces: Faces | None = None,
    photo: Sequence[Setting] = (),
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] = iter,
) -> Results:
    """Measures model files on this machine, each in a fresh process, with interleaved calls.

    The calls come in ``rounds``; in each round every file is timed for a few calls, in an order that changes from
    round to round, so that background load affects every file equally.

    Args:
        paths: ONNX and TFLite files, each with its contract.
        threads: how many threads one call may use.
        limits: processors and memory of each process; the photos of ``faces`` are embedded without that of memory.
        calls: timed calls of each file, rounded up to a multiple of ``rounds``.
        rounds: into how many parts a file's calls are divided.
        seed: of the order within the rounds.
        faces: (N, S, S, 3) uint8 RGB; when given, each row keeps its embeddings of them.
        photo: detectors with which the whole way from a photo to names is measured too, for each drawn scene.
        progress: wraps the sequence of rounds, as a progress bar does.

    Raises:
        DoesNotFitError: a file does not run within ``limits``.
        ModelError: a file is no model, is damaged, or its process died; names the file.
        UsageError: no file, one file twice, a number below 1, or limits that this machine cannot impose.
    """
    limits.check()
    _check(paths, threads=threads, calls=calls, rounds=rounds)
    rows = [of_file(path, threads=threads, source="measured") for path in paths]
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
        rows = [_filled(*each, rounds, limits) for each in zip(rows, workers, wall, cpu, strict=True)]
        if photo:
            ways = _ways(workers, photo, min(calls, _PHOTO_CALLS))
            rows = [replace(row, photo=tuple(its)) for row, its in zip(rows, ways, strict=True)]
        if faces is not None:
            embedded = zip(rows, _embed(workers, faces), strict=True)
            rows = [replace(row, embeddings=embeddings) for row, embeddings in embedded]
    return Results(device=local_device(), rows=tuple(rows), ratios=ratios(rows))


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


def _filled(
    row: Measurement, worker: Worker, wall_ms: Sequence[float], cpu_ms: Sequence[float], rounds: int, limits: Limits
) -> Measurement:
    latency, loaded = summarise(wall_ms), worker.loaded
    return replace(
        row,
        engine=loaded.engine,
        engine_version=loaded.engine_version,
        import_ms=Figure(loaded.import_ms, "measured"),
        load_ms=Figure(loaded.load_ms, "measured"),
        first_ms=Figure(loaded.first_ms, "measured"),
        p50_ms=latency.p50_ms,
        p90_ms=latency.p90_ms,
        p99_ms=latency.p99_ms,
        cpu_p50_ms=summarise(cpu_ms).p50_ms,
        rounds_ms=spread(wall_ms, rounds),
        cpu_rounds_ms=spread(cpu_ms, rounds),
        calls=latency.calls,
        peak_mb=round(worker.peak_mb(), 1),
        note=limits.words or None,
    )


def _ways(workers: Sequence[Worker], settings: Sequence[Setting], calls: int) -> list[list[PhotoWay]]:
    """For each file the ways of all settings and scenes; the files take turns."""
    found: list[list[PhotoWay]] = [[] for _ in workers]
    for setting, scene in product(settings, SCENES):
        answers = [
            [worker.photo(scene, setting, math.ceil(calls / _PHOTO_ROUNDS)) for worker in workers]
            for _ in range(_PHOTO_ROUNDS)
        ]
        for ways, its in zip(found, zip(*answers, strict=True), strict=True):
            ways.append(_way(scene, setting, its))
    return found


def _way(scene: str, setting: Setting, answers: Sequence[PhotoTimes]) -> PhotoWay:
    last, parts = answers[-1], {}
    for name in last.wall_ms:
        wall = summarise([ms for answer in answers for ms in answer.wall_ms[name]])
        cpu = summarise([ms for answer in answers for ms in answer.cpu_ms[name]])
        parts[name] = Part(p50_ms=wall.p50_ms, p90_ms=wall.p90_ms, cpu_p50_ms=cpu.p50_ms)
    sums = np.sum([[ms for answer in answers for ms in answer.cpu_ms[name]] for name in PARTS], axis=0)
    wholes = np.array([ms for answer in answers for ms in answer.cpu_ms[WHOLE]])
    return PhotoWay(
        scene=scene,
        faces=last.faces,
        setting=setting,
        gallery=last.gallery,
        source="measured",
        parts=parts,
        peak_mb=round(last.peak_mb, 1),
        parts_over_whole=round(float(np.median(sums / wholes)), 4),
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


def _embed(workers: Sequence[Worker], faces: Faces) -> list[Embeddings]:
    with temporary_folder() as folder:
        source = Path(folder) / "faces.npy"
        np.save(source, faces)
        return [worker.embed(source, Path(folder) / f"{number}.npy") for number, worker in enumerate(workers)]
