"""Files and folders to write to, with errors that a user can mend."""

from __future__ import annotations

from pathlib import Path

from edgeface_runtime import UsageError
from edgeface_runtime.files import replacing


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
