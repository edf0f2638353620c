"""Files that ``edgeface bench`` runs: here, on a board's emulated core, or on a board over ssh."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeface.cli.console import ERR, bar, note

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData
    from edgeface_devices.bench.limits import Limits
    from edgeface_devices.results import Results
    from edgeface_devices.way import Setting


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """How a board is reached and measured."""

    host: str
    options: Sequence[str]
    python: str
    sustained_min: float
    allow_throttled: bool


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is measured."""

    files: list[Path]
    faces: FaceData | None
    threads: int | None
    """None: what is usual there."""
    calls: int
    limits: Limits
    photo: Sequence[Setting]
    """Detectors with which the whole way is measured too."""
    emulate: bool
    ssh: Ssh | None


def measured(request: Request) -> Results:
    """Measured on this machine."""
    from edgeface.evaluation.benchmark import measure
    from edgeface_devices.bench.limits import DoesNotFitError

    def progress(rounds: Sequence[list[int]]) -> Iterable[list[int]]:
        return bar(ERR, rounds, "timing")

    try:
        results = measure(
            request.files,
            data=request.faces,
            threads=1 if request.threads is None else request.threads,
            limits=request.limits,
            calls=request.calls,
            photo=request.photo,
            progress=progress,
        )
    except DoesNotFitError as answer:
        note(f"edgeface: {answer}")
        raise typer.Exit(1) from answer
    if results.is_disturbed:
        note("other programs kept the processor busy: trust processor times (cpu p50, in --json), or measure again")
    return results


def emulated(request: Request, device: str) -> Results:
    """Counted on a board's emulated core."""
    from edgeface.evaluation.benchmark import score
    from edgeface_devices.boards.profiles import find_profile
    from edgeface_devices.emulate.core import emulate
    from edgeface_devices.estimate.evidence import load_anchors

    results = emulate(
        request.files,
        find_profile(device),
        faces=None if request.faces is None else request.faces.faces,
        measured=load_anchors(),
        photo=request.photo,
        progress=lambda chunks, name: bar(ERR, chunks, f"emulating {name}"),
    )
    return results if request.faces is None else score(results, request.faces)


def over_ssh(request: Request, ssh: Ssh, device: str) -> Results:
    """Measured by ssh; what a known board measured is kept for later estimates."""
    from edgeface.evaluation.benchmark import score
    from edgeface_devices.boards.profiles import find_profile
    from edgeface_devices.estimate.evidence import anchor_file, keep
    from edgeface_devices.estimate.latency import costs_of
    from edgeface_devices.remote.measure import measure
    from edgeface_runtime import read_contract

    with ERR.status(ssh.host) as status:
        results = measure(
            ssh.host,
            request.files,
            say=(lambda line: status.update(line)) if ERR.is_terminal else note,
            board=None if device == "rpi" else find_profile(device),
            threads=1 if request.threads is None else request.threads,
            calls=request.calls,
            faces=None if request.faces is None else request.faces.faces,
            sustained_min=ssh.sustained_min,
            photo=request.photo,
            allow_throttled=ssh.allow_throttled,
            options=ssh.options,
            python=ssh.python,
        )
    kept = keep(results, [costs_of(read_contract(path), path.stat().st_size) for path in request.files])
    if kept:
        note(f"{len(kept)} measured rows are kept for estimates in {anchor_file()}")
    return results if request.faces is None else score(results, request.faces)
