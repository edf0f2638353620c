"""The gallery's file while it is open, and what of it is in memory: all embeddings, or an index of them."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import described, shown
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
_REMEDY = "remove it (gallery remove, with --photo), or write a sound copy (gallery check --repair)"
_TOLD = 5  # damaged photos that are named one by one
PHOTO = "photo.id, person.name, photo.source, photo.added, photo.sharpness, photo.size, photo.yaw, photo.pitch"
_WHOLE = 9  # columns of it with an embedding in front
_KINDS = (("its number", int), ("its name", str), ("its source", str), ("its time", str))
_MEASURED = ("sharpness", "size", "yaw", "pitch")


def fault(row: Sequence[object]) -> str | None:
    """What is wrong with a row of ``PHOTO``, or with its first two values; None where nothing is."""
    for (what, kind), value in zip(_KINDS, row, strict=False):
        # SQLite keeps whatever type is written; text that is not UTF-8 comes with half characters.
        if not isinstance(value, kind) or (isinstance(value, str) and not _is_text(value)):
            return f"{what} is {described(value)}"
    for what, measure in zip(_MEASURED, row[len(_KINDS) :], strict=False):
        if not isinstance(measure, (int, float)) or not np.isfinite(measure):
            return f"its {what} is {described(measure)}"
    return None


def _is_text(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value) and len(value) < 10_000


def _named(name: object) -> str:
    return name if isinstance(name, str) and name.isprintable() and len(name) < 200 else described(name)


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
        self.damaged: dict[str, str] = {}
        """Photos that were passed over, by id: a line each."""
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
        return self.sound(f"embedding, photo.id, name {FROM} WHERE name = ?", (name,))[1]

    def sound(self, query: str, values: Sequence[object] = ()) -> tuple[list[tuple[Any, ...]], Rows]:
        """The rows of a query without those that are damaged, which go to ``damaged``.

        Args:
            query: what to select: the embedding, the photo's id, the person's name, then whatever ``Photo`` has.
            values: of the query.

        Returns:
            The rows without their embeddings, and the embeddings.
        """
        with self.reading() as db:
            photos = db.execute(f"SELECT {query}", tuple(values)).fetchall()
        return self._sound(photos)

    def _sound(self, photos: Sequence[tuple[Any, ...]]) -> tuple[list[tuple[Any, ...]], Rows]:
        length, item = self.binding.length, ITEMS[self.precision]
        kept = []
        for photo in photos:
            why = fault(photo[1 : 3 if len(photo) < _WHOLE else None])
            if not isinstance(photo[0], bytes) or len(photo[0]) != length * item.itemsize:
                why = f"its embedding is not {length} {self.precision} numbers"
            if why:
                self._note(photo, why)
            else:
                kept.append(photo)
        rows = read_rows(b"".join(photo[0] for photo in kept), self.precision, length)
        sizes = np.square(rows.vectors, dtype=np.float64).sum(axis=1)
        whole = np.isfinite(sizes) & ((sizes > 0) | (rows.scales is None))  # nothing brings zeros in 8 bits to length 1
        if not whole.all():
            for place in np.flatnonzero(~whole):
                self._note(kept[place], f"its embedding is not {length} finite numbers")
            kept = [photo for photo, good in zip(kept, whole, strict=True) if good]
            rows = read_rows(b"".join(photo[0] for photo in kept), self.precision, length)
        return [photo[1:] for photo in kept], rows

    def _note(self, photo: Sequence[object], why: str) -> None:
        number = photo[1] if isinstance(photo[1], int) else described(photo[1])
        line = f"{shown(self.path)}: damaged: photo {number} of {_named(photo[2])} is passed over: {why}; {_REMEDY}"
        if self.damaged.setdefault(str(number), line) is line and len(self.damaged) <= _TOLD + 1:
            if len(self.damaged) > _TOLD:
                line = f"{shown(self.path)}: damaged: more photos are passed over; {_REMEDY}"
            logging.getLogger("edgeface").warning("%s", line)  # to stderr unless the app says otherwise

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
                photos, rows = self._sound(photos)
                self._matrix.add(rows)
            else:
                photos = [photo[1:] for photo in photos if not fault(photo[1:3])]
            new += [(photo[0], photo[2]) for photo in photos]
            names |= {photo[2]: photo[1] for photo in photos}
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
        photos, rows = self.sound(f"embedding, photo.id, name {FROM} {wanted}", (json.dumps(ids.tolist()),))
        return np.array([photo[0] for photo in photos], np.int64), rows

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

    def repair(self, path: Path) -> list[str]:
        """Writes the sound photos to a new file, and gives a line for each that is left out.

        Row by row, so that a page that cannot be read takes only its own rows with it.

        Raises:
            GalleryError: there is a file of that name, or it cannot be written.
        """
        with new_gallery(path) as part:
            new = Store(part, self.binding, self.precision, index=False, detector=self.detector)
            try:
                with new.writing() as db:
                    for number in self._numbers():
                        try:
                            photos, rows = self.sound(f"embedding, {PHOTO} {FROM} WHERE photo.id = ?", (number,))
                        except GalleryError as error:
                            self.damaged[str(number)] = f"{self.path}: damaged: photo {number}: {error}"
                            continue
                        for photo in photos:
                            packed = rows.vectors[0].astype(ITEMS[self.precision]).tobytes()
                            new.insert(db, photo[1], photo[2:], packed)
                        if not photos and str(number) not in self.damaged:
                            self.damaged[str(number)] = f"{self.path}: damaged: photo {number}: of nobody"
            finally:
                new.close()
        return list(self.damaged.values())

    def _numbers(self) -> list[object]:
        """Of all photos that the file can still tell."""
        found: list[object] = []
        with contextlib.suppress(GalleryError), self.reading() as db:
            for (number,) in db.execute("SELECT id FROM photo"):
                found.append(number)
        return found

    def overwrite(self) -> None:
        """Overwrites what the file still holds of what was removed from it."""
        try:
            with self._lock, explained(self.path):
                overwrite(self._db, self.path)
        except GalleryError as error:
            raise GalleryError(
                f"{error}. The change itself is made; what it removed is overwritten when the gallery is next opened"
            ) from error
