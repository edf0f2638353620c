"""Model files on the core of a board under emulation: their answers and instruction counts, never milliseconds."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgeface_devices.away import Away, AwayRow, Embeddings, Faces, embed_here, emulated_facts, faces_for
from edgeface_devices.bench.process import Worker, thread_settings
from edgeface_devices.boards.profiles import BoardProfile
from edgeface_devices.emulate import userland as emulator
from edgeface_devices.estimate.anchors import Anchor
from edgeface_devices.estimate.latency import estimate, net_of
from edgeface_devices.estimate.published import Net
from edgeface_runtime import UsageError, read_contract

_COUNTED = 3
"""Counted calls of each file; the median is told."""
_CHUNK = 8

Progress = Callable[[Sequence[int], str], Iterable[int]]


def emulate(
    paths: Sequence[Path],
    board: BoardProfile,
    *,
    faces: Faces | None = None,
    measured: Sequence[Anchor] = (),
    progress: Progress = lambda chunks, _: chunks,
) -> Away:
    """Runs model files on a board's core under emulation and on this machine, one thread, in fresh processes.

    A row has no time. Its ``estimate`` is what ``estimate`` says of the board itself with the board's recommended
    threads, from the counted instructions where the published rows carry them.

    Args:
        paths: ONNX and TFLite files, each with its contract.
        board: whose core is emulated.
        faces: (N, S, S, 3) uint8 RGB to embed; None: the four golden probe images of each file's size.
        measured: the user's own rows, which estimates rest on first.
        progress: wraps the chunks of one file's faces under a title, as a progress bar does.

    Raises:
        ModelError: a file is no model or its process died, there or here; names it and the cause.
        UsageError: no file, or the emulator is not there.
    """
    if not paths:
        raise UsageError("no model file given")
    root, core = emulator.find(), emulator.core_of(board)
    contracts = [read_contract(path) for path in paths]
    python_path = emulator.install(root)
    rows = []
    for path, contract in zip(paths, contracts, strict=True):
        images = faces_for(contract.input.size, faces)
        here, version = embed_here(path, images, threads=1)
        with tempfile.TemporaryDirectory() as folder:
            found, there = _run(path, images, Path(folder), root, core, python_path, progress)
        facts = emulated_facts(path, threads=1) | found
        facts |= _estimated(net_of(contract, facts["size_bytes"]), board, facts, measured)
        rows.append(AwayRow(path=path, facts=facts, here=here, there=there, here_version=version))
    device = {"name": f"{board.board} (emulated {board.core})", "source": "emulated", "cores": board.cores}
    return Away(device=device | {"system": board.system, "profile": board.name}, rows=tuple(rows))


def _run(
    path: Path, faces: Faces, scratch: Path, root: Path, core: str, python_path: str, progress: Progress
) -> tuple[dict[str, Any], Embeddings]:
    settings = thread_settings(1) | {"PYTHONPATH": python_path}
    worker_command = ["python3", "-P", "-m", "edgeface_devices.bench.worker"]
    inner = ["env", *(f"{key}={value}" for key, value in settings.items()), *worker_command]
    mnt, count = scratch / "mnt", scratch / "count"
    mnt.mkdir()
    count.touch()
    (mnt / path.name).write_bytes(path.read_bytes())
    counter = count if emulator.has_counter(root) else None
    command = emulator.inside(root, core, inner, mnt=mnt, count=counter)
    there = []
    with closing(Worker(path, command=command, seen_as=f"/mnt/{path.name}")) as worker:
        worker.mark(_COUNTED)
        for start in progress(range(0, len(faces), _CHUNK), path.name):
            np.save(mnt / "faces.npy", faces[start : start + _CHUNK])
            there.append(worker.embed(Path("/mnt/faces.npy"), Path("/mnt/embeddings.npy"), seen_here=mnt))
    loaded = {key: worker.loaded[key] for key in ("engine", "engine_version")}
    return loaded | {"instructions": instructions(count.read_text())}, np.concatenate(there)


def _estimated(net: Net, board: BoardProfile, facts: Mapping[str, Any], measured: Sequence[Anchor]) -> dict[str, Any]:
    counts, threads = facts["instructions"], board.threads
    value = estimate(
        net,
        board,
        engine=facts["engine"],
        precision=facts["precision"],
        threads=threads,
        measured=measured,
        instructions=counts and counts["total"],
    )
    note = f"estimate for the board itself, {threads} threads: {value}"
    return {"note": note, "estimate": {"threads": threads} | value.as_json()}


def instructions(lines: str) -> dict[str, int] | None:
    """Instructions of one call by class, from the counter's lines: the median of the differences of two marks.

    ``dot`` (dot products) is part of ``simd``. None without lines.
    """
    marks = [{key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)} for line in lines.splitlines()]
    if len(marks) < 2:
        return None
    pairs = list(pairwise(marks))
    return {key: int(median(after[key] - before[key] for before, after in pairs)) for key in marks[0]}
