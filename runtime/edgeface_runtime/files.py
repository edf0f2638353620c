"""Files appear under their names whole, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
