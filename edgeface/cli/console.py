"""Where words and bars go: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")

# Names of files and people are printed as they are: no markup, no emoji in them.
OUT = Console(markup=False, emoji=False, highlight=False)
ERR = Console(stderr=True, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document.")]


def bar(console: Console, items: Sequence[T], title: str) -> Iterator[T]:
    """Iterates with a progress bar that disappears at the end; silent where the console is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(items, description=title)


def note(message: str) -> None:
    """One line of progress or warning, to stderr."""
    ERR.print(message, markup=False, highlight=False, soft_wrap=True)


def print_json(document: dict[str, Any]) -> None:
    """One JSON document, to stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for people, to stdout; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    OUT.print(table, soft_wrap=not OUT.is_terminal)
