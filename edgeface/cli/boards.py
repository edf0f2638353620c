"""Where ``edgeface bench`` gets its rows from, and how it prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeface.cli.console import ERR, OUT, bar, note, print_table

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData
    from edgeface_devices.bench.limits import Limits
    from edgeface_devices.results import Results
    from edgeface_devices.verdicts import Verdict

HERE = "here"


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
    emulate: bool
    ssh: Ssh | None


def results_of(request: Request, board: str) -> Results:
    """Rows of one board, or of this machine."""
    if request.ssh is not None:
        return _over_ssh(request, request.ssh, board)
    if board == HERE:
        return _measured(request)
    return _emulated(request, board) if request.emulate else _estimated(request, board)


def _measured(request: Request) -> Results:
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
            progress=progress,
        )
    except DoesNotFitError as answer:
        note(f"edgeface: {answer}")
        raise typer.Exit(1) from answer
    if results.is_disturbed:
        note("other programs kept the processor busy: trust processor times (cpu p50, in --json), or measure again")
    return results


def _estimated(request: Request, device: str) -> Results:
    from edgeface_devices.boards.profiles import find_profile
    from edgeface_devices.estimate.anchors import load_anchors
    from edgeface_devices.estimate.latency import outlook

    board = find_profile(device)
    threads = board.threads if request.threads is None else request.threads
    return outlook(request.files, board, threads=threads, measured=load_anchors())


def _emulated(request: Request, device: str) -> Results:
    from edgeface.evaluation.benchmark import score
    from edgeface_devices.boards.profiles import find_profile
    from edgeface_devices.emulate.core import emulate
    from edgeface_devices.estimate.anchors import load_anchors

    results = emulate(
        request.files,
        find_profile(device),
        faces=None if request.faces is None else request.faces.faces,
        measured=load_anchors(),
        progress=lambda chunks, name: bar(ERR, chunks, f"emulating {name}"),
    )
    return results if request.faces is None else score(results, request.faces)


def _over_ssh(request: Request, ssh: Ssh, device: str) -> Results:
    """Measured by ssh; what a known board measured is kept for later estimates."""
    from edgeface.evaluation.benchmark import score
    from edgeface_devices.boards.profiles import find_profile
    from edgeface_devices.estimate.anchors import anchor_file, keep
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
            allow_throttled=ssh.allow_throttled,
            options=ssh.options,
            python=ssh.python,
        )
    kept = keep(results, [costs_of(read_contract(path), path.stat().st_size) for path in request.files])
    if kept:
        note(f"{len(kept)} measured rows are kept for estimates in {anchor_file()}")
    return results if request.faces is None else score(results, request.faces)


def print_results(results: Sequence[Results], verdict: Verdict) -> None:
    """One machine's own table, or all machines in one; then what else was asked for."""
    from edgeface_devices.verdicts import change_table

    if len(results) == 1:
        _print_one(results[0])
    else:
        _print_all(verdict)
    if verdict.changes:
        title = "against the earlier run; noise: how far the rounds of both runs move"
        print_table(title, *change_table(verdict.changes))
        for line in dict.fromkeys(line for change in verdict.changes for line in change.notes):
            note(line)
    for choice in verdict.choices:
        OUT.print(choice.line, soft_wrap=True)


def _print_all(verdict: Verdict) -> None:
    from edgeface_devices import tables
    from edgeface_devices.measurement import names

    named = names(verdict.rows)
    for name, rows in tables.by_board(verdict.rows).items():
        title = f"{name} (times in ms, peak and size in MB, accuracy in %)"
        print_table(title, *tables.board_table(rows, named))
    print_table("", ["rests on"], [[f"{which}: {text}"] for which, text in tables.origins(verdict.rows)])


def _print_one(results: Results) -> None:
    from edgeface_devices import tables
    from edgeface_devices.measurement import names

    device, rows = results.device, results.rows
    if device.source == "estimated":
        title = f"{device.name} at {device.clock_mhz} MHz, threads: {rows[0].threads}: estimated, not measured"
        print_table(title, *tables.estimate_table(rows))
        print_table("", *tables.grounds_table(rows))
    elif device.source == "emulated":
        title = f"{device.name} (instructions of a call in millions, never times; top-1 in %)"
        print_table(title, *tables.emulated_table(rows))
        named = names(rows)
        estimates = [[f"{named[row.path]}: {row.note}"] for row in rows if row.estimate]
        if estimates:
            print_table("", ["estimated, neither measured nor emulated"], estimates)
    elif results.state is None:
        conditions = f"{device.name}, threads: {rows[0].threads}, calls: {rows[0].calls}"
        print_table(f"{conditions} (times in ms, peak and size in MB, top-1 in %)", *tables.measured_table(rows))
        if results.ratios:
            title = "median time and size, the first file's divided by the second's"
            print_table(title, *tables.ratio_table(results))
    else:
        print_table(f"{device.name} (times in ms, peak in MB; top-1 in %)", *tables.remote_table(rows))
        print_table("", *tables.conditions_table(results.state))
        if results.sustained:
            print_table("median ms of each repetition", *tables.sustained_table(results))
