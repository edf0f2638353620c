"""``edgeface inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import Json, note, print_json, print_table


def inspect(
    file: Annotated[Path, typer.Argument(help="An .onnx or .tflite file made by edgeface.")],
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 1,
    json: Json = False,
) -> None:
    """Show a file's contract and prove that it still holds.

    The file's digest and its golden vectors are checked; exit code 1 when either differs.

    \b
    Examples:
      edgeface inspect mobilefacenet.int8.tflite
      edgeface inspect mobilefacenet.int8.onnx --json
    """
    from edgeface_runtime.inspection import inspect_file

    found = inspect_file(file, threads=threads)
    if json:
        print_json(found.as_json())
    else:
        print_table(str(file), ("key", "value"), found.rows())
    if not found.ok:
        note(f"edgeface: {file}: {found.reason}")
        raise typer.Exit(1)
