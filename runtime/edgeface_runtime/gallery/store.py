"""The gallery's file while it is open, and what of it is in memory: all embeddings, or an index of them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.errors import GalleryError
from edgeface_runtime.gallery.database import (
    Binding,
    connect,
    explained,
    overwrite,
    read_binding,
    read_index,
    read_precision,
    write_index,
)
from edgeface_runtime.gallery.index import NearIndex
from edgeface_runtime.gallery.search import (
    ITEMS,
    Candidate,
    People,
    Precision,
    Rows,
    best_scores,
    nearest,
    people_of,
    read_rows,
    scores,
)

FROM = "FROM photo JOIN person ON person.id = photo.person"
_SAVED = 500  # new photos in the index before it is written without being closed


class Store:
    """One open file; may be used from several threads."""

    def __init__(self, path: Path, binding: Binding | None, precision: Precision, index: bool) -> None:
        """Opens it, or makes it for ``binding`` and ``precision``; where ``binding`` is None it must be there.

        Raises:
            GalleryError: no gallery, damaged, or of a newer edgeface.
            MissingExtraError: ``index`` and usearch is absent.
        """
        self.path, self._unsaved, self._lock = path, 0, threading.RLock()
        self._cache: People | None = None
        self._db = connect(path, binding, precision)
        try:
            with explained(path):
                self.binding = read_binding(self._db, path)
                self.precision = read_precision(self._db)
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
        return [nearest(people.names, row, k) for row in best_scores(people, people.rows, embeddings)]

    def embeddings_of(self, name: str) -> Rows:
        """Those of one person's photos."""
        with self.reading() as db:
            rows = db.execute(f"SELECT embedding {FROM} WHERE name = ?", (name,)).fetchall()
        return self.rows([row[0] for row in rows])

    def snapshot(self) -> People:
        """All photos as they are now; read again only when somebody has changed the file."""
        with self._lock, explained(self.path):
            # Counts the changes by others. Read first: what changes in between is then seen at the next call.
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
            if self._cache is None or self._cache.version != version:
                wanted = "photo.id, person.id, name" if self._index else "photo.id, person.id, name, embedding"
                photos = self._db.execute(f"SELECT {wanted} {FROM} ORDER BY person.id, photo.id").fetchall()
                rows = None if self._index else self.rows([photo[3] for photo in photos])
                self._cache = people_of(version, photos, rows)
                if self._index:
                    self._unsaved += self._index.update(self._cache.ids, self._fetch)
                    self._save_index(_SAVED)
            return self._cache

    def rows(self, embeddings: list[bytes]) -> Rows:
        """Embeddings as they are stored, ready to be compared.

        Raises:
            GalleryError: one of them has another length.
        """
        length = self.binding.length
        if any(len(row) != length * ITEMS[self.precision].itemsize for row in embeddings):
            raise GalleryError(
                f"{self.path}: damaged: an embedding is not of {length} {self.precision} numbers; put a copy there"
            )
        return read_rows(b"".join(embeddings), self.precision, length)

    def _fetch(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], Rows]:
        """Those of the photos that are still there, by id."""
        wanted = "WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        found = self._db.execute(f"SELECT id, embedding FROM photo {wanted}", (json.dumps(ids.tolist()),)).fetchall()
        return np.array([row[0] for row in found], np.int64), self.rows([row[1] for row in found])

    def _proposed(self, people: People, query: NDArray[np.float32], k: int) -> list[Candidate]:
        """The nearest of those that the index proposes; it is asked for more until they are ``k`` people."""
        assert self._index
        count = 16 + 4 * k
        with self._lock, explained(self.path):
            while True:
                who = np.unique(people.owners(self._index.nearest(query, count)))
                if len(who) >= k or count >= len(people.ids):
                    break
                count *= 4
            ids, rows = self._fetch(people.photos(who))
        best = np.full(len(who), -np.inf, np.float32)
        np.maximum.at(best, np.searchsorted(who, people.owners(ids)), scores(rows, query[None])[0])
        return nearest([people.names[person] for person in who], best, min(k, len(who)))

    def _save_index(self, least: int) -> None:
        """Writes the index if it is of the file as it is now and has at least that much new."""
        if self._index is None or self._cache is None or self._unsaved < least:
            return
        snapshot = self._cache
        # Without it the next opening builds the index again, which is no reason to stop. While it is written nobody
        # else may remove a person: their embedding would stay in it.
        with contextlib.suppress(GalleryError, OSError), self.writing() as db:
            if db.execute("PRAGMA data_version").fetchone()[0] == snapshot.version:
                write_index(db, self.path, self._index.save)
                self._unsaved = 0
        self._cache = snapshot

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
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

    def overwrite(self) -> None:
        """Overwrites what the file still holds of what was removed from it."""
        try:
            with self._lock, explained(self.path):
                overwrite(self._db, self.path)
        except GalleryError as error:
            raise GalleryError(
                f"{error}. The change itself is made; what it removed is overwritten when the gallery is next opened"
            ) from error
