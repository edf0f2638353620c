"""One model file in a process of its own, driven by JSON lines over stdin and stdout.

Run as ``python -m edgeface_devices.bench.worker``; ``edgeface_devices.bench.process`` is the other end. One
request a line:

- ``{"op": "load", "path", "threads", "cpus", "memory_mb"}`` → ``engine``, ``engine_version`` and three durations:
  ``import_ms`` (numpy, edgeface_runtime and the engine's package), ``load_ms`` (the file read, its
  digest checked, the engine's session built) and ``first_ms`` (the first face, where engines pack
  weights);
- ``{"op": "time", "calls"}`` → ``wall_ms`` and ``cpu_ms`` (all threads of the process), one
  duration a call. A call is ``Model.embed`` of one face: from uint8 pixels to a unit embedding;
- ``{"op": "mark", "calls"}`` → ``{}``, after calls with marks between them for the emulator's instruction counter;
- ``{"op": "photo", "scene", "detector", "min_face", "threads", "calls"}`` → ``faces``, ``gallery``, ``wall_ms`` and
  ``cpu_ms`` of each part of the way from a photo to names (``whole.steps``), and ``peak_mb``;
- ``{"op": "photo_marks", "scene", "detector", "min_face", "threads"}`` → ``faces``, ``gallery`` and the ``parts`` that
  ran between marks;
- ``{"op": "profile", "threads", "calls"}`` → ``cpu_ms`` of a call and ``operators``, each (name, kind, ms);
- ``{"op": "peak"}`` → ``peak_mb``, the most memory the process has held so far (10⁶ bytes);
- ``{"op": "embed", "faces", "output"}`` → reads faces.npy, writes output.npy.

The answer is ``{"error": text}`` where the user can mend it. The process ends when its stdin closes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgeface_devices.bench.protocol import EngineStart

if TYPE_CHECKING:
    from edgeface_runtime import Model

Answer = dict[str, object]


# numpy, edgeface_runtime and the engines are imported in ``_load`` and later, where their cost is timed.
_FIRST_MARK = -4700
_PACKAGES = {"onnx": ["onnxruntime"], "tflite": ["ai_edge_litert.interpreter", "tflite_runtime.interpreter"]}
_PACKAGES["ncnn"] = ["ncnn"]


def peak_mb() -> float:
    """The most memory that this process has held, in 10⁶ bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its peak survives exec and would be that of the parent.
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def serve(requests: Iterator[str], answers: IO[str]) -> None:
    """Answers each request line in turn until there are no more."""
    model: Model | None = None
    for line in requests:
        request = json.loads(line)
        if request["op"] == "load":
            _confine(request.get("cpus"), request.get("memory_mb"))
            model, answer = _load(Path(request["path"]), request["threads"])
        else:
            assert model is not None, "load comes first"
            answer = _answer(model, request.pop("op"), request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(model: Model, operation: str, arguments: dict[str, object]) -> Answer:
    from edgeface_runtime import EdgefaceError

    try:
        return _OPERATIONS[operation](model, **arguments)
    except EdgefaceError as error:
        return {"error": str(error)}


def _load(path: Path, threads: int) -> tuple[Model | None, Answer]:
    marks = [time.perf_counter_ns()]
    from edgeface_runtime import EdgefaceError, load
    from edgeface_runtime.metadata import graph_formats
    from edgeface_runtime.model import probe_images

    with contextlib.suppress(OSError):
        for kind in graph_formats(path):
            for package in _PACKAGES[kind]:
                with contextlib.suppress(ImportError):
                    importlib.import_module(package)
                    break
    marks.append(time.perf_counter_ns())
    try:
        model = load(path, threads=threads)
        marks.append(time.perf_counter_ns())
        face = probe_images(model.contract.input.size)[:1]
        started = time.perf_counter_ns()
        model.embed(face)
    except EdgefaceError as error:
        return None, {"error": str(error)}
    first_ms = (time.perf_counter_ns() - started) / 1e6
    import_ms, load_ms = ((after - before) / 1e6 for before, after in pairwise(marks))
    return model, vars(EngineStart(model.engine.name, model.engine.version, import_ms, load_ms, first_ms))


def _confine(cpus: int | None, memory_mb: int | None) -> None:
    """Ties this process to processors, and limits its private memory, in 10⁶ bytes; None lifts that limit."""
    if cpus is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])
    if sys.platform == "linux":
        import resource

        # Not RLIMIT_AS, which counts code and reserved addresses too: two to three times what is ever touched.
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (most if memory_mb is None else memory_mb * 10**6, most))


