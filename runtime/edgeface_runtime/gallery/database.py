"""The gallery's file: how it is opened, bound to a model, overwritten, and written out for others to read.

SQLite with a rollback journal, synced before anything is acknowledged, so that the file is whole after a kill or a
power cut and there is one file to copy. ``secure_delete`` overwrites what is deleted, and a VACUUM afterwards drops
the stale copies that SQLite leaves in its pages when it moves rows between them.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import glob
import hashlib
import io
import json
import os
import re
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import Span, build, parse_json, require_regular
from edgeface_runtime.detection.find import DETECTORS
from edgeface_runtime.errors import EdgefaceWarning, GalleryError, UsageError
from edgeface_runtime.files import remove_leftovers, replacing, spreadsheet_safe
from edgeface_runtime.gallery.encryption import KEY, KEY_FILE, PAGE, WAIT, open_encrypted, read_key
from edgeface_runtime.gallery.search import Precision
from edgeface_runtime.images import shown
from edgeface_runtime.model import Model, Shipped

SCHEMAS: dict[Precision, int] = {"float32": 1, "int8": 2}
"""The file's schema says how its embeddings are stored."""
UNSAID = "blazeface"
"""The detector of galleries that state none: it was the default while they did not."""
MIXED = "0.015 higher or lower, on average the same"
"""How scores are where one detector enrolled and another identifies (docs/detectors.md)."""
_PLAIN = b"SQLite format 3\0"
_CIPHER = "sqlcipher3.dbapi2"
_APPLICATION = 0x45444746  # "EDGF"
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE person (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE photo (id INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER NOT NULL REFERENCES person (id), "
    "source TEXT NOT NULL, added TEXT NOT NULL, sharpness REAL NOT NULL, size REAL NOT NULL, yaw REAL NOT NULL, "
    "pitch REAL NOT NULL, embedding BLOB NOT NULL)",
    "CREATE INDEX photo_person ON photo (person)",
)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Which model's embeddings a gallery holds."""

    name: str
    file_sha256: str
    parent_sha256: str | None
    """Of the checkpoint that the file was made from."""
    precision: str
    recipe: str
    length: Annotated[int, Span(1, 65_536)]
    """Floats of an embedding."""

    @property
    def called(self) -> str:
        """What a person calls it."""
        return f"{self.name} {self.precision} ({self._origin[:8]})"

    def fits(self, other: Binding) -> bool:
        """True where embeddings can be compared: the same file, or files made alike of one net (ONNX and TFLite)."""
        return self.file_sha256 == other.file_sha256 or self._comparable == other._comparable

    def told_from(self, other: Binding) -> tuple[str, str]:
        """What a person calls the two, in as many words as it takes to see in what they differ; they do not fit."""
        for row in zip(self._words, other._words, strict=True):
            if row[0] != row[1]:
                break
        return f"{self.name} {row[0]}", f"{other.name} {row[1]}"

    @property
    def _origin(self) -> str:
        """A net in float of other origin is its own parent."""
        return self.parent_sha256 or self.file_sha256

    @property
    def _comparable(self) -> tuple[str, str, int]:
        return self._origin, _family(self.precision, self.recipe), self.length

    @property
    def _words(self) -> tuple[str, ...]:
        short = f"{self.precision} ({self._origin[:8]})"
        return short, f"{short}, {self.recipe}, {self.length} floats", f"{self.precision} ({self._origin})"


def _family(precision: str, recipe: str) -> str:
    """What of a recipe decides whether embeddings can be compared.

    An activation's byte means the same with a sign and without. Half precision keeps a cosine of 0.999 to the parent
    in whichever of its recipes, which the export makes sure of.
    """
    return precision if precision in ("fp32", "fp16") else f"{precision} {re.sub(r'_au(?=[0-9]+$)', '_ai', recipe)}"


def binding_of(model: Model | Shipped) -> Binding:
    """The binding of a model, opened or not."""
    contract, path = model.contract, model.path if isinstance(model, Model) else model.file
    # A file of other origin has a contract that was given by hand and states no digest.
    digest = contract.file_sha256 if contract.file_sha256.strip("0") else _file_digest(path)
    return Binding(
        name=contract.name,
        file_sha256=digest,
        parent_sha256=contract.parent_sha256,
        precision=contract.precision,
        recipe=contract.recipe,
        length=contract.embedding.length,
    )


def connect(
    path: Path, binding: Binding | None, precision: Precision = "float32", detector: str | None = None
) -> sqlite3.Connection:
    """Opens the file; makes it with ``binding``, ``precision`` and ``detector`` where it is absent or empty.

    Raises:
        GalleryError: no gallery, damaged, or of a newer edgeface.
    """
    if binding is not None:
        try:
            if path.exists():
                require_regular(path)
            os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o600))  # faces are nobody else's business
        except OSError as error:
            raise GalleryError(f"{shown(path)}: {error.strerror}") from error
    if not path.is_file():
        raise GalleryError(f"{shown(path)}: {'not a gallery' if path.exists() else 'no such gallery'}")
    with explained(path):
        db = _open(path)
        try:
            for pragma in ("secure_delete = ON", "synchronous = EXTRA", "temp_store = MEMORY"):
                db.execute(f"PRAGMA {pragma}")
            if binding is not None and _number(db, "page_count") == 0:
                db.execute(f"PRAGMA page_size = {PAGE}")
                _create(db, binding, precision, detector)
            _require_ours(db, path)
            # Also of bytes that are no UTF-8, so that whoever reads the row can say which it is.
            db.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
            with contextlib.suppress(*_errors()):  # others read or write, or this process may only read
                overwrite(db, path)
        except BaseException:
            db.close()
            raise
    return db


