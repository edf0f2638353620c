"""Files to write: whole or not at all, with errors that a user can mend."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import BinaryIO

from edgeface_runtime.errors import UsageError

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_MARK = ".edgeface"
"""In the name of what is being written, beside the process's number: nobody else's file is called so."""
_LEFT = re.compile(rf"\..+\.(\d+){re.escape(_MARK)}(\.[^.]*)?(-journal)?")
_SWEPT: set[Path] = set()
_LOCK = threading.Lock()
_STEM = 180
"""Bytes of a name that are kept: a file system takes 255 with what stands around them."""


@contextlib.contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A path to write to; renamed to ``path`` when the block ends well, removed when not.

    What killed processes have left in that folder is removed, once in a process.

    Args:
        path: what is to appear, or to be replaced.
        folder: where to write until then, on the same file system; beside ``path`` where None.
    """
    folder = path.parent if folder is None else folder
    if folder.absolute() not in _SWEPT:  # of many files into one folder, only the first looks through it
        remove_leftovers(folder)
    # The suffix stays, for writers that go by it; of a long name as much as a file system takes.
    stem = os.fsdecode(os.fsencode(path.stem)[:_STEM])
    part = folder / f".{stem}.{os.getpid()}{_MARK}{path.suffix}"
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def temporary_folder(folder: Path | None = None, name: str = "work") -> TemporaryDirectory[str]:
    """A hidden folder that is removed at the end, or by the next process that works there if this one is killed.

    Args:
        folder: where it is made; the system's temporary folder where None.
        name: what its name begins with.
    """
    folder = Path(gettempdir()) if folder is None else folder
    if folder.absolute() not in _SWEPT:
        remove_leftovers(folder)
    return TemporaryDirectory(dir=folder, prefix=f".{name}.{os.getpid()}{_MARK}.")


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes have left of files that they were ``replacing`` and of temporary folders.

    Args:
        folder: where they were writing; nothing happens where there is none.
    """
    with _LOCK, contextlib.suppress(OSError):  # a folder of other users
        # In a container the next process may well have the number of the one before: a first look takes what bears
        # this process's number, a later one would take what this process is writing.
        first = (folder := folder.absolute()) not in _SWEPT
        _SWEPT.add(folder)
        for left in folder.iterdir() if folder.is_dir() else ():
            if not (found := _LEFT.fullmatch(left.name)):
                continue
            if first if (process := int(found[1])) == os.getpid() else not _runs(process):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        left.unlink()


def is_unused(folder: Path) -> bool:
    """True where a folder holds no file, but for what killed processes have left, which is removed."""
    remove_leftovers(folder)
    return all(path.is_dir() and not path.is_symlink() for path in folder.rglob("*"))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def write_whole(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Writes what ``save`` puts into a file in memory.

    Pillow and matplotlib hand the descriptor of a file on disk to code in C that takes a write which a full disk cut
    short for a whole one, and say nothing.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    memory = io.BytesIO()
    save(memory)
    path.write_bytes(memory.getvalue())


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Writes a text file whole or not at all.

    Args:
        path: the file.
        text: what it holds.
        private: True: readable by its owner alone, from its first byte on.

    Raises:
        UsageError: the disk is full, or the folder cannot be written to.
    """
    try:
        with replacing(path) as beside:
            if private:
                beside.touch(mode=0o600)
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
    ``spreadsheet_text`` takes the ' away again.
    """
    return [f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell for cell in row]


def spreadsheet_text(cell: str) -> str:
    """The text that ``spreadsheet_safe`` made a cell of."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell
