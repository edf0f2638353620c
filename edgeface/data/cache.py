"""Prepared faces as one memory-mapped array, so that a training step never decodes a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tokenize
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from edgeface.data.table import read_faces
from edgeface_runtime.checks import read_document, require_regular
from edgeface_runtime.errors import UsageError
from edgeface_runtime.files import replacing, write_text
from edgeface_runtime.images import open_rgb, shown


class _Mark(TypedDict):
    crops_sha256: str
    """Of paths and digests of the crops that the array holds."""


def open_cache(folder: str | Path, size: int = 112) -> NDArray[np.uint8]:
    """(N, size, size, 3) uint8 RGB, read-only, memory-mapped: the faces of ``faces.csv`` in its order.

    Decoded once into ``.cache/faces-<size>.npy``, and again when the table names other crops; a new
    split of the same crops decodes nothing.

    Raises:
        UsageError: the folder was not prepared, its crops have another size, or it cannot be written.
        ImageError: a crop is missing or damaged.
    """
    folder = Path(folder)
    rows = read_faces(folder)
    key = hashlib.sha256("".join(f"{row['path']}\0{row['sha256']}\n" for row in rows).encode()).hexdigest()
    array, mark = folder / ".cache" / f"faces-{size}.npy", folder / ".cache" / f"faces-{size}.json"
    shape = (len(rows), size, size, 3)
    if _read_key(mark) == key and (known := _open(array, shape)) is not None:
        return known
    mark.unlink(missing_ok=True)
    _build(folder, [row["path"] for row in rows], size, array)
    write_text(mark, json.dumps({"faces": len(rows), "crops_sha256": key}) + "\n")
    if (made := _open(array, shape)) is None:
        raise UsageError(f"{shown(array)}: was written and cannot be read back; is something else writing there?")
    return made


def _open(array: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The array, where it is a whole one of that shape."""
    try:
        require_regular(array)
        mapped: NDArray[np.uint8] = np.load(array, mmap_mode="r" if shape[0] else None)
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError, tokenize.TokenError):
        return None
    return mapped if mapped.shape == shape and mapped.dtype == np.uint8 else None


def _read_key(mark: Path) -> str | None:
    with contextlib.suppress(UsageError):
        return read_document(mark, _Mark, "mark")["crops_sha256"]
    return None


def _build(folder: Path, paths: list[str], size: int, array: Path) -> None:
    try:
        array.parent.mkdir(exist_ok=True)
        # Written, not mapped: a page that a full disk has no room for ends a process that maps it by SIGBUS.
        with replacing(array) as part, part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for path in paths:
                crop = open_rgb(folder / path)
                if crop.shape[:2] != (size, size):
                    has = f"{shown(folder)}: its crops have {crop.shape[0]} pixels, not {size}"
                    raise UsageError(f"{has}; prepare again with --size {size}")
                file.write(crop.tobytes())
    except OSError as error:
        raise UsageError(f"{shown(array)}: cannot be written ({error.strerror})") from error
