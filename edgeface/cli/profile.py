"""``edgeface profile``."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import Json, note, print_json, print_table
from edgeface_runtime.model import find_model


def profile(
    file: Annotated[
        Path,
        typer.Argument(parser=find_model, metavar="MODEL", help="An .onnx or .tflite file, or a name of `models`."),
    ],
    threads: Annotated[int, typer.Option(help="Threads of one call.")] = 1,
    calls: Annotated[int, typer.Option(help="Profiled calls, after five to warm up.")] = 50,
    report: Annotated[Path | None, typer.Option(help="HTML file to write, with bars.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
    json: Json = False,
) -> None:
    """Show which operators of a model take the time.

    By the engine's own profiler, on this machine, in a process of its own. Profiling slows a model: trust the shares
    of time; for milliseconds use bench.

    \b
    Examples:
      edgeface profile models/net.int8.tflite
      edgeface profile models/net.int8.onnx --report profile.html
    """
    from edgeface_devices.bench.operators import profile as run_profiler
    from edgeface_runtime.files import check_target, write_text

    for target in (report, output):
        if target is not None:
            check_target(target)
    if report is not None:
        # Imported now: a missing extra is said before the work.
        from edgeface.report.operators import write_profile
    found = run_profiler(file, threads=threads, calls=calls)
    if output is not None:
        write_text(output, dumps(found.as_json(), indent=2) + "\n")
    if report is not None:
        write_profile(report, found)
        note(f"report: {report}")
    if json:
        print_json(found.as_json())
        return
    kinds, slowest = found.tables()
    title = f"{file.name}, {found.engine} {found.engine_version}, threads: {threads}, calls: {calls}"
    print_table(f"{title}: {found.total_ms:.2f} ms in operators, by kind", *kinds)
    print_table("the ten slowest operators, by their place in the run", *slowest)
