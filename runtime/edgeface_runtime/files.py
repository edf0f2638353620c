"""Files to write: whole or not at all, with errors that a user can mend."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeface_runtime.errors import UsageError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@contextlib.contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A path to write to; renamed to ``path`` when the block ends well, removed when not.

    Args:
        path: what is to appear, or to be replaced.
        folder: where to write until then, on the same file system; beside ``path`` where None.
    """
    # The suffix stays, for writers that go by it.
    part = (path.parent if folder is None else folder) / f".{path.stem}.{os.getpid()}{path.suffix}"
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_leftovers(folder: Path, stem: str, suffix: str) -> None:
    """Removes what killed processes have left of files that they were ``replacing``.

    Args:
        folder: where they were writing; nothing happens where there is none.
        stem: of the files' names; ``*`` for any.
        suffix: of the files' names, with its dot.
    """
    partial = re.compile(rf"\.{'.+' if stem == '*' else re.escape(stem)}\.(\d+){re.escape(suffix)}(-journal)?")
    for left in folder.iterdir() if folder.is_dir() else ():
        # In a container the next process may well have the number of the one before.
        if (found := partial.fullmatch(left.name)) and (int(found[1]) == os.getpid() or not _runs(int(found[1]))):
            left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all.

    Raises:
        UsageError: the disk is full, or the folder cannot be written to.
    """
    try:
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def check_target(path: Path) -> None:
    """Says before the work, not after it, that its result cannot be written to ``path``.

    Raises:
        UsageError: its folder does not exist, or it is a folder itself.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; one that is there is kept as it is.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be made ({error.strerror})") from error


def spreadsheet_safe(row: Iterable[object]) -> list[object]:
    """A row of a CSV file whose texts no spreadsheet takes for formulas: those that begin like one get a ' in front.

    Names of files and people come from anywhere, and Excel and LibreOffice run what begins with =, +, - or @.
    """
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in row]
