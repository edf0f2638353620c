"""One model file in a process of its own, driven by JSON lines over stdin and stdout.

Run as ``python -m edgeface_devices.worker``; ``edgeface_devices.process`` is the other end. One
request a line:

- ``{"op": "load", "path", "threads"}`` → ``engine``, ``engine_version`` and three durations:
  ``import_ms`` (numpy, edgeface_runtime and the engine's package), ``load_ms`` (the file read, its
  digest checked, the engine's session built) and ``first_ms`` (the first face, where engines pack
  weights);
- ``{"op": "time", "calls"}`` → ``wall_ms`` and ``cpu_ms`` (all threads of the process), one
  duration a call. A call is ``Model.embed`` of one face: from uint8 pixels to a unit embedding;
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
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeface_runtime import Model

# numpy, edgeface_runtime and the engines are imported in ``_load`` and later, where their cost is timed.
_PACKAGES = {"onnx": ["onnxruntime"], "tflite": ["ai_edge_litert.interpreter", "tflite_runtime.interpreter"]}


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
            model, answer = _load(Path(request["path"]), request["threads"])
        else:
            assert model is not None, "load comes first"
            answer = _answer(model, request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    from edgeface_runtime import EdgefaceError

    try:
        return _OPERATIONS[request["op"]](model, request)
    except EdgefaceError as error:
        return {"error": str(error)}


def _load(path: Path, threads: int) -> tuple[Model | None, dict[str, Any]]:
    marks = [time.perf_counter_ns()]
    from edgeface_runtime import EdgefaceError, load
    from edgeface_runtime.golden import probe_images
    from edgeface_runtime.metadata import file_format

    with contextlib.suppress(OSError), path.open("rb") as file:
        for package in _PACKAGES[file_format(file.read(8))]:
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
    return model, {
        "engine": model.engine.name,
        "engine_version": model.engine.version,
        "import_ms": (marks[1] - marks[0]) / 1e6,
        "load_ms": (marks[2] - marks[1]) / 1e6,
        "first_ms": first_ms,
    }


def _time(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    from edgeface_devices.timing import sample
    from edgeface_runtime.golden import probe_images

    face = probe_images(model.contract.input.size)[:1]
    # Whoever ran before has taken the caches; a call to get them back is no sample of this model.
    model.embed(face)
    clocks = (time.perf_counter_ns, time.process_time_ns)
    wall_ms, cpu_ms = sample(lambda: model.embed(face), calls=request["calls"], clocks=clocks)
    return {"wall_ms": wall_ms, "cpu_ms": cpu_ms}


def _embed(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    embeddings = model.embed(np.load(request["faces"], mmap_mode="r"))
    np.save(request["output"], embeddings)
    return {"photos": len(embeddings)}


def _peak(_model: Model, _request: dict[str, Any]) -> dict[str, Any]:
    return {"peak_mb": peak_mb()}


_OPERATIONS = {"time": _time, "embed": _embed, "peak": _peak}


def main() -> None:
    """Serves stdin; whatever an engine prints on stdout goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(iter(sys.stdin.readline, ""), answers)


if __name__ == "__main__":
    main()
