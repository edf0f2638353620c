"""What all commands share: words and bars (results to stdout, everything else to stderr), and their recognizer."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, TypeAlias, TypeVar

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from edgeface.progress import Reporter
from edgeface_runtime import EdgefaceWarning, UsageError

if TYPE_CHECKING:
    from edgeface_runtime import FaceRecognizer

T = TypeVar("T")

# Names of files and people are printed as they are: no markup, no emoji in them.
OUT = Console(markup=False, emoji=False, highlight=False)
ERR = Console(stderr=True, emoji=False)

WHOLE = ("file", "against", "person", "run", "backbone")
"""Heads of columns whose names are typed again: they are never broken."""
_CONTROL = ("Cc", "Cs", "Zl", "Zp")
_LEAST = 12
"""Characters of a word that another column gives room to; it may break longer ones."""

Idle: TypeAlias = tuple[tuple[str, bool, str, tuple[str, ...]], ...]
"""A parameter, whether it is given or absent, why others are without effect then, and which these are."""

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document.")]


def escape_unshowable() -> None:
    r"""Lets stdout and stderr escape what their encoding lacks, in place of failing.

    As JSON does (``\u00eb``), so that a document stays one; what is UTF-8 lacks nothing.
    """
    codecs.register_error("edgeface.escape", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="edgeface.escape")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def refuse_idle(context: typer.Context, table: Idle) -> None:
    """Refuses the first option that would have no effect."""
    given = [str(one.name) for one in context.command.params if _is_given(context, str(one.name))]
    for parameter, present, why, idle in table:
        for name in given:
            if (parameter in given) == present and name in idle:
                raise UsageError(f"--{name.replace('_', '-')} {why}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def bar(console: Console, items: Sequence[T], title: str) -> Iterator[T]:
    """Iterates with a progress bar that disappears at the end; silent where the console is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Redirected, what goes to stdout would end on the console's stream: right on one screen, wrong where it is a file.
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=OUT.is_terminal,
    ) as progress:
        yield from progress.track(items, description=title)


def one_line(text: object) -> str:
    r"""Text in which names of files cannot break the line or drive the terminal: a line feed in one shows as ``\n``."""
    return "".join(
        letter.encode("unicode_escape").decode("ascii") if unicodedata.category(letter) in _CONTROL else letter
        for letter in str(text)
    )


def say(message: str) -> None:
    """One line of a result for people, to stdout."""
    typer.echo(one_line(message))


def note(message: str) -> None:
    """One line of progress or warning, to stderr."""
    ERR.print(one_line(message), markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Says a warning of edgeface's own as ``note`` does, each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", EdgefaceWarning)
        show = warnings.showwarning

        def tell(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, EdgefaceWarning):
                note(str(message))
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = tell
        yield


def print_json(document: Mapping[str, object]) -> None:
    """One JSON document, to stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people, to stdout; the first column is text, the others are numbers.

    Names of people, and of model files, are never broken, so that they can be copied: a table for which the terminal is
    too narrow is wider than the terminal.
    """
    cells = [[one_line(value) for value in row] for row in rows]
    widths, least = [], []
    for index, column in enumerate(columns):
        texts = [column, *(row[index] for row in cells)]
        widths.append(max(map(cell_len, texts)))
        least.append(widths[-1] if column in WHOLE else max(min(_longest_word(text), _LEAST) for text in texts))
    separators = 3 * (len(columns) - 1)
    for _ in range(sum(widths) + separators - OUT.width):
        foldable = [index for index in range(len(columns)) if widths[index] > least[index]]
        if foldable:
            widths[max(foldable, key=widths.__getitem__)] -= 1
    table = Table(show_edge=False, pad_edge=False, width=sum(widths) + separators)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold", width=widths[index])
    for row in cells:
        table.add_row(*row)
    if title:
        OUT.print(one_line(title), style="italic", soft_wrap=True)
    OUT.print(table, crop=False)


@contextlib.contextmanager
def going_on(record: Path, command: str, reporter: Reporter) -> Iterator[None]:
    """Says by which command a run that is interrupted goes on, once its ``record`` is written."""
    try:
        yield
    except KeyboardInterrupt:
        if record.exists():
            reporter.say(f"stopped; the epochs that are done are kept, go on with: {command}")
        raise


class TerminalReporter:
    """An ``edgeface.progress.Reporter``: lines on stderr, and bars where that is a terminal."""

    def say(self, line: str, *, heading: bool = False) -> None:
        """Prints one line; headings are bold."""
        if heading:
            ERR.print(line, style="bold", markup=False, highlight=False, soft_wrap=True)
        else:
            note(line)

    def track(self, items: Sequence[T], title: str) -> Iterator[T]:
        """Iterates with a bar that disappears at the end."""
        return bar(ERR, items, title)


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def opened(model: Path | None, detector: str | None, threads: int, min_face: float | None) -> FaceRecognizer:
    """A command's recognizer; where no model is named, one that takes the gallery's."""
    from edgeface_runtime import FaceRecognizer
    from edgeface_runtime.model import tried_model

    if model is None:
        tried_model()  # a file of the default's name may lie in the working folder
    return FaceRecognizer(model, detector, threads, min_face=min_face)
