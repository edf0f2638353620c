"""The people who are known: one SQLite file, bound to the model whose embeddings it holds (docs/privacy.md)."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.enrolment import disagreements, examine
from edgeface_runtime.errors import EnrolmentError, GalleryError, UsageError
from edgeface_runtime.gallery_file import Binding, binding_of, connect, explained, overwrite, read_binding, write_export
from edgeface_runtime.recognizer import FaceRecognizer, called

if TYPE_CHECKING:
    from edgeface_runtime.images import Source
    from edgeface_runtime.model import Model

_LONGEST_NAME = 200
_PHOTO = "photo.id, person.name, photo.source, photo.added, photo.sharpness, photo.size, photo.yaw, photo.pitch"
_FROM = "FROM photo JOIN person ON person.id = photo.person"


@dataclass(frozen=True)
class Photo:
    """One enrolled photo, of which only the embedding is kept."""

    id: int
    name: str
    """Who it shows."""
    source: str
    """Name of the file, without its folder; empty where there was none."""
    added: str
    """When, in UTC, ISO 8601."""
    sharpness: float
    size: float
    """Of the face, pixels."""
    yaw: float
    """Degrees."""
    pitch: float
    """Degrees."""


@dataclass(frozen=True)
class Candidate:
    """One person a face may show."""

    name: str
    score: float
    """Cosine to the nearest of the person's photos, −1 to 1."""


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """All embeddings, a person's side by side."""

    version: int
    matrix: NDArray[np.float32]
    starts: NDArray[np.intp]
    """First row of each person."""
    names: tuple[str, ...]


