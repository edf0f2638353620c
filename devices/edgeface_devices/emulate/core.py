"""Model files on the emulated core of a board: their embeddings and instruction counts, never milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeface_devices.bench.answers import embed_here, faces_for
from edgeface_devices.bench.process import Worker, thread_settings
from edgeface_devices.bench.protocol import EngineStart
from edgeface_devices.boards.profiles import BoardProfile
from edgeface_devices.emulate import userland
from edgeface_devices.emulate.counts import instructions, ways
from edgeface_devices.estimate.evidence import Anchor
from edgeface_devices.estimate.latency import Estimate, device_of, estimated
from edgeface_devices.figures import Figure, Table, shown
from edgeface_devices.measurement import Embeddings, Faces, Measurement, compare_embeddings, names, of_file
from edgeface_devices.results import Results, answers
from edgeface_devices.way import PhotoWay, Setting
from edgeface_runtime import UsageError
from edgeface_runtime.files import temporary_folder

_COUNTED = 3
"""Counted calls of each file; the median counts."""
_CHUNK = 8
_CLASSES = ("total", "simd", "memory", "branch", "dot")
"""Of instructions, in a table."""

Progress = Callable[[Sequence[int], str], Iterable[int]]


def emulate(
    paths: Sequence[Path],
    board: BoardProfile,
    *,
    faces: Faces | None = None,
    measured: Sequence[Anchor] = (),
    photo: Sequence[Setting] = (),
    progress: Progress = lambda chunks, _: chunks,
) -> Results:
    """Runs model files on a board's core under emulation and on this machine, one thread, in fresh processes.

    A row has no time. Its ``estimate`` is what ``estimate`` says of the board itself with the board's recommended
    threads, from the counted instructions where the published rows carry them.

    Args:
        paths: ONNX and TFLite files, each with its contract.
        board: whose core is emulated.
        faces: (N, S, S, 3) uint8 RGB to embed; None: the four golden probe images of each file's size.
        measured: the user's own rows, which estimates rest on first.
        photo: detectors with which the whole way from a photo to names is counted too, for each drawn scene.
        progress: wraps the chunks of one file's faces under a title, as a progress bar does.

    Raises:
        ModelError: a file is no model or its process died, there or here; names it and the cause.
        UsageError: no file, or the emulator is not there.
    """
    if not paths:
        raise UsageError("no model file given")
    root, core = userland.find(), userland.core_of(board)
    files = [of_file(path, threads=1, source="emulated") for path in paths]
    python_path = userland.install(root)
    rows = []
    for file in files:
        assert file.contract is not None
        images = faces_for(file.contract.input.size, faces)
        here, version = embed_here(file.path, images, threads=1)
        with temporary_folder() as folder:
            run = _run(file.path, images, Path(folder), root, core, python_path, photo, progress)
            loaded, counts, there, found = run
        row = replace(
            file,
            engine=loaded.engine,
            engine_version=loaded.engine_version,
            instructions=counts,
            agreement=compare_embeddings(here, there, engine_version_here=version),
            embeddings=there,
            embeddings_here=here,
            photo=found,
        )
        rows.append(_with_estimate(row, board, measured))
    device = replace(device_of(board, "emulated"), name=f"{board.board} (emulated {board.core})", clock_mhz=None)
    return Results(device=device, rows=tuple(rows))


def _run(
    path: Path,
    faces: Faces,
    scratch: Path,
    root: Path,
    core: str,
    python_path: str,
    photo: Sequence[Setting],
    progress: Progress,
) -> tuple[EngineStart, dict[str, int] | None, Embeddings, tuple[PhotoWay, ...]]:
    settings = thread_settings(1) | {"PYTHONPATH": python_path}
    worker_command = ["python3", "-P", "-m", "edgeface_devices.bench.worker"]
    inner = ["env", *(f"{key}={value}" for key, value in settings.items()), *worker_command]
    mnt, count = scratch / "mnt", scratch / "count"
    mnt.mkdir()
    count.touch()
    (mnt / path.name).write_bytes(path.read_bytes())
    counter = count if userland.has_counter(root) else None
    command = userland.inside(root, core, inner, mnt=mnt, count=counter)
    there = []
    with closing(Worker(path, command=command, seen_as=f"/mnt/{path.name}")) as worker:
        worker.mark(_COUNTED)
        counted = instructions(count.read_text())
        found = tuple(ways(worker, photo, count.read_text))
        for start in progress(range(0, len(faces), _CHUNK), path.name):
            np.save(mnt / "faces.npy", faces[start : start + _CHUNK])
            there.append(worker.embed(Path("/mnt/faces.npy"), Path("/mnt/embeddings.npy"), seen_here=mnt))
    return worker.loaded, counted, np.concatenate(there), found


def _with_estimate(row: Measurement, board: BoardProfile, measured: Sequence[Anchor]) -> Measurement:
    total = row.instructions["total"] if row.instructions else None
    whole = estimated(replace(row, threads=board.threads), board, measured, instructions=total)
    said = Estimate(ms=whole.p50_ms, note=whole.note or "")
    return replace(row, estimate=whole, note=f"estimate for the board itself, {board.threads} threads: {said}")


def emulated_table(rows: Sequence[Measurement]) -> Table:
    """Files on an emulated core: instructions of a call in millions, never times."""
    named = names(rows)
    counts = [[_millions(row, key) for key in _CLASSES] for row in rows]
    columns = ["file", *_CLASSES, "top-1", "against here"]
    return columns, [[named[row.path], *cells, *answers(row)] for row, cells in zip(rows, counts, strict=True)]


def _millions(row: Measurement, key: str) -> str:
    return shown(Figure(row.instructions[key] / 1e6, "emulated")) if row.instructions else "–"