def is_encrypted(db: sqlite3.Connection) -> bool:
    """True where SQLCipher has opened it."""
    return not isinstance(db, sqlite3.Connection)


def read_binding(db: sqlite3.Connection, path: Path) -> Binding:
    """The binding that the file states."""
    row = db.execute("SELECT value FROM meta WHERE key = 'model'").fetchone()
    try:
        return build(Binding, parse_json(row[0]), "model", fails=GalleryError)
    except (GalleryError, TypeError, ValueError) as error:
        raise GalleryError(f"{shown(path)}: damaged: says of no model that it was made with it ({error})") from error


def read_precision(db: sqlite3.Connection) -> Precision:
    """How the file stores embeddings."""
    return next(name for name, schema in SCHEMAS.items() if schema == _number(db, "user_version"))


def read_detector(db: sqlite3.Connection) -> str | None:
    """The name of the detector that found the faces; empty where nobody knows, None where the file does not say."""
    row = db.execute("SELECT value FROM meta WHERE key = 'detector'").fetchone()
    return str(row[0]) if row else None


def warn_of_mixture(path: Path, enrolled_with: str | None, other: str) -> None:
    """Says what it does to scores where two detectors meet in one gallery; as ``read_detector`` gives them."""
    first = UNSAID if enrolled_with is None else enrolled_with
    if first == other or not {first, other} <= {*DETECTORS}:  # of another detector nothing is known
        return
    was = f"with the detector {enrolled_with}" if enrolled_with else f"probably with the detector {UNSAID}"
    warnings.warn(
        f"{shown(path)}: enrolled {was}: the scores of faces that {other} finds are {MIXED}; leave out "
        "--detector (detector=), or enroll the photos anew (edgeface gallery move)",
        EdgefaceWarning,
        stacklevel=4,
    )


def read_index(db: sqlite3.Connection, path: Path) -> tuple[Path, str] | None:
    """Where the gallery's index lies (``NearIndex``) and the file's sha256; None where it has none."""
    row = db.execute("SELECT value FROM meta WHERE key = 'index'").fetchone()
    return (_index(path, row[0]), row[0]) if row else None


def write_index(db: sqlite3.Connection, path: Path, save: Callable[[Path], None]) -> None:
    """Puts an index, which ``save`` writes, beside the gallery in place of the one before.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    partial = _index(path, "_partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        save(partial)
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        partial.replace(_index(path, digest))
    finally:
        partial.unlink(missing_ok=True)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('index', ?)", (digest,))
    _remove_indices(path, but=_index(path, digest))


@contextlib.contextmanager
def new_gallery(path: Path) -> Iterator[Path]:
    """A path to make a gallery at; it appears as ``path`` when the block ends well, and is removed when not.

    What a killed process left of such a file is removed by whoever makes the next one of that name.

    Raises:
        GalleryError: there is a file of that name already, or none can be made.
    """
    if path.exists():
        raise GalleryError(f"{shown(path)}: is there already; name another file, or move it away")
    try:
        remove_leftovers(path.parent)
        with replacing(path) as part:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o600))
            yield part
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise GalleryError(f"{shown(path)}: {error.strerror}") from error


def copy_database(db: sqlite3.Connection, path: Path) -> None:
    """Writes all that an open gallery holds to another file, and makes sure that it can be read there.

    Raises:
        GalleryError: one of the files is damaged, or the disk is full.
    """
    with (
        explained(path),
        contextlib.closing(_open(path) if is_encrypted(db) else sqlite3.connect(path)) as copy,
    ):
        db.backup(copy)
        if copy.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("malformed")
    connect(path, None).close()  # overwrites what a removal may have left


def overwrite(db: sqlite3.Connection, path: Path) -> None:
    """Rewrites the file without the remains of what was deleted, if that is still to be done; its index goes."""
    if db.execute("SELECT 1 FROM meta WHERE key = 'stale' AND value = '1'").fetchone():
        _remove_indices(path)
        db.execute("VACUUM")
        db.execute("UPDATE meta SET value = '0' WHERE key = 'stale'")


def _open(path: Path) -> sqlite3.Connection:
    """Opens a file that is there; a new one, which is empty, will be encrypted where there is a key."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_PLAIN))
    except OSError as error:
        raise GalleryError(f"{shown(path)}: {error.strerror}") from error
    if head != _PLAIN:
        if key := read_key():
            return open_encrypted(path, key)
        if head:
            raise GalleryError(f"{shown(path)}: not a gallery; if it is an encrypted one, set {KEY_FILE} or {KEY}")
    return sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)