class Gallery:
    """People and the embeddings of their photos. Open it with ``Gallery.open`` and close it, or use ``with``.

    One object may be used from several threads, and several processes may have the file open, one of them writing
    at a time. What a method has returned is on the disk; a process killed at any moment leaves the file as it was
    before or after the method.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, binding: Binding, recognizer: FaceRecognizer | None
    ) -> None:
        self.path = path
        self.binding = binding
        self._db = connection
        self._recognizer = recognizer
        self._lock = threading.RLock()
        self._cache: _Snapshot | None = None

    @classmethod
    def open(cls, path: str | Path, recognizer: FaceRecognizer | None = None) -> Gallery:
        """Opens a gallery; makes one, readable by its owner alone, where there is none.

        Args:
            path: the file.
            recognizer: what finds and embeds the faces of photos. Without one an existing gallery can be
                searched, listed, changed and exported, but nobody can be enrolled.

        Raises:
            GalleryError: no gallery, damaged, of a newer edgeface, or made with another model.
        """
        path = Path(path)
        wanted = binding_of(recognizer.model) if recognizer else None
        connection = connect(path, wanted)
        try:
            with explained(path):
                gallery = cls(path, connection, read_binding(connection, path), recognizer)
            if recognizer:
                gallery.require(recognizer.model)
        except BaseException:
            connection.close()
            raise
        return gallery

    def close(self) -> None:
        """Closes the file; the object is of no use afterwards."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many photos are enrolled."""
        return len(self._snapshot().matrix)

    def require(self, model: Model) -> None:
        """Raises GalleryError unless the gallery's embeddings can be compared with the model's."""
        wanted = binding_of(model)
        if not self.binding.fits(wanted):
            raise GalleryError(
                f"{self.path}: made with {self.binding.called}, not with {wanted.called}, and their embeddings cannot "
                "be compared: re-enrol the photos in a new gallery"
            )

    def enroll(self, name: str, photo: Source, *, force: bool = False) -> Photo:
        """Adds one photo of a person, who is new or known.

        A photo that is already there is not added again. A photo that is blurred, small, turned away, shows
        several faces, disagrees with the person's other photos or looks like somebody else is refused.

        Args:
            name: who it shows.
            photo: an image; the largest central face counts.
            force: take a photo that would be refused.

        Raises:
            ImageError: the photo cannot be read or shows no face.
            EnrolmentError: the photo is refused; the message says why.
            GalleryError: the file cannot be written.
            UsageError: the name cannot be used, or the gallery was opened without a recogniser.
        """
        if self._recognizer is None:
            raise UsageError(f"{self.path}: opened without a recogniser, so nobody can be enrolled")
        name = _checked(name)
        sample = examine(self._recognizer, photo)
        source = unicodedata.normalize("NFC", called(Path(photo).name)) if isinstance(photo, (str, Path)) else ""
        with self._writing() as db:
            known = db.execute(
                f"SELECT {_PHOTO} {_FROM} WHERE name = ? AND embedding = ?", (name, sample.embedding.tobytes())
            ).fetchone()
            if known:
                return Photo(*known)
            concerns = () if force else (*sample.concerns, *self._doubts(self._recognizer, name, sample.embedding))
            if concerns:
                raise EnrolmentError(
                    f"{called(photo)}: not enrolled as {name}: {'; '.join(concerns)}; force (--force) takes it"
                )
            db.execute("INSERT INTO person (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            row = (source, datetime.now(UTC).isoformat(timespec="seconds"), sample.sharpness, sample.size, sample.yaw)
            cursor = db.execute(
                "INSERT INTO photo (person, source, added, sharpness, size, yaw, pitch, embedding) "
                "SELECT id, ?, ?, ?, ?, ?, ?, ? FROM person WHERE name = ?",
                (*row, sample.pitch, sample.embedding.tobytes(), name),
            )
            return Photo(int(cursor.lastrowid or 0), name, *row, sample.pitch)

    def remove(self, name: str, photo: int | None = None) -> int:
        """Removes a person, or one photo of a person, and overwrites what the file held of it.

        Args:
            name: who.
            photo: the ``id`` of the photo; all of the person's where None. With the last photo the person goes.

        Returns:
            How many photos were removed.

        Raises:
            GalleryError: nobody of that name, no such photo of that person, or the file cannot be written.
        """
        name = _checked(name)
        with self._writing() as db:
            where = "person = (SELECT id FROM person WHERE name = ?) AND id = coalesce(?, id)"
            removed = db.execute(f"DELETE FROM photo WHERE {where}", (name, photo)).rowcount
            if not removed:
                what = f"nobody called {name}" if photo is None else f"no photo {photo} of {name}"
                raise GalleryError(f"{self.path}: {what}")
            db.execute("DELETE FROM person WHERE id NOT IN (SELECT person FROM photo)")
            db.execute("UPDATE meta SET value = '1' WHERE key = 'stale'")
        self._overwrite()
        return removed

    def rename(self, old: str, new: str) -> None:
        """Gives a person another name.

        Raises:
            GalleryError: nobody is called ``old``, or somebody is called ``new`` already.
            UsageError: the new name cannot be used.
        """
        old, new = _checked(old), _checked(new)
        with self._writing() as db:
            if db.execute("SELECT 1 FROM person WHERE name = ? AND name != ?", (new, old)).fetchone():
                raise GalleryError(f"{self.path}: somebody is called {new} already")
            if not db.execute("UPDATE person SET name = ? WHERE name = ?", (new, old)).rowcount:
                raise GalleryError(f"{self.path}: nobody called {old}")
            db.execute("UPDATE meta SET value = '1' WHERE key = 'stale'")
        self._overwrite()

    def photos(self) -> list[Photo]:
        """All enrolled photos, by person's name and in the order of enrolment."""
        with self._lock, explained(self.path):
            rows = self._db.execute(f"SELECT {_PHOTO} {_FROM} ORDER BY name, photo.id").fetchall()
        return [Photo(*row) for row in rows]

    def search(self, embeddings: NDArray[np.float32], k: int = 1) -> list[list[Candidate]]:
        """The nearest people, exactly: every embedding is compared, in one matrix product.

        Args:
            embeddings: (N, D) float32, rows of length 1.
            k: how many people for each row, at least 1.

        Returns:
            N lists of at most ``k`` people, the nearest first; equal scores in the order of enrolment.

        Raises:
            UsageError: the embeddings have another length, or ``k`` is below 1.
            GalleryError: the file cannot be read.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.binding.length:
            raise UsageError(f"embeddings are {embeddings.shape}, those of {self.path} (N, {self.binding.length})")
        if k < 1:
            raise UsageError(f"k is {k}; it must be at least 1")
        people = self._snapshot()
        if not people.names:
            return [[] for _ in embeddings]
        scores = people.matrix @ embeddings.T
        best = np.maximum.reduceat(scores, people.starts, axis=0).T
        return [_nearest(people.names, row, min(k, len(people.names))) for row in best]

    def export(self, path: str | Path) -> None:
        """Writes everything that is stored, embeddings and all, to a ``.json`` or ``.csv`` file.

        Raises:
            UsageError: another suffix, or the file cannot be written.
            GalleryError: the gallery cannot be read.
        """
        with self._lock, explained(self.path):
            rows = self._db.execute(f"SELECT {_PHOTO}, embedding {_FROM} ORDER BY name, photo.id").fetchall()
        photos = [(asdict(Photo(*row[:-1])), np.frombuffer(row[-1], "<f4")) for row in rows]
        write_export(Path(path), self.binding, photos)

    def _doubts(self, recognizer: FaceRecognizer, name: str, embedding: NDArray[np.float32]) -> tuple[str, ...]:
        people = self._snapshot()
        best = {found.name: found.score for found in self.search(embedding[None], max(1, len(people.names)))[0]}
        return disagreements(recognizer, name, best, len(people.matrix))

    def _snapshot(self) -> _Snapshot:
        """All embeddings as they are now; read again only when somebody has changed the file."""
        with self._lock, explained(self.path):
            # Counts the changes by others. Read first: what changes in between is then seen at the next call.
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
            if self._cache is None or self._cache.version != version:
                rows = self._db.execute(f"SELECT person.id, name, embedding {_FROM} ORDER BY person.id, photo.id")
                self._cache = _snapshot(version, rows.fetchall(), self.binding.length, self.path)
            return self._cache

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._lock, explained(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._cache = None  # data_version does not count what this connection changes

    def _overwrite(self) -> None:
        try:
            with self._lock, explained(self.path):
                overwrite(self._db)
        except GalleryError as error:
            raise GalleryError(
                f"{error}. The change itself is made; what it removed is overwritten when the gallery is next opened"
            ) from error


def _checked(name: str) -> str:
    """The name in the one form in which it is stored."""
    name = unicodedata.normalize("NFC", name).strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(f"a person's name is 1 to {_LONGEST_NAME} printable characters, not {name[:50]!r}")
    return name


def _nearest(names: Sequence[str], scores: NDArray[np.float32], k: int) -> list[Candidate]:
    least = np.partition(scores, -k)[-k]
    rows = np.flatnonzero(scores >= least)
    order = rows[np.argsort(-scores[rows], kind="stable")][:k]
    return [Candidate(names[row], float(scores[row])) for row in order]


def _snapshot(version: int, rows: list[tuple[int, str, bytes]], length: int, path: Path) -> _Snapshot:
    if any(len(row[2]) != 4 * length for row in rows):
        raise GalleryError(f"{path}: damaged: an embedding is not of {length} floats; put a copy in its place")
    matrix = np.frombuffer(b"".join(row[2] for row in rows), "<f4").reshape(-1, length)
    people = np.array([row[0] for row in rows], np.int64)
    starts = np.flatnonzero(np.diff(people, prepend=-1))
    return _Snapshot(version, matrix, starts, tuple(rows[start][1] for start in starts))
