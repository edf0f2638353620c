"""``edgeface runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import Json, note, print_json, print_table


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder with run folders in it or below, or one run.")] = Path("runs"),
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML page to write: all curves over each other.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare training runs: how far they are, how good, how long they took, what is set otherwise.

    "validation" is the accuracy of the best epoch's head on validation photos, or its cosine to the teachers; TAR is
    that of the model alone, on pairs of these photos. An unfinished or unreadable run has a row that says so.

    \b
    Examples:
      edgeface runs
      edgeface runs runs/ --page runs/compared.html
      edgeface runs runs/mine --json
    """
    from edgeface.report.runs import differing, read_runs, table
    from edgeface_runtime.files import check_target

    if page is not None:
        # Imported now: a missing extra is said before the work.
        from edgeface.report.comparison import write_comparison

        check_target(page)
    found = read_runs(folder)
    if page is not None:
        write_comparison(page, found, folder)
        note(f"wrote {page}")
    if json:
        documents = [run.as_json() | {"settings": run.settings} for run in found]
        print_json({"schema": 1, "folder": str(folder), "differing": differing(found), "runs": documents})
        return
    columns, rows = table(found, folder)
    print_table(f"runs in {folder}", columns, rows)
    for row, run in zip(rows, found, strict=True):
        for problem in run.problems():
            note(f"{row[0]} {problem}")
    if keys := differing(found):
        own = [[row[0], *(run.shown_setting(key) for key in keys)] for row, run in zip(rows, found, strict=True)]
        print_table("settings that differ", ("run", *keys), own)
