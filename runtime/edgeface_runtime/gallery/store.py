"""The gallery's file while it is open, and what of it is in memory: all embeddings, or an index of them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.errors import GalleryError
from edgeface_runtime.gallery.database import (
    Binding,
    connect,
    copy_database,
    explained,
    is_encrypted,
    new_gallery,
    overwrite,
    read_binding,
    read_detector,
    read_index,
    read_precision,
    write_index,
)
from edgeface_runtime.gallery.index import NearIndex
from edgeface_runtime.gallery.search import (
    ITEMS,
    Candidate,
    GrowingRows,
    People,
    Precision,
    Rows,
    nearest_owners,
    nearest_people,
    read_rows,
    scores,
)

FROM = "FROM photo JOIN person ON person.id = photo.person"
_SAVED = 500  # new photos in the index before it is written without being closed
_READ = 4096  # photos that are read at a time
_NONE = np.empty(0, np.int64)


class Store:
    """One open file; may be used from several threads."""

    def __init__(
        self, path: Path, binding: Binding | None, precision: Precision, index: bool, detector: str | None = None
    ) -> None:
        """Opens it, or makes it for what is given; where ``binding`` is None it must be there.

        Raises:
            GalleryError: no gallery, damaged, or of a newer edgeface.
            MissingExtraError: ``index`` and usearch is absent.
        """
        self.path, self._unsaved, self._lock = path, 0, threading.RLock()
        self._cache: People | None = None
        self._matrix: GrowingRows | None = None
        self._seen, self._schema = (
            (-1, -1),
            -1,
        )  # what ``_counted`` said before the cache was read, and the schema's version
        self._db = connect(path, binding, precision, detector)
        try:
            with explained(path):
                self.binding = read_binding(self._db, path)
                self.precision, self.detector = read_precision(self._db), read_detector(self._db)
                self._index = NearIndex(self.binding.length, read_index(self._db, path)) if index else None
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Closes the file; the object is of no use afterwards."""
        with self._lock:
            self._save_index(1)
            self._db.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        with self._lock, explained(self.path):
            yield self._db

    def nearest(self, embeddings: NDArray[np.float32], k: int) -> list[list[Candidate]]:
        """The ``k`` nearest people of each of (N, D) unit embeddings."""
        people = self.snapshot()
        if not people.names:
            return [[] for _ in embeddings]
        k = min(k, len(people.names))
        if people.rows is None:
            return [self._proposed(people, query, k) for query in embeddings]
        return nearest_people(people, people.rows, embeddings, k)

    def embeddings_of(self, name: str) -> Rows:
        """Those of one person's photos."""
        with self.reading() as db:
            photos = db.execute(f"SELECT embedding, photo.id, name {FROM} WHERE name = ?", (name,)).fetchall()
        return self.rows([photo[0] for photo in photos], [photo[1:] for photo in photos])

    def snapshot(self) -> People:
        """All photos as they are now; where photos were added and nothing else was done, only those are read."""
        with self._lock, explained(self.path):
            # Counted first: what others change in between is then seen at the next call.
            counted = self._counted()
            if self._cache is None or counted != self._seen:
                known, self._cache = self._cache, None  # reading may fail halfway
                self._cache, self._seen = self._read(known), counted
                self._save_index(_SAVED)
            return self._cache

    def rows(self, embeddings: Sequence[bytes], photos: Sequence[Sequence[object]] = ()) -> Rows:
        """Embeddings as they are stored, ready to be compared.

        Args:
            embeddings: the bytes of each.
            photos: of each the photo's id, the person's name, …: those of a damaged one are then said.

        Raises:
            GalleryError: one of them is damaged.
        """
        length = self.binding.length
        size = length * ITEMS[self.precision].itemsize
        wrong = [place for place, embedding in enumerate(embeddings) if len(embedding) != size]
        if not wrong:
            rows = read_rows(b"".join(embeddings), self.precision, length)
            if rows.scales is not None or not photos or np.isfinite(rows.vectors.sum()):
                return rows
            wrong = np.flatnonzero(~np.isfinite(rows.vectors).all(axis=1)).tolist()
        what = "photo {} of {}".format(*photos[wrong[0]]) if photos else "an embedding"
        raise GalleryError(
            f"{self.path}: damaged: {what} is not {length} {self.precision} numbers; put a copy of the gallery in its "
            "place, or remove the photo (edgeface gallery remove, with --photo)"
        )

    def _counted(self) -> tuple[int, int]:
        """Differs when the file was changed by others, or by this connection, which data_version passes over."""
        return self._value("PRAGMA data_version"), self._db.total_changes

    def _read(self, known: People | None) -> People:
        # Whoever removes or renames sets ``stale``, until the VACUUM that follows gives the schema another version.
        schema = self._value("PRAGMA schema_version")
        stale = self._value("SELECT count(*) FROM meta WHERE key = 'stale' AND value = '1'")
        count = self._value("SELECT count(*) FROM photo")
        people = self._with_new(known) if known and schema == self._schema and not stale else None
        if people is None or len(people.ids) != count or (np.diff(people.person_ids) < 0).any():
            self._matrix = None if self._index else GrowingRows(self.binding.length, self.precision, count)
            people = self._with_new(People(_NONE, _NONE, (), _NONE, None))
        self._schema = schema
        return people

    def _with_new(self, known: People) -> People:
        """``known`` and the photos that have come after them."""
        wanted = f"{'NULL' if self._index else 'embedding'}, photo.id, name, person.id"
        last = int(known.ids[-1]) if len(known.ids) else 0
        cursor = self._db.execute(f"SELECT {wanted} {FROM} WHERE photo.id > ? ORDER BY photo.id", (last,))
        new: list[tuple[int, int]] = []
        names: dict[int, str] = {}
        while photos := cursor.fetchmany(_READ):
            if self._matrix:
                self._matrix.add(self.rows([photo[0] for photo in photos], [photo[1:] for photo in photos]))
            new += [(photo[1], photo[3]) for photo in photos]
            names |= {photo[3]: photo[2] for photo in photos}
        ids, shown = np.array(new, np.int64).reshape(-1, 2).T
        whom = np.array(sorted(names), np.int64)
        places = (np.searchsorted(known.person_ids, whom, side) for side in ("left", "right"))
        fresh = whom[np.equal(*places)]
        person_ids = np.concatenate([known.person_ids, fresh])
        people = People(
            np.concatenate([known.ids, ids]),
            person_ids,
            (*known.names, *(names[person] for person in fresh.tolist())),
            np.concatenate([known.owners, np.searchsorted(person_ids, shown)]),
            self._matrix.rows() if self._matrix else None,
        )
        if self._index:
            self._unsaved += (
                self._index.add(ids, self._fetch) if len(known.ids) else self._index.update(ids, self._fetch)
            )
        return people

    def _value(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    def _fetch(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], Rows]:
        """Those of the photos that are still there, by id."""
        wanted = "WHERE photo.id IN (SELECT value FROM json_each(?)) ORDER BY photo.id"
        found = self._db.execute(f"SELECT embedding, photo.id, name {FROM} {wanted}", (json.dumps(ids.tolist()),))
        photos = found.fetchall()
        rows = self.rows([photo[0] for photo in photos], [photo[1:] for photo in photos])
        return np.array([photo[1] for photo in photos], np.int64), rows

    def _proposed(self, people: People, query: NDArray[np.float32], k: int) -> list[Candidate]:
        """The nearest of those that the index proposes; it is asked for more until they are ``k`` people."""
        assert self._index
        count = 16 + 4 * k
        with self._lock, explained(self.path):
            while True:
                who = np.unique(people.owners_of(self._index.nearest(query, count)))
                if len(who) >= k or count >= len(people.ids):
                    break
                count *= 4
            ids, rows = self._fetch(people.photos_of(who))
        return nearest_owners(people, people.owners_of(ids), scores(rows, query[None])[0], k)

    def _save_index(self, least: int) -> None:
        """Writes the index if it is of the file as it is now and has at least that much new."""
        if self._index is None or self._cache is None or self._unsaved < least:
            return
        if is_encrypted(self._db):  # an index holds embeddings in plain
            return
        # Without it the next opening builds the index again, which is no reason to stop. While it is written nobody
        # else may remove a person: their embedding would stay in it.
        with contextlib.suppress(GalleryError, OSError), self.writing() as db:
            if self._counted() == self._seen:
                write_index(db, self.path, self._index.save)
                self._unsaved = 0

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._lock, explained(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            changes = self._db.total_changes
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.total_changes != changes:
                    self._cache = None  # it may hold what is taken back
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def insert(self, db: sqlite3.Connection, name: str, details: tuple[object, ...], embedding: bytes) -> int:
        """Adds a photo within ``writing`` and returns its id; ``details`` are its source, time, sharpness … pitch."""
        db.execute("INSERT INTO person (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
        cursor = db.execute(
            "INSERT INTO photo (person, source, added, sharpness, size, yaw, pitch, embedding) "
            "SELECT id, ?, ?, ?, ?, ?, ?, ? FROM person WHERE name = ?",
            (*details, embedding, name),
        )
        return int(cursor.lastrowid or 0)

    def backup(self, path: Path) -> None:
        """Writes a copy of the file as it is at one moment, whoever writes meanwhile.

        Raises:
            GalleryError: there is a file already, the copy cannot be written, or this file is damaged.
        """
        with new_gallery(path) as part, self.reading() as db:
            copy_database(db, part)

    def overwrite(self) -> None:
        """Overwrites what the file still holds of what was removed from it."""
        try:
            with self._lock, explained(self.path):
                overwrite(self._db, self.path)
        except GalleryError as error:
            raise GalleryError(
                f"{error}. The change itself is made; what it removed is overwritten when the gallery is next opened"
            ) from error