def _errors() -> tuple[type[Exception], ...]:
    """What a connection may raise."""
    return sqlite3.Error, *([sys.modules[_CIPHER].Error] if _CIPHER in sys.modules else [])


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite says into a line that says what to do."""
    try:
        yield
    except _errors() as error:
        said = str(error)
        for words, meaning in (
            ("locked", "another process is writing to it; try again"),
            ("full", "the disk is full, nothing was changed; make room and try again"),
            ("I/O error", "it could not be written or read, nothing was changed; is the disk full?"),
            ("readonly", "may not be written to"),
            ("not a database", "not a gallery"),
            ("malformed", "damaged; put a copy in its place"),
        ):
            if words in said:
                raise GalleryError(f"{shown(path)}: {meaning}") from error
        raise GalleryError(f"{shown(path)}: {said}") from error


def write_export(
    path: Path,
    binding: Binding,
    photos: Sequence[tuple[Mapping[str, object], NDArray[np.float32]]],
    detector: str | None,
) -> None:
    """Writes photos and embeddings as ``.json`` or ``.csv``, whole or not at all, readable by the owner alone."""
    if path.suffix == ".json":
        rows = [{**photo, "embedding": row.tolist()} for photo, row in photos]
        document = {"schema": 1, "model": asdict(binding), "detector": detector, "photos": rows}
        text = json.dumps(document, ensure_ascii=False) + "\n"
    elif path.suffix == ".csv":
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        fields = ("id", "name", "source", "added", "sharpness", "size", "yaw", "pitch")
        writer.writerow([*fields, *(f"e{i}" for i in range(binding.length)), "detector"])
        writer.writerows(
            [*spreadsheet_safe(photo[field] for field in fields), *row.tolist(), detector] for photo, row in photos
        )
        text = file.getvalue()
    else:
        raise UsageError(f"{shown(path)}: name a .json or a .csv file")
    try:
        with replacing(path) as part:
            part.touch(mode=0o600)
            part.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"{shown(path)}: {error.strerror}") from error


def _create(db: sqlite3.Connection, binding: Binding, precision: Precision, detector: str | None) -> None:
    db.execute("BEGIN IMMEDIATE")
    if _number(db, "user_version"):  # another process was quicker
        db.execute("ROLLBACK")
        return
    for table in _TABLES:
        db.execute(table)
    meta = [("model", json.dumps(asdict(binding))), ("stale", "0")]
    meta += [] if detector is None else [("detector", detector)]
    db.executemany("INSERT INTO meta VALUES (?, ?)", meta)
    db.execute(f"PRAGMA application_id = {_APPLICATION}")
    db.execute(f"PRAGMA user_version = {SCHEMAS[precision]}")
    db.execute("COMMIT")


def _require_ours(db: sqlite3.Connection, path: Path) -> None:
    if _number(db, "application_id") != _APPLICATION:
        raise GalleryError(f"{shown(path)}: not a gallery")
    schema = _number(db, "user_version")
    if schema not in SCHEMAS.values():
        newest = max(SCHEMAS.values())
        raise GalleryError(
            f"{shown(path)}: has schema {schema}, newer than this edgeface knows ({newest}): update edgeface"
        )
    # Triggers and views of another's file would run as ours; none of our tables has any.
    if db.execute("SELECT 1 FROM sqlite_master WHERE type IN ('trigger', 'view') OR sql LIKE '%VIRTUAL%'").fetchone():
        raise GalleryError(f"{shown(path)}: not a gallery: it has triggers, views or virtual tables")
    for table in _TABLES[:3]:
        name = table.split()[2]
        there = {row[1] for row in db.execute(f"PRAGMA table_info({name})")}
        for column in re.findall(r"(\w+) (?:TEXT|INTEGER|REAL|BLOB)", table):
            if column not in there:
                raise GalleryError(f"{shown(path)}: damaged: its table {name} has no {column}; put a copy in its place")


def _index(path: Path, digest: str) -> Path:
    return path.with_name(f"{path.name}.{digest[:8]}.index")


def _remove_indices(path: Path, but: Path | None = None) -> None:
    """Those too that a kill left."""
    for index in path.parent.glob(f"{glob.escape(path.name)}.????????.index"):
        if index != but:
            index.unlink(missing_ok=True)


def _number(db: sqlite3.Connection, pragma: str) -> int:
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])


@functools.cache  # asked for at every identification
def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
