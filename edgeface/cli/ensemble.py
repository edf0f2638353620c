"""``edgeface ensemble``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import Json, TerminalReporter, note, print_json, print_table
from edgeface_runtime.model import tried_model

if TYPE_CHECKING:
    from edgeface.evaluation.tails import TarAtFar

DATA = "Photos of people that no member was trained on: a third of them chooses the weights, the others measure."


def ensemble(
    files: Annotated[
        list[Path],
        typer.Argument(parser=tried_model, metavar="MODEL...", help="Two to four files, or names that `models` lists."),
    ],
    data: Annotated[Path, typer.Option("--data", "-d", help=DATA)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="NAME.ensemble", help="File to write.")],
    json: Json = False,
) -> None:
    """Put several models together into one file, which every command takes as a model.

    The score of two faces is the weighted mean of the members' cosines. Weights and thresholds are measured on --data,
    and what each member and all together accept is shown beside the processor time of a face. Exit code 1 when all
    together accept no more genuine pairs than the best member: take that one alone.

    \b
    Examples:
      edgeface ensemble mobilefacenet.tflite other.int8.tflite --data people/ -o door.ensemble
      edgeface ensemble a.onnx b.int8.tflite c.ncnn -d prepared/ -o models/three.ensemble --json
    """
    from edgeface.data.dataset import open_faces
    from edgeface.ensembling import FMRS, make_ensemble
    from edgeface_runtime import read_contract

    size = read_contract(files[0]).input.size
    made = make_ensemble(files, open_faces(data, size=size, reporter=TerminalReporter()), output)
    if json:
        print_json(made.as_json())
    else:
        rows = [(row.name, f"{row.weight:g}", *map(_cell, row.tar.values()), f"{row.cpu_ms:.2f}") for row in made.rows]
        title = f"{made.photos} photos of {made.people} people: genuine pairs accepted, processor time of a face"
        columns = ("file", "weight", *(f"at FMR {rate:g}" for rate in FMRS), "ms")
        print_table(title, columns, rows)
        for reason in dict.fromkeys(at.reason for row in made.rows for at in row.tar.values() if at.value is None):
            note(f"–: {reason}")
        if not made.contract.thresholds:
            note(f"{output} has no thresholds, for want of people: give more, or --threshold with each command")
        note(f"{output}: next: edgeface enroll PHOTOS --gallery people.gallery --model {output}")
    if not made.is_better:
        note("edgeface: no better than its best member on these people; take that one alone")
        raise typer.Exit(1)


def _cell(at: TarAtFar) -> str:
    return "–" if at.value is None else str(at)
