"""``edgeface bench``."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.boards import HERE, Request, Ssh, print_results, results_of
from edgeface.cli.console import Json, note, print_json
from edgeface_runtime import UsageError, read_contract
from edgeface_runtime.shipped_models import find_model

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData
    from edgeface_devices.results import Results
    from edgeface_devices.verdicts import Verdict


def bench(
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=find_model, metavar="MODEL...", help="Files or names of `models`, compared side by side."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Photos, one folder a person: measures top-1 and AUC."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="here: measure on this machine; boards of `edgeface devices`, with commas: estimate.")
    ] = HERE,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one call; default 1, of an estimate the board profile's.")
    ] = None,
    calls: Annotated[int, typer.Option(help="Timed calls of each file.")] = 200,
    cpus: Annotated[int | None, typer.Option(help="Limit each model to this many processors.")] = None,
    memory: Annotated[
        int | None, typer.Option(help="Limit each model's process to this many MB of private memory.")
    ] = None,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Run on each board's emulated core: embeddings and instruction counts.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Measure on another machine by ssh, as in pi@192.168.1.20.")] = None,
    sustained: Annotated[
        float, typer.Option(help="With --host: repeat for so many minutes, to see how heat slows it.")
    ] = 0,
    allow_throttled: Annotated[
        bool, typer.Option("--allow-throttled", help="With --host: show the times of a throttled board.")
    ] = False,
    host_python: Annotated[str, typer.Option(help="With --host: command of the Python there.")] = "python3",
    ssh_option: Annotated[
        list[str] | None, typer.Option(help="With --host: an option for ssh -o, as in Port=2222; may repeat.")
    ] = None,
    add: Annotated[
        list[Path] | None, typer.Option(help="JSON file of an earlier --output to show beside; may repeat.")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Recommend a file per board: most ms that one face may take.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Recommend a file per board: least accuracy, 0 to 1.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="JSON file of an earlier --output to compare with.")] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help="Exit with 1 if a row meets it: FIGURE, one of > >= < <=, NUMBER; may repeat."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="HTML file to write.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
    json: Json = False,
) -> None:
    """Measure latency, memory, size and accuracy of model files.

    Each file runs in a process of its own; calls are interleaved, so background load affects every file equally.
    For a --device other than here nothing runs: times are estimated from published ones, each with its 90 % interval,
    or refused. With --host they are measured there, by ssh. With --emulate files run on the board's core under
    emulation, which gives no times.

    Figures for --fail-if: p50 p90 p99 cpu_p50 first load import cold (ms), fps, peak size (MB), top1 auc accuracy
    (0 to 1), ratio cpu_ratio (against --baseline). Exit code 1: a --fail-if is met, no file fits the budget, one does
    not fit into --memory, or there is no time at all.

    \b
    Examples:
      edgeface bench models/*.onnx models/*.tflite
      edgeface bench models/*.tflite --data photos/ --report report.html
      edgeface bench models/net.int8.tflite --threads 4 --json
      edgeface bench models/* --device here,rpi-4b,rpi-5 --budget-ms 30 --min-accuracy 0.97 --report report.html
      edgeface bench models/* --device rpi --host pi@192.168.1.20 --sustained 10
      edgeface bench models/* --device rpi-4b --emulate --data photos/
      edgeface bench models/net.int8.tflite --cpus 1 --memory 70
      edgeface bench models/* --baseline main.json --fail-if 'p90>30' --fail-if 'ratio>1.1'
    """
    from edgeface.outputs import write_text
    from edgeface_devices.bench.limits import Limits
    from edgeface_devices.results import merge, read_results
    from edgeface_devices.verdicts import judge, parse_limit

    elsewhere = emulate or host is not None
    boards = list(dict.fromkeys(("rpi" if elsewhere and device == HERE else device).split(",")))
    if host is not None and (emulate or len(boards) > 1):
        raise UsageError("--host measures one machine: no --emulate with it, and one --device")
    if HERE not in boards and (cpus is not None or memory is not None or (data and not elsewhere)):
        raise UsageError(
            "--data, --cpus and --memory are for files that run, which only this machine does: --device here,…"
        )
    conditions = [parse_limit(text) for text in fail_if or ()]
    _check_targets(report, output)
    earlier = {str(path): read_results(path) for path in add or ()}
    before = None if baseline is None else read_results(baseline)
    faces = None if data is None else _faces(files, data)
    ssh = (
        None
        if host is None
        else Ssh(
            host=host,
            options=ssh_option or (),
            python=host_python,
            sustained_min=sustained,
            allow_throttled=allow_throttled,
        )
    )
    request = Request(
        files=files,
        faces=faces,
        threads=threads,
        calls=calls,
        limits=Limits(cpus=cpus, memory_mb=memory),
        emulate=emulate,
        ssh=ssh,
    )
    results = [results_of(request, board) for board in boards]
    merged = merge(results, earlier)
    verdict = judge(merged, budget_ms=budget_ms, min_accuracy=min_accuracy, baseline=before, limits=conditions)
    document = merged.to_json() | verdict.to_json()
    if output is not None:
        write_text(output, dumps(document, indent=2) + "\n")
    if report is not None:
        _report(report, merged, verdict, faces, data, budget_ms, min_accuracy)
    if json:
        print_json(document)
    else:
        print_results([] if earlier else results, verdict)
    for line in verdict.breaches:
        note(f"failed: {line}")
    if not verdict.passed:
        raise typer.Exit(1)


def _check_targets(report: Path | None, output: Path | None) -> None:
    """Whether both can be written, before minutes of measuring."""
    from edgeface.outputs import check_target

    for target in (report, output):
        if target is not None:
            check_target(target)
    if report is not None:
        # Imported now: a missing extra is said.
        import edgeface.report.boards  # noqa: F401


def _faces(files: list[Path], data: Path) -> FaceData:
    from edgeface.data.dataset import load_data

    faces = load_data(data, size=read_contract(files[0]).input.size)
    for file, reason in faces.rejected:
        note(f"left out {file}: {reason}")
    return faces


def _report(
    path: Path,
    results: Results,
    verdict: Verdict,
    faces: FaceData | None,
    data: Path | None,
    budget_ms: float | None,
    min_accuracy: float | None,
) -> None:
    from edgeface.report.boards import write_boards
    from edgeface.report.page import PhotoCounts

    photos = PhotoCounts.of(faces, str(data)) if faces else None
    demands = [] if budget_ms is None else [f"at most {budget_ms:g} ms a face"]
    demands += [] if min_accuracy is None else [f"accuracy of at least {min_accuracy:g}"]
    write_boards(path, results, verdict, photos=photos, demands=demands)
    note(f"report: {path}")
