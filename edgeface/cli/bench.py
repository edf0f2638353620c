"""``edgeface bench``."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import ERR, Json, bar, note, print_json, print_table


def bench(
    files: Annotated[list[Path], typer.Argument(help="Model files, .onnx or .tflite, compared side by side.")],
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Photos to fill top-1 and AUC from.")] = None,
    threads: Annotated[int, typer.Option(help="Threads that one call may use.")] = 1,
    calls: Annotated[int, typer.Option(help="Timed calls of each file.")] = 200,
    report: Annotated[Path | None, typer.Option(help="HTML report to write.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
    json: Json = False,
) -> None:
    """Measure latency, memory, size and accuracy of files.

    Each file runs in a process of its own; their calls take turns, so that a slow minute falls on all.

    \b
    Examples:
      edgeface bench models/*.onnx models/*.tflite
      edgeface bench models/*.tflite --data photos/ --report report.html
      edgeface bench models/net.int8.tflite --threads 4 --json
    """
    from edgeface.data.dataset import load_data
    from edgeface.evaluation.benchmark import measure
    from edgeface.files import check_target, write_text
    from edgeface_runtime import read_contract

    for target in (report, output):
        if target is not None:
            check_target(target)
    if report is not None:
        # Imported now: a missing extra is said before minutes of measuring.
        from edgeface.report import Photos, write_report
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
