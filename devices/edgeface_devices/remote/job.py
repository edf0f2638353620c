"""The board's end of ``edgeface bench --host``: one folder with a job in it, results written beside.

Run there as ``python -m edgeface_devices.remote.job FOLDER``, on its own, so that it goes on when the connection is
lost. Reads ``job.json`` and the files that it names; writes a line at a time to ``progress``, then
``embeddings-<n>.npy`` and last of all ``result.json``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeface_devices.away import embed_here, emulated_facts, faces_for
from edgeface_devices.bench.interleaved import bench, local_device
from edgeface_devices.boards.health import BoardState, read_state, throttling
from edgeface_devices.emulate.userland import MARKER
from edgeface_runtime import EdgefaceError, read_contract


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to do with which files."""

    models: tuple[str, ...]
    """Names as the user gave them; the n-th file lies under ``models/<n>``."""
    threads: int
    calls: int
    sustained_min: float
    """Minutes during which the measurement is repeated; 0: once."""
    has_faces: bool
    """``faces.npy`` is there."""


def perform(folder: Path, job: Job) -> dict[str, Any]:
    """Does the job and gives the document: as ``bench --json``, with ``state`` and ``sustained``.

    Raises:
        EdgefaceError: a file cannot be benched.
    """
    paths = [folder / "models" / str(number) for number in range(len(job.models))]
    device = local_device().__dict__
    if MARKER.exists():
        core = os.environ.get("EDGEFACE_EMULATED", "arm64")
        device |= {"name": f"emulated {core}, no board", "source": "emulated"}
        rows = [emulated_facts(path, threads=job.threads) for path in paths]
        document, states, sustained = {"rows": rows, "ratios": []}, [read_state()], list[dict[str, Any]]()
    else:
        document, states, sustained = _measure(folder, paths, job)
    faces = np.load(folder / "faces.npy", mmap_mode="r") if job.has_faces else None
    for number, path in enumerate(paths):
        _say(folder, f"embedding with file {number + 1} of {len(paths)}")
        embeddings, version = embed_here(path, faces_for(read_contract(path).input.size, faces), threads=job.threads)
        np.save(folder / f"embeddings-{number}.npy", embeddings)
        document["rows"][number]["engine_version"] = version
    state = {"before": states[0].as_json(), "after": states[-1].as_json(), "throttled": throttling(states)}
    return document | {"device": device, "state": state} | ({"sustained": sustained} if sustained else {})


def _measure(
    folder: Path, paths: Sequence[Path], job: Job
) -> tuple[dict[str, Any], list[BoardState], list[dict[str, Any]]]:
    """The last repetition's document, the states read at every round, and of each repetition what shows drift."""
    states, document, sustained = [read_state()], dict[str, Any](), list[dict[str, Any]]()
    started = time.monotonic()

    def watched(rounds: Sequence[list[int]]) -> Iterator[list[int]]:
        for number, order in enumerate(rounds, 1):
            minutes = f", minute {_minutes(started):.0f} of {job.sustained_min:g}" if job.sustained_min else ""
            _say(folder, f"timing, round {number} of {len(rounds)}{minutes}")
            yield order
            states.append(read_state())

    while not document or _minutes(started) < job.sustained_min:
        document = bench(paths, threads=job.threads, calls=job.calls, progress=watched).as_json()
        times = [row["p50_ms"] for row in document["rows"]]
        sustained.append({"minutes": round(_minutes(started), 2), "p50_ms": times} | states[-1].as_json())
    return document, states, sustained if job.sustained_min else []


def _minutes(started: float) -> float:
    return (time.monotonic() - started) / 60


def _say(folder: Path, text: str) -> None:
    with (folder / "progress").open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def main() -> None:
    """Performs the job in the folder named on the command line."""
    folder = Path(sys.argv[1])
    entries = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    job = Job(**entries | {"models": tuple(entries["models"])})
    try:
        document = perform(folder, job)
    except EdgefaceError as error:
        text = str(error)
        for number, name in enumerate(job.models):
            text = text.replace(str(folder / "models" / str(number)), name)
        document = {"error": text}
    beside = folder / "result.json.part"
    beside.write_text(json.dumps(document), encoding="utf-8")
    beside.rename(folder / "result.json")


if __name__ == "__main__":
    main()
