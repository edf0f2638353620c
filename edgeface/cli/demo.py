"""``edgeface demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import Json, TerminalReporter, note, print_json


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the training photos.")] = 16,
    json: Json = False,
) -> None:
    """Train, export and measure on AT&T faces, in minutes.

    Writes report.html, bench.json, models/ and run/.

    \b
    Examples:
      edgeface demo
      edgeface demo --output /tmp/demo --epochs 2
    """
    from edgeface.demo import run_demo

    result = run_demo(output, epochs=epochs, reporter=TerminalReporter())
    if json:
        print_json(result)
    if result["report"] is None:
        note(f"edgeface: {result['reason']}")
        raise typer.Exit(1)
    if not json:
        typer.echo(f"report: {output / 'report.html'}")
