"""Tables that come in from outside: CSV, read and checked once, cell by cell."""

from __future__ import annotations

import csv
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path

from edgeface_runtime.checks import Failure, Span, require_regular, shown
from edgeface_runtime.errors import UsageError
from edgeface_runtime.files import spreadsheet_text

_CELL = 100_000  # letters

Check = Callable[[str], str | None]
"""Of a cell: None where it fits, else what is wanted."""


def read_table(
    path: Path, columns: Mapping[str, Check], *, remedy: str = "", fails: Failure = UsageError
) -> list[dict[str, str]]:
    """The rows of a CSV file, each with a cell for every column of its head.

    Args:
        path: the file.
        columns: those that are needed, each with the check of its cells; others are kept unchecked.
        remedy: what to do where a column is absent.
        fails: the class of errors.

    Raises:
        EdgefaceError: of the class ``fails``: it cannot be read, has no such column, or a row or cell that does not
            fit; with line and column.
    """
    name = shown(path)
    try:
        require_regular(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            head = [cell.strip() for cell in next(reader, [])]
            for column in columns:
                if column not in head:
                    raise fails(f"{name}: has no column {column}{remedy and '; '}{remedy}")
            if len(set(head)) < len(head):
                raise fails(f"{name}: has the column {reprlib.repr(max(head, key=head.count))} twice")
            rows = []
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(head):
                    raise fails(f"{name}, line {reader.line_num}: has {len(cells)} of {len(head)} cells")
                row = {column: spreadsheet_text(cell) for column, cell in zip(head, cells, strict=True)}
                for column, check in columns.items():
                    if wanted := check(row[column]):
                        found = reprlib.repr(row[column])
                        raise fails(f"{name}, line {reader.line_num}: {column} is {found}; it must be {wanted}")
                rows.append(row)
    except UnicodeDecodeError as error:
        raise fails(f"{name}: cannot be read: not UTF-8 text at byte {error.start}") from error
    except OSError as error:
        raise fails(f"{name}: cannot be read: {error.strerror or error}") from error
    except csv.Error as error:
        raise fails(f"{name}, line {reader.line_num}: cannot be read: {error}") from error
    return rows


def anything(cell: str) -> str | None:
    """Fits unless it holds what no name or path can."""
    bad = len(cell) > _CELL or "\0" in cell or any("\ud800" <= letter <= "\udfff" for letter in cell)
    return "text without zero bytes, shorter than 100,000 letters" if bad else None


def matching(pattern: str, wanted: str) -> Check:
    """A check by regular expression."""
    compiled = re.compile(pattern)
    return lambda cell: None if compiled.fullmatch(cell) else wanted


def numbers(count: int, span: Span | None = None) -> Check:
    """A check of ``count`` finite numbers with spaces between, each within ``span``."""
    span = span or Span()
    what = "a number" if count == 1 else f"{count} numbers"
    wanted = " ".join(filter(None, (what, str(span))))

    def check(cell: str) -> str | None:
        try:
            found = [float(word) for word in cell.split()] if len(cell) < _CELL else []
        except ValueError:
            return wanted
        return None if len(found) == count and all(math.isfinite(x) and span.holds(x) for x in found) else wanted

    return check
