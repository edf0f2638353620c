"""The faces of a collection in one SQLite file, so that a run that was stopped goes on and a later one is quick."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime import Face, FaceRecognizer, ImageError, UsageError
from edgeface_runtime.align import align
from edgeface_runtime.checks import build
from edgeface_runtime.detection.find import find_faces
from edgeface_runtime.engines import first_line
from edgeface_runtime.gallery.database import Binding, binding_of
from edgeface_runtime.gallery.enrollment import examine
from edgeface_runtime.gallery.versions import named
from edgeface_runtime.images import Pixels, open_photo, shown

NAME = "faces.db"
TILE = 112
"""Pixels of the side of a face's picture."""
_AROUND = 1.4
"""A picture shows so many times the width of an aligned face, so that hair and ears help to tell people."""
_APPLICATION = 0x45464752  # "EFGR"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS photo (path BLOB PRIMARY KEY, state TEXT NOT NULL, reason TEXT)",
    "CREATE TABLE IF NOT EXISTS face (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL REFERENCES photo (path) "
    "ON DELETE CASCADE, name TEXT, shown_as INTEGER, detection REAL NOT NULL, sharpness REAL NOT NULL, "
    "concerns TEXT NOT NULL, place BLOB NOT NULL, embedding BLOB NOT NULL, tile BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS face_path ON face (path)",
)


@dataclass(frozen=True, eq=False)
class SeenFace:
    """One face of one photo of a collection."""

    id: int
    photo: Path
    name: str | None
    """Whom a user said that it shows."""
    face: Face
    sharpness: float
    """Fine detail for coarse detail, in percent."""
    concerns: str
    """Why the face should not be enrolled; empty where it is good."""
    embedding: NDArray[np.float32]
    """(D,), of length 1."""
    group: int | None = None
    """The number of the group that the last run put it into."""


def last_made_by(folder: Path) -> tuple[Binding, str] | None:
    """The model and the name of the detector that a folder's file was made with; None where there is no such file."""
    if not (folder / NAME).is_file():
        return None
    with (
        contextlib.closing(sqlite3.connect(folder / NAME)) as db,
        contextlib.suppress(sqlite3.Error, ValueError, TypeError, UsageError),
    ):
        row = db.execute("SELECT value FROM meta WHERE key = 'made_by'").fetchone()
        model, detector = json.loads(row[0])
        return build(Binding, model, "model", fails=UsageError), str(detector).split()[0]
    return None


