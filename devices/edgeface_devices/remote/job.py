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
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeface_devices.bench.answers import embed_here, faces_for
from edgeface_devices.bench.interleaved import bench, local_device
from edgeface_devices.bench.process import Worker
from edgeface_devices.boards.health import BoardState, Conditions, Repetition, read_state, throttling
from edgeface_devices.emulate.counts import ways
from edgeface_devices.emulate.userland import COUNTS, MARKER
from edgeface_devices.measurement import of_file
from edgeface_devices.results import Results
from edgeface_devices.way import PhotoWay, Setting
from edgeface_runtime import EdgefaceError
from edgeface_runtime.files import replacing


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
    photo: tuple[Setting, ...] = ()
    """Detectors with which the whole way from a photo to names is measured too."""


def perform(folder: Path, job: Job) -> Results:
    """Does the job and gives its results, with ``state`` and ``sustained``.

    Raises:
        EdgefaceError: a file cannot be benched.
    """
    paths = [folder / "models" / str(number) for number in range(len(job.models))]
    states = [read_state()]
    if MARKER.exists():
        core = os.environ.get("EDGEFACE_EMULATED", "arm64")
        device = replace(local_device(), name=f"emulated {core}, no board", source="emulated")
        # No durations: under emulation they would mean nothing.
        files = [of_file(path, threads=job.threads, source="emulated") for path in paths]
        rows = [replace(file, photo=_counted(file.path, job)) for file in files]
        results = Results(device=device, rows=tuple(rows))
    else:
        results = _measure(folder, paths, job, states)
    faces = np.load(folder / "faces.npy", mmap_mode="r") if job.has_faces else None
    rows = []
    for number, row in enumerate(results.rows):
        _say(folder, f"embedding with file {number + 1} of {len(paths)}")
        assert row.contract is not None
        embeddings, version = embed_here(row.path, faces_for(row.contract.input.size, faces), threads=job.threads)
        np.save(folder / f"embeddings-{number}.npy", embeddings)
        rows.append(replace(row, engine_version=version))
    conditions = Conditions(before=states[0], after=states[-1], throttled=tuple(throttling(states)))
    return replace(results, rows=tuple(rows), state=conditions)


def _counted(path: Path, job: Job) -> tuple[PhotoWay, ...]:
    """Instructions of the whole way, where the emulator counts them."""
    if not job.photo:
        return ()
    lines = COUNTS.read_text if os.environ.get("QEMU_PLUGIN") else str
    with closing(Worker(path, threads=job.threads)) as worker:
        return tuple(ways(worker, job.photo, lines))


def _measure(folder: Path, paths: Sequence[Path], job: Job, states: list[BoardState]) -> Results:
    """The last repetition, with what shows drift of each; a state is added to ``states`` at every round."""
    started, repetitions = time.monotonic(), list[Repetition]()

    def watched(rounds: Sequence[list[int]]) -> Iterator[list[int]]:
        for number, order in enumerate(rounds, 1):
            minutes = f", minute {_minutes(started):.0f} of {job.sustained_min:g}" if job.sustained_min else ""
            _say(folder, f"timing, round {number} of {len(rounds)}{minutes}")
            yield order
            states.append(read_state())

    while True:
        results = bench(paths, threads=job.threads, calls=job.calls, photo=job.photo, progress=watched)
        medians = tuple(round(row.median_ms, 4) for row in results.rows)
        minutes = round(_minutes(started), 2)
        repetitions.append(Repetition(minutes=minutes, medians_ms=medians, state=states[-1]))
        if _minutes(started) >= job.sustained_min:
            return replace(results, sustained=tuple(repetitions) if job.sustained_min else ())


def _minutes(started: float) -> float:
    return (time.monotonic() - started) / 60


def _say(folder: Path, text: str) -> None:
    with (folder / "progress").open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def main() -> None:
    """Performs the job in the folder named on the command line."""
    folder = Path(sys.argv[1])
    entries = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    photo = tuple(Setting(**setting) for setting in entries["photo"])
    job = Job(**entries | {"models": tuple(entries["models"]), "photo": photo})
    try:
        document = perform(folder, job).to_json()
    except EdgefaceError as error:
        text = str(error)
        for number, name in enumerate(job.models):
            text = text.replace(str(folder / "models" / str(number)), name)
        document = {"error": text}
    with replacing(folder / "result.json") as part:
        part.write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main()
