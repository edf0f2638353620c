"""``edgeface bench``."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import ERR, Json, bar, note, print_json, print_table
from edgeface_runtime import UsageError, read_contract


def bench(
    files: Annotated[list[Path], typer.Argument(help="Model files, .onnx or .tflite, compared side by side.")],
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Photos to fill top-1 and AUC from.")] = None,
    device: Annotated[str | None, typer.Option(help="Estimate for this board instead (edgeface devices).")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of one call: 1, or what the board profile says.")] = None,
    calls: Annotated[int, typer.Option(help="Timed calls of each file.")] = 200,
    report: Annotated[Path | None, typer.Option(help="HTML report to write.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
    json: Json = False,
) -> None:
    """Measure latency, memory, size and accuracy of files.

    Each file runs in a process of its own; their calls take turns, so that a slow minute falls on all.
    With --device nothing runs: times are estimated from published ones, each with its 90 % interval, or refused.

    \b
    Examples:
      edgeface bench models/*.onnx models/*.tflite
      edgeface bench models/*.tflite --data photos/ --report report.html
      edgeface bench models/net.int8.tflite --threads 4 --json
      edgeface bench models/*.onnx --device rpi
    """
    if device is not None:
        if data is not None or report is not None:
            raise UsageError("--device runs nothing, so it takes no --data and no --report")
        _estimate(files, device, threads, output, json)
        return
    from edgeface.data.dataset import load_data
    from edgeface.evaluation.benchmark import measure
    from edgeface.files import check_target, write_text

    threads = 1 if threads is None else threads
    for target in (report, output):
        if target is not None:
            check_target(target)
    if report is not None:
        # Imported now: a missing extra is said before minutes of measuring.
        from edgeface.report.page import Photos, write_report
    faces = None if data is None else load_data(data, size=read_contract(files[0]).input.size)
    for file, reason in faces.rejected if faces else ():
        note(f"left out {file}: {reason}")
    result = measure(files, data=faces, threads=threads, calls=calls, progress=lambda turns: bar(ERR, turns, "timing"))
    if result.is_disturbed:
        note("other programs kept the processor busy: trust the ratio of processor times (cpu p50), or measure again")
    if output is not None:
        write_text(output, dumps(result.as_json(), indent=2) + "\n")
    if report is not None:
        photos = Photos.of(faces, str(data)) if faces else None
        write_report(report, result, photos=photos)
        note(f"report: {report}")
    if json:
        print_json(result.as_json())
        return
    conditions = f"{result.device.name}, threads: {threads}, calls: {result.rows[0].latency.calls}"
    print_table(f"{conditions} (times in ms, peak and size in MB, top-1 in %)", *result.table())
    if result.ratios:
        print_table("median time and size, the first file's divided by the second's", *result.ratio_table())


def _estimate(files: list[Path], device: str, threads: int | None, output: Path | None, json: bool) -> None:
    from edgeface.files import check_target, write_text
    from edgeface_devices.estimate import outlook
    from edgeface_devices.profiles import find_profile

    if output is not None:
        check_target(output)
    board = find_profile(device)
    result = outlook(files, board, threads=board.threads if threads is None else threads)
    if output is not None:
        write_text(output, dumps(result.as_json(), indent=2) + "\n")
    if json:
        print_json(result.as_json())
    else:
        title = f"{board.board} at {board.clock_mhz} MHz, threads: {result.rows[0].threads}: estimated, not measured"
        print_table(title, *result.table())
        print_table("", *result.grounds())
    if not result.has_basis:
        raise typer.Exit(1)
