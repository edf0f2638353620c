"""The page of ``edgeface runs --page``: curves of several runs over each other, and the settings that differ."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from edgeface.report.curves import curve_pictures
from edgeface.report.runs import Run, differing, table
from edgeface.templates import environment
from edgeface_runtime.checks import shown
from edgeface_runtime.files import write_text


def write_comparison(path: Path, runs: Sequence[Run], folder: Path) -> None:
    """Writes one HTML page that needs no other file, whole or not at all; it shows no faces.

    Args:
        path: the file.
        runs: as ``read_runs`` gives them.
        folder: in which they were looked for.

    Raises:
        UsageError: the file cannot be written.
    """
    columns, rows = table(runs, folder)
    drawn = {row[0]: run.curves for row, run in zip(rows, runs, strict=True) if run.curves}
    page = (
        environment(Path(__file__).parent)
        .get_template("runs.html.j2")
        .render(
            folder=shown(folder),
            columns=columns,
            rows=rows,
            problems=[(row[0], problem) for row, run in zip(rows, runs, strict=True) for problem in run.problems()],
            settings=[(key, [run.shown_setting(key) for run in runs]) for key in differing(runs)],
            pictures=curve_pictures(drawn) if drawn else [],
            made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            version=importlib.metadata.version("edgeface"),
        )
    )
    write_text(path, page)
