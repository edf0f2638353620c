"""What a folder holds: whether each file under a final name is whole, and what two folders must have in common."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from PIL import Image

Shot = dict[str, str]
"""Path below the folder → digest of the file; empty of a folder."""


def rows_of(gallery: Path) -> list[tuple[object, ...]]:
    """(name, photo, embedding) of a gallery, sorted; SQLite rolls an unfinished change back first."""
    with closing(sqlite3.connect(gallery)) as db:
        if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise ValueError("damaged")
        found = db.execute("SELECT name, source, embedding FROM photo JOIN person ON person.id = photo.person")
        return sorted(found.fetchall())


def _faces(database: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as db:
        if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise ValueError("damaged")
        return sorted(db.execute("SELECT path, place, shown_as, embedding FROM face").fetchall())


def _picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _tensors(path: Path) -> str:
    from safetensors.numpy import load_file

    return hashlib.sha256(repr([(k, v.tobytes()) for k, v in sorted(load_file(path).items())]).encode()).hexdigest()


def _model(path: Path) -> str:
    """The graph's digest: the contract states when the file was timed."""
    import onnx

    from edgeface_runtime.contract import read_contract

    read_contract(path)
    return hashlib.sha256(onnx.load(path).graph.SerializeToString(deterministic=True)).hexdigest()


def _video(path: Path) -> int:
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        if not (frames := int(capture.get(cv2.CAP_PROP_FRAME_COUNT))):
            raise ValueError("no frame in it")
        return frames
    finally:
        capture.release()


def _page(path: Path) -> None:
    if not path.read_text("utf-8").rstrip().endswith("</html>"):
        raise ValueError("cut short")


def _table(path: Path) -> None:
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("cut short")


WHOLE: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text("utf-8")) and None,
    ".csv": _table,
    ".html": _page,
    ".png": _picture,
    ".jpg": _picture,
    ".pgm": _picture,
    ".safetensors": _tensors,
    ".onnx": _model,
    ".gallery": rows_of,
    ".db": _faces,
    ".mp4": _video,
}
"""Suffix → reads the file to its end; gives what two equal runs have in common where bytes may differ."""


def partial(place: Path) -> list[str]:
    """Files under a final name that are not whole."""
    found = []
    for path in place.rglob("*"):
        parts = path.relative_to(place).parts
        hidden = parts[0] == "tmp" or any(part.startswith(".") for part in parts)
        if path.is_file() and not hidden and path.suffix in WHOLE:
            # Empty: a gallery that is made is first an empty file, which every verb takes for none.
            if path.suffix in (".gallery", ".db") and not path.stat().st_size:
                continue
            try:
                WHOLE[path.suffix](path)
            except Exception as error:
                found.append(f"{path.relative_to(place)}: {type(error).__name__}: {error}")
    return found


def shot(place: Path) -> Shot:
    """All that is in a folder."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = re.sub(r"\d{8}T\d{6}", "TIME", path.relative_to(place).as_posix())  # of pictures of visits
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


def meaning(path: Path) -> object:
    """What two equal runs have in common in a file whose bytes differ from run to run; None: that it is there."""
    return WHOLE[path.suffix](path) if path.suffix in (".gallery", ".db", ".mp4", ".onnx", ".safetensors") else None
