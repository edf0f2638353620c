"""``edgeface bench``."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.bench_runs import Request, Ssh, emulated, measured, over_ssh
from edgeface.cli.console import OUT, Idle, Json, TerminalReporter, note, print_json, print_table, refuse_idle
from edgeface_runtime import UsageError, read_contract
from edgeface_runtime.model import find_model

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData
    from edgeface_devices.results import Results, Verdict
    from edgeface_devices.way import Setting

HERE = "here"
CARD = ".card.md"
"""How the names of model cards end, which lie beside exported files and match models/* too."""

_IDLE: Idle = (
    ("host", False, "needs --host", ("sustained", "allow_throttled", "host_python", "ssh_option")),
    ("photo", False, "needs --photo", ("detector", "min_face")),
)


def bench(
    context: typer.Context,
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
    photo: Annotated[
        bool, typer.Option("--photo", help="Also the whole way from a photo to names: one face, six, none (drawn).")
    ] = False,
    detector: Annotated[
        list[str] | None,
        typer.Option(help="With --photo: yunet, blazeface, mtcnn; may repeat.  [default: yunet]"),
    ] = None,
    min_face: Annotated[
        list[float] | None,
        typer.Option(help="With --photo: smallest face to look for, px; may repeat.  [default: the detector's]"),
    ] = None,
    add: Annotated[
        list[Path] | None, typer.Option(help="JSON file of an earlier --output to show beside; may repeat.")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Recommend a file per board: most ms that one face (with --photo: a frame) may take."),
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Recommend a file per board: least accuracy, 0 to 1.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="JSON file of an earlier --output to compare with.")] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help="Exit with 1 if a row meets it: FIGURE, one of > >= < <=, NUMBER; may repeat."),
    ] = None,
    share: Annotated[
        Path | None, typer.Option(help="JSON file to write of what was measured, without host, account or folders.")
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
    (0 to 1), ratio cpu_ratio (against --baseline). With --photo reading, finding, aligning, embedding and searching are
    measured one by one and as one call; --budget-ms then names file, detector and frames from look to look.

    Exit code 1: a --fail-if is met, no file fits the budget, one does not fit into --memory, or nothing has a time.

    \b
    Examples:
      edgeface bench models/*.onnx models/*.tflite
      edgeface bench models/*.tflite --data photos/ --report report.html
      edgeface bench models/net.int8.tflite --threads 4 --json
      edgeface bench models/* --device here,rpi-4b,rpi-5 --budget-ms 30 --min-accuracy 0.97 --report report.html
      edgeface bench models/* --photo --detector yunet --detector blazeface --budget-ms 50
      edgeface bench models/* --device rpi --host pi@192.168.1.20 --sustained 10
      edgeface bench mobilefacenet.tflite mobilefacenet.onnx --threads 4 --photo --share my-board.json
      edgeface bench models/* --device rpi-4b --emulate --data photos/
      edgeface bench models/net.int8.tflite --cpus 1 --memory 70
      edgeface bench models/* --baseline main.json --fail-if 'p90>30' --fail-if 'ratio>1.1'
    """
    from edgeface_devices.bench.limits import Limits
    from edgeface_devices.changes import parse_limit
    from edgeface_devices.choices import check_demands
    from edgeface_devices.results import judge, merge, read_results
    from edgeface_devices.share import shareable
    from edgeface_runtime.files import write_text

    refuse_idle(context, _IDLE)
    elsewhere = emulate or host is not None
    boards = list(dict.fromkeys(("rpi" if elsewhere and device == HERE else device).split(",")))
    if host is not None and (emulate or len(boards) > 1):
        raise UsageError("--host measures one machine: no --emulate with it, and one --device")
    if HERE not in boards and (cpus is not None or memory is not None or (data and not elsewhere)):
        raise UsageError(
            "--data, --cpus and --memory are for files that run, which only this machine does: --device here,…"
        )
    files = _models(files)
    if budget_ms is not None or min_accuracy is not None:
        check_demands(budget_ms, min_accuracy)
    conditions = [parse_limit(text) for text in fail_if or ()]
    settings = _settings(photo, detector, min_face)
    _check_targets(report, output, share)
    if share is not None and (len(boards) > 1 or emulate or (HERE not in boards and host is None)):
        raise UsageError("--share is for what one machine measures: run it on the board, or with --host")
    earlier = {str(path): read_results(path) for path in add or ()}
    before = None if baseline is None else read_results(baseline)
    faces = None if data is None else _faces(files, data)
    ssh = None
    if host is not None:
        options = ssh_option or ()
        ssh = Ssh(
            host=host, options=options, python=host_python, sustained_min=sustained, allow_throttled=allow_throttled
        )
    request = Request(
        files=files,
        faces=faces,
        threads=threads,
        calls=calls,
        limits=Limits(cpus=cpus, memory_mb=memory),
        photo=settings,
        emulate=emulate,
        ssh=ssh,
    )
    results = [results_of(request, board) for board in boards]
    merged = merge(results, earlier)
    verdict = judge(merged, budget_ms=budget_ms, min_accuracy=min_accuracy, baseline=before, limits=conditions)
    document = merged.to_json() | verdict.to_json()
    if output is not None:
        write_text(output, dumps(document, indent=2) + "\n")
    if share is not None:
        write_text(share, dumps(shareable(results[0]), indent=2) + "\n")
        note(f"to send: {share}; look into it first, it is text")
    if report is not None:
        _report(report, merged, verdict, faces, data, budget_ms, min_accuracy)
    if json:
        print_json(document)
    else:
        _print([] if earlier else results, verdict)
    for line in verdict.breaches:
        note(f"failed: {line}")
    if not verdict.passed:
        raise typer.Exit(1)


def _models(files: list[Path]) -> list[Path]:
    """Without the model cards beside them."""
    found = [file for file in files if not file.name.endswith(CARD)]
    if not found:
        raise UsageError("no model file given: only the model cards that export writes beside them")
    return found


def _settings(photo: bool, detectors: Sequence[str] | None, min_faces: Sequence[float] | None) -> list[Setting]:
    """How faces are looked for, each way tried before minutes of measuring; none without ``photo``."""
    if not photo:
        return []
    from edgeface_devices.way import Setting
    from edgeface_runtime.detection.find import load_detector

    least: Sequence[float | None] = min_faces or [None]
    found = [Setting(detector=name, min_face=side) for name in detectors or ["yunet"] for side in least]
    for setting in found:
        load_detector(setting.detector, min_face=setting.min_face)
    return list(dict.fromkeys(found))


def _check_targets(report: Path | None, output: Path | None, share: Path | None) -> None:
    """Whether all can be written, before minutes of measuring."""
    from edgeface_runtime.files import check_target

    for target in (report, output, share):
        if target is not None:
            check_target(target)
    if report is not None:
        # Imported now: a missing extra is said.
        import edgeface.report.boards  # noqa: F401


def _faces(files: list[Path], data: Path) -> FaceData:
    from edgeface.data.dataset import open_faces

    contract = read_contract(files[0])
    faces = open_faces(data, size=contract.input.size, reporter=TerminalReporter())
    if leak := faces.split_since(contract):
        note(f"{data}: {leak}")
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
    unit = "frame, from photo to names" if any(row.photo for row in results.rows) else "face"
    demands = [] if budget_ms is None else [f"at most {budget_ms:g} ms a {unit}"]
    demands += [] if min_accuracy is None else [f"accuracy of at least {min_accuracy:g}"]
    write_boards(path, results, verdict, photos=photos, demands=demands)
    note(f"report: {path}")


def results_of(request: Request, board: str) -> Results:
    """Rows of one board, or of this machine."""
    if request.ssh is not None:
        return over_ssh(request, request.ssh, board)
    if board == HERE:
        return measured(request)
    return emulated(request, board) if request.emulate else _estimated(request, board)


def _estimated(request: Request, device: str) -> Results:
    from edgeface_devices.boards.profiles import find_profile
    from edgeface_devices.estimate.evidence import load_anchors
    from edgeface_devices.estimate.latency import outlook

    board = find_profile(device)
    threads = board.threads if request.threads is None else request.threads
    measured = load_anchors()
    results = outlook(request.files, board, threads=threads, measured=measured)
    if not request.photo:
        return results
    from edgeface_devices.estimate.photo import with_ways

    return with_ways(results, board, request.photo, measured)


def _print(results: Sequence[Results], verdict: Verdict) -> None:
    """One machine's own table, or all machines in one; then what else was asked for."""
    from edgeface_devices.changes import change_table

    if len(results) == 1:
        _print_one(results[0])
    else:
        _print_all(verdict)
    _print_ways(verdict)
    if verdict.changes:
        title = "against the earlier run; noise: how far the rounds of both runs move"
        print_table(title, *change_table(verdict.changes))
        for line in dict.fromkeys(line for change in verdict.changes for line in change.notes):
            note(line)
    for choice in verdict.choices:
        OUT.print(choice.line, soft_wrap=True)


def _print_all(verdict: Verdict) -> None:
    from edgeface_devices.measurement import by_board, names
    from edgeface_devices.results import board_table, origins

    named = names(verdict.rows)
    for name, rows in by_board(verdict.rows).items():
        print_table(f"{name} (times in ms, peak and size in MB, accuracy in %)", *board_table(rows, named))
    print_table("", ["rests on"], [[f"{which}: {text}"] for which, text in origins(verdict.rows)])


def _print_ways(verdict: Verdict) -> None:
    from edgeface_devices import way_tables as tables

    rows = [row for row in verdict.rows if row.photo]
    for row in rows:
        for setting, ways in tables.by_setting(row).items():
            print_table(tables.title(row, setting), *tables.way_table(ways))
    if any(row.source == "estimated" for row in rows):
        print_table("", *tables.reasons(rows))


def _print_one(results: Results) -> None:
    from edgeface_devices import results as tables
    from edgeface_devices.measurement import names

    device, rows = results.device, results.rows
    if device.source == "estimated":
        title = f"{device.name} at {device.clock_mhz} MHz, threads: {rows[0].threads}: estimated, not measured"
        print_table(title, *tables.estimate_table(rows))
        print_table("", *tables.grounds_table(rows))
    elif device.source == "emulated":
        from edgeface_devices.emulate.core import emulated_table

        title = f"{device.name} (instructions of a call in millions, never times; top-1 in %)"
        print_table(title, *emulated_table(rows))
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
        from edgeface_devices.remote.measure import conditions_table, remote_table, sustained_table

        print_table(f"{device.name} (times in ms, peak in MB; top-1 in %)", *remote_table(rows))
        print_table("", *conditions_table(results.state))
        if results.sustained:
            print_table("median ms of each repetition", *sustained_table(results))
