"""``edgeface inspect``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import Json, TerminalReporter, note, print_json, print_table
from edgeface_runtime import read_contract
from edgeface_runtime.model import tried_model

COMPARED = 16
"""Photos, at most, that two files are compared on; taken evenly from all."""


def inspect(
    file: Annotated[
        Path, typer.Argument(parser=tried_model, metavar="MODEL", help="Model file, or a name that `models` lists.")
    ],
    threads: Annotated[int, typer.Option(help="CPU threads of the engine.")] = 1,
    compare: Annotated[
        Path | None,
        typer.Option(parser=tried_model, metavar="MODEL", help="Another file of the model, to compare layer by layer."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Photos to compare on.  [default: golden probes]")
    ] = None,
    worst: Annotated[bool, typer.Option("--worst", help="Sort the layers of --compare, the noisiest first.")] = False,
    json: Json = False,
) -> None:
    """Show a file's contract and check that the file still holds it.

    The file's digest and its golden vectors are checked; exit code 1 when either differs. With --compare,
    the cosine and the signal-to-noise ratio of each layer that both files compute are shown instead.

    \b
    Examples:
      edgeface inspect mobilefacenet.int8.tflite
      edgeface inspect mobilefacenet.int8.onnx --json
      edgeface inspect --compare mobilefacenet.fp32.tflite mobilefacenet.int8.tflite --worst
    """
    if compare is not None:
        _compare(compare, file, data, worst, json)
        return
    from edgeface_runtime.integrity import inspect_file

    found = inspect_file(file, threads=threads)
    if json:
        print_json(found.as_json())
    else:
        print_table(str(file), ("key", "value"), found.rows())
        if rows := found.accuracy():
            typer.echo()
            print_table("Accuracy, with its 95 % interval", ("measured on", "accuracy", "interval", "of"), rows)
        if thresholds := found.thresholds():
            columns = ("FMR", "threshold", "95 % interval", "impostor pairs", "genuine pairs accepted")
            typer.echo()
            print_table("Thresholds: the score from which two photos are one person", columns, thresholds)
    if not found.ok:
        note(f"edgeface: {file}: {found.reason}")
        raise typer.Exit(1)


def _compare(first: Path, second: Path, data: Path | None, worst: bool, json: bool) -> None:
    from edgeface_export.compare import compare_files

    faces = None
    if data is not None:
        from edgeface.data.dataset import open_faces

        found = open_faces(data, size=read_contract(second).input.size, reporter=TerminalReporter())
        faces = found.faces[:: -(-len(found.faces) // COMPARED)]
    layers = compare_files(first, second, faces)
    if worst:
        layers.sort(key=lambda layer: math.inf if layer.sqnr_db is None else layer.sqnr_db)
    if json:
        print_json(
            {"schema": 1, "compared": [str(first), str(second)], "layers": [layer.as_json() for layer in layers]}
        )
        return
    rows = [
        (
            layer.label,
            "×".join(map(str, layer.shape)),
            f"{layer.cosine:.5f}",
            "equal" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f}",
        )
        for layer in layers
    ]
    print_table(f"{second} against {first}", ("layer", "shape", "cosine", "SQNR, dB"), rows)