def _time(model: Model, *, calls: int) -> Answer:
    from edgeface_devices.bench.timing import sample
    from edgeface_runtime.model import probe_images

    face = probe_images(model.contract.input.size)[:1]
    # Whoever ran before has taken the caches; a call to get them back is no sample of this model.
    model.embed(face)
    clocks = (time.perf_counter_ns, time.process_time_ns)
    wall_ms, cpu_ms = sample(lambda: model.embed(face), calls=calls, clocks=clocks)
    return {"wall_ms": wall_ms, "cpu_ms": cpu_ms}


def _embed(model: Model, *, faces: str, output: str) -> Answer:
    import numpy as np

    _confine(None, None)  # photos go in batches, which take memory that one face does not
    embeddings = model.embed(np.load(faces, mmap_mode="r"))
    np.save(output, embeddings)
    return {"photos": len(embeddings)}


def _mark(model: Model, *, calls: int) -> Answer:
    from edgeface_runtime.model import probe_images

    face = probe_images(model.contract.input.size)[:1]
    for number in range(calls + 1):
        if number:
            model.embed(face)
        _set_mark(number)
    return {}


def _set_mark(number: int) -> None:
    # Closing this descriptor always fails; the counter sees the call (qemu/icount.c).
    with contextlib.suppress(OSError):
        os.close(_FIRST_MARK - number)


def _photo(model: Model, *, scene: str, detector: str, min_face: float | None, threads: int, calls: int) -> Answer:
    from edgeface_devices.bench.whole import GALLERY, steps, timed

    with steps(model, scene, detector=detector, min_face=min_face, threads=threads) as (parts, faces):
        wall_ms, cpu_ms = timed(parts, calls)
        return {"faces": faces, "wall_ms": wall_ms, "cpu_ms": cpu_ms, "gallery": GALLERY, "peak_mb": peak_mb()}


def _photo_marks(model: Model, *, scene: str, detector: str, min_face: float | None, threads: int) -> Answer:
    from edgeface_devices.bench.whole import GALLERY, steps

    with steps(model, scene, detector=detector, min_face=min_face, threads=threads) as (parts, faces):
        # The parts before it have run once, to give the others their inputs; a gallery is read at its first search.
        parts["search"]()
        _set_mark(0)
        for number, part in enumerate(parts.values(), 1):
            part()
            _set_mark(number)
        return {"faces": faces, "parts": list(parts), "gallery": GALLERY}


def _profile(model: Model, *, threads: int, calls: int) -> Answer:
    from dataclasses import astuple

    from edgeface_devices.bench.operators import profile_here

    cpu_ms, operators = profile_here(model, threads=threads, calls=calls)
    return {"cpu_ms": cpu_ms, "operators": [astuple(operator) for operator in operators]}


def _peak(_model: Model) -> Answer:
    return {"peak_mb": peak_mb()}


_OPERATIONS: dict[str, Callable[..., Answer]] = {
    "time": _time,
    "mark": _mark,
    "embed": _embed,
    "photo": _photo,
    "photo_marks": _photo_marks,
    "profile": _profile,
    "peak": _peak,
}


def main() -> None:
    """Serves stdin; whatever an engine prints on stdout goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(iter(sys.stdin.readline, ""), answers)


if __name__ == "__main__":
    main()