class FaceCache:
    """Embeddings and small pictures of faces, in a file that its owner alone can read. Close it, or use ``with``."""

    def __init__(self, folder: Path, recognizer: FaceRecognizer, detector: str, *, forget: bool = False) -> None:
        """Opens the file in a folder, or makes it.

        Args:
            folder: where the file is.
            recognizer: finds and embeds faces.
            detector: what the recognizer's detector is called.
            forget: drop what another model or detector found, and names whose photos are gone.

        Raises:
            UsageError: not such a file, it cannot be written, or another model or detector made it.
        """
        self._forget = forget
        self.path = folder / NAME
        self._recognizer = recognizer
        made_by = json.dumps([asdict(binding_of(recognizer.model)), detector])
        with self._explained():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(self.path, isolation_level=None)
            for pragma in ("foreign_keys = ON", "secure_delete = ON", "temp_store = MEMORY"):
                self._db.execute(f"PRAGMA {pragma}")
            application = self._db.execute("PRAGMA application_id").fetchone()[0]
            if application not in (0, _APPLICATION):
                raise UsageError(f"{shown(self.path)}: not a file of `edgeface group`; name another --output")
            self._db.execute("BEGIN IMMEDIATE")  # all tables or none, should the disk be full
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            for table in _TABLES:
                self._db.execute(table)
            self._db.execute("COMMIT")
            known = self._db.execute("SELECT value FROM meta WHERE key = 'made_by'").fetchone()
            if known not in (None, (made_by,)) and not forget:
                model, with_detector = json.loads(known[0])
                was = named(Binding(**model))
                raise UsageError(
                    f"{shown(folder)}: made with {was.name} {was.precision} and {with_detector}; name another "
                    "--output, or --forget what is there"
                )
            if known != (made_by,):
                self._delete(self._paths())
                self._db.execute("DELETE FROM meta WHERE key IN ('last_number', 'joined', 'page')")
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('made_by', ?)", (made_by,))

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def photos(self) -> list[Path]:
        """All photos that the file knows, sorted."""
        with self._explained():
            return sorted(map(_path, self._paths()))

    def look(
        self, photos: Sequence[Path], progress: Callable[[Sequence[Path]], Iterable[Path]] = iter
    ) -> dict[Path, str]:
        """Makes the file hold the faces of these photos and of no others.

        Photos whose size and time of change are as they were are not read again. Each photo is kept as soon as it was
        looked at.

        Args:
            photos: files.
            progress: wraps the photos that are still to be looked at.

        Returns:
            Why photos cannot be read.

        Raises:
            UsageError: the file cannot be written, or all photos of somebody who has a name are gone or changed.
        """
        with self._explained():
            known = dict(self._db.execute("SELECT path, state FROM photo"))
            left = [photo for photo in photos if known.get(os.fsencode(photo)) != _state(photo)]
            changed = known.keys() & set(map(os.fsencode, left))
            gone = changed | known.keys() - set(map(os.fsencode, photos))
            self._keep_names(gone)
            self._delete(gone)
            for photo in progress(left):
                self._look(photo)
            refused = self._db.execute("SELECT path, reason FROM photo WHERE reason IS NOT NULL ORDER BY path")
            return {_path(path): reason for path, reason in refused}

    def faces(self) -> list[SeenFace]:
        """All faces, by photo and the most confident first."""
        with self._explained():
            rows = self._db.execute(
                "SELECT id, path, name, detection, sharpness, concerns, place, embedding, shown_as "
                "FROM face ORDER BY path, id"
            ).fetchall()
            found = [
                SeenFace(
                    one, _path(path), who, _face(place, detection), sharp, concerns, np.frombuffer(row, "<f4"), group
                )
                for one, path, who, detection, sharp, concerns, place, row, group in rows
            ]
            length = self._recognizer.model.contract.embedding.length
            for face in found:
                if len(face.embedding) != length or not np.isfinite(face.embedding).all():
                    raise ValueError(f"face {face.id} is not {length} finite numbers")
        return found

    def tile(self, face: int) -> bytes:
        """A JPEG picture of a face, ``TILE`` pixels wide and high."""
        with self._explained():
            return bytes(self._db.execute("SELECT tile FROM face WHERE id = ?", (face,)).fetchone()[0])

    def last_number(self) -> int:
        """The largest number that a group ever had; 0 where none had one."""
        with self._explained():
            shown_as = self._db.execute("SELECT max(shown_as) FROM face").fetchone()[0]
            return int(self._meta("last_number", str(shown_as or 0)))

    def hide(self) -> None:
        """Lets no number mean anything until ``show`` is called: the page is about to change."""
        with self._explained():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('page', '0')")

    def show(self, groups: Mapping[int, Iterable[int]], joined: Mapping[int, int]) -> None:
        """Keeps which faces the page shows as which group, so that ``name`` means what the user sees.

        Args:
            groups: of each number, the faces.
            joined: of numbers that became part of another group, that group's; those of earlier runs are kept.
        """
        rows = [(number, face) for number, faces in groups.items() for face in faces]
        parts = {old: joined.get(number, number) for old, number in self._joined().items()} | dict(joined)
        parts = {old: number for old, number in parts.items() if number in groups}
        last = max([self.last_number(), *groups])
        with self._explained():
            self._db.execute("BEGIN")
            self._db.execute("UPDATE face SET shown_as = NULL")
            self._db.executemany("UPDATE face SET shown_as = ? WHERE id = ?", rows)
            state = {"last_number": str(last), "joined": json.dumps(parts), "page": "1"}
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", state.items())
            self._db.execute("COMMIT")

    def name(self, names: Mapping[int | str, str]) -> None:
        """Keeps whom the groups show: their number on the page, or the name that they have, and the name.

        A number of a group that became part of another stands for that one. The name that a group has already changes
        nothing.

        Raises:
            UsageError: there is no such group or name, or a group that has a number has another name; then none is
                named.
        """
        with self._explained():
            faces = self._db.execute("SELECT id, name, shown_as FROM face ORDER BY path, id").fetchall()
            counts: defaultdict[int, Counter[str | None]] = defaultdict(Counter)
            for _, known, number in faces if self._meta("page", "1") == "1" else ():
                if number is not None:
                    counts[number][known] += known is not None  # faces without a name do not outvote the others
            called = {number: names_of.most_common(1)[0][0] for number, names_of in counts.items()}
            people, joined, page = {known for _, known, _ in faces}, self._joined(), shown(self.path.parent)
            given: dict[int, str] = {}
            for group, name in names.items():
                if isinstance(group, str):
                    if group not in people:
                        raise UsageError(f"nobody is named {group}: {page}/groups.html shows who has which name")
                    continue
                number = joined.get(group, group)
                if number not in called:
                    has = f"see {page}/groups.html" if called else f"{page} has no groups; run without --name first"
                    raise UsageError(f"no group {group}: {has}")
                who = f"group {group}" if number == group else f"group {group}, part of group {number},"
                if called[number] not in (None, name):
                    rename = shlex.quote(f"{called[number]}={name}")
                    raise UsageError(f"{who} is named {called[number]} already; --name {rename} renames it")
                if given.setdefault(number, name) != name:
                    raise UsageError(f"{who} cannot be both {given[number]} and {name}")
            fresh = {number: name for number, name in given.items() if called[number] is None}
            rows = [(names[known], face) for face, known, _ in faces if known in names]
            rows += [(fresh[number], face) for face, _, number in faces if number in fresh]
            self._db.execute("BEGIN")
            self._db.executemany("UPDATE face SET name = ? WHERE id = ?", rows)
            self._db.execute("COMMIT")

    def made(self) -> list[str]:
        """The files that runs have made for people to look at, below the folder."""
        with self._explained():
            return list(json.loads(self._meta("made", "[]")))

    def set_made(self, files: Sequence[str]) -> None:
        """Keeps which files runs have made, so that a later one removes these and no others."""
        with self._explained():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('made', ?)", (json.dumps(files),))

    def _meta(self, key: str, default: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else default

    def _joined(self) -> dict[int, int]:
        with self._explained():
            return {int(old): int(number) for old, number in json.loads(self._meta("joined", "{}")).items()}

    def _keep_names(self, gone: set[bytes]) -> None:
        """Raises UsageError where a name would go with these photos: they may lie on a disk that is not there."""
        named = self._db.execute("SELECT name, path FROM face WHERE name IS NOT NULL").fetchall()
        lost = {name for name, _ in named} - {name for name, path in named if path not in gone}
        if lost and not self._forget:
            raise UsageError(
                f"{shown(self.path.parent)}: all photos of {', '.join(sorted(lost)[:5])} are changed, gone or not "
                "among these; name all folders of photos, another --output, or --forget these names"
            )

    def _paths(self) -> list[bytes]:
        return [row[0] for row in self._db.execute("SELECT path FROM photo")]

    def _delete(self, paths: Iterable[bytes]) -> None:
        """Deletes photos and their faces, and overwrites what the file held of them."""
        rows = [(path,) for path in paths]
        if rows:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM photo WHERE path = ?", rows)
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('stale', '1')")
            self._db.execute("COMMIT")
        if self._db.execute("SELECT 1 FROM meta WHERE key = 'stale' AND value = '1'").fetchone():
            self._db.execute("VACUUM")  # SQLite leaves copies of rows in its pages
            self._db.execute("UPDATE meta SET value = '0' WHERE key = 'stale'")

    def _look(self, photo: Path) -> None:
        rows: list[tuple[object, ...]] = []
        reason, state = None, _state(photo)
        try:
            pixels = open_photo(photo)
            rows = [self._row(photo, pixels, face) for face in find_faces(pixels, self._recognizer.detector)[0]]
        except ImageError as error:
            reason = str(error)
        self._db.execute("BEGIN")
        self._db.execute("INSERT INTO photo VALUES (?, ?, ?)", (os.fsencode(photo), state, reason))
        self._db.executemany(
            "INSERT INTO face (path, detection, sharpness, concerns, place, embedding, tile) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        self._db.execute("COMMIT")

    def _row(self, photo: Path, pixels: Pixels, face: Face) -> tuple[object, ...]:
        sample = examine(self._recognizer, pixels, face)
        center = face.landmarks.mean(axis=0)
        picture, tile = align(pixels, center + (face.landmarks - center) * np.float32(_AROUND), TILE), io.BytesIO()
        Image.fromarray(picture).save(tile, "JPEG", quality=80)
        place = np.concatenate([face.box, face.landmarks.ravel()]).astype("<f4").tobytes()
        embedding = sample.embedding.astype("<f4").tobytes()
        concerns = "; ".join(sample.concerns)
        return os.fsencode(photo), float(face.score), sample.sharpness, concerns, place, embedding, tile.getvalue()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            locked = "locked" in str(error)
            hint = "another `edgeface group` writes to it" if locked else f"{error}; delete it and run again"
            raise UsageError(f"{shown(self.path)}: {hint}") from error
        except OSError as error:
            raise UsageError(f"{shown(self.path)}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            # SQLite keeps whatever type is written, and bytes that are no text.
            raise UsageError(
                f"{shown(self.path)}: damaged ({first_line(error)[:100]}); delete it and run again"
            ) from error


def _path(stored: bytes) -> Path:
    return Path(os.fsdecode(stored))


def _state(photo: Path) -> str:
    """Changes when the file does; empty where it is gone."""
    try:
        found = photo.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _face(place: bytes, detection: float) -> Face:
    numbers = np.frombuffer(place, "<f4")
    return Face(numbers[:4], detection, numbers[4:].reshape(5, 2))
