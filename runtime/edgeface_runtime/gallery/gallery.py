"""The people who are known: one SQLite file, bound to the model whose embeddings it holds (docs/privacy.md)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import Color, described, path_of, whole
from edgeface_runtime.detection.find import name_of
from edgeface_runtime.errors import EnrollmentError, GalleryError, UsageError
from edgeface_runtime.gallery.database import (
    UNSAID,
    binding_of,
    warn_of_mixture,
    write_export,
)
from edgeface_runtime.gallery.enrollment import (
    Enrollment,
    Photo,
    Refusal,
    Sample,
    WhichFace,
    checked_name,
    disagreements,
    examine,
    examine_all,
    from_now_on,
    in_turn,
    refusal,
)
from edgeface_runtime.gallery.search import (
    ITEMS,
    Candidate,
    Precision,
    pack,
    require_rows,
    scores,
    widened,
)
from edgeface_runtime.gallery.store import FROM, PHOTO, Store
from edgeface_runtime.gallery.transfer import Merge, merge, read_source, require_fit
from edgeface_runtime.gallery.versions import follow, misfit
from edgeface_runtime.images import ImageLike, called, shown
from edgeface_runtime.model import Model
from edgeface_runtime.protocols import FaceEncoder

_JUDGED = 1000  # photos of one person whose scores with each other are in memory at once


class Gallery:
    """People and the embeddings of their photos, in one file. Close it, or use ``with``.

    One object may be used from several threads, and several processes may have the file open, one of them writing
    at a time. What a method has returned is on the disk; a process killed at any moment leaves the file as it was
    before or after the method.
    """

    def __init__(
        self,
        path: str | Path,
        recognizer: FaceEncoder | None = None,
        *,
        precision: Precision | None = None,
        index: bool = False,
    ) -> None:
        """Opens a gallery; makes one, readable by its owner alone, where there is none.

        Args:
            path: the file. A new one is encrypted where there is a key (docs/privacy.md, "Encryption").
            recognizer: what finds and embeds the faces of photos. Without one an existing gallery can be
                searched, listed, changed and exported, but nobody can be enrolled.
            precision: how a new gallery stores embeddings: ``"float32"``, which None means too, or ``"int8"``, a
                quarter of the size.
            index: True: look at a part of the embeddings only, which an index proposes. Pays above some 100,000
                photos; needs the extra ``index``.

        Raises:
            GalleryError: no gallery, damaged, of a newer edgeface, made with another model, or of another
                ``precision``.
            EdgefaceWarning: the recognizer was told to find faces with another detector than the enrolled ones were
                found with; where it was told none, it finds them with that one from now on. Or it was told no model
                and takes the gallery's, which is an older version of a bundled one.
            UsageError: no such ``precision``.
            MissingExtraError: usearch is absent.
        """
        path = path_of("the gallery", path)
        if precision is not None and precision not in ITEMS:
            raise UsageError(f"no precision {precision!r}; choose {' or '.join(ITEMS)}")
        if recognizer is not None and not isinstance(recognizer, FaceEncoder):
            raise UsageError(f"the recognizer is {described(recognizer)}; make one with FaceRecognizer()")
        self.path, self._recognizer = path, recognizer
        binding, finding = (binding_of(recognizer.model), name_of(recognizer.detector)) if recognizer else (None, None)
        self._store = Store(path, binding, precision or "float32", index, finding)
        self.binding, self.precision = self._store.binding, self._store.precision
        self.detector = UNSAID if self._store.detector is None else self._store.detector
        try:
            if recognizer:
                if not self.binding.fits(binding_of(recognizer.model)):
                    follow(self.path, self.binding, recognizer)
                self.require(recognizer.model)
            if precision not in (None, self.precision):
                raise GalleryError(f"{path}: stores {self.precision} embeddings, not {precision}; make a new gallery")
            if recognizer:
                if take := getattr(recognizer, "follow_gallery", None):
                    take(self.detector)
                warn_of_mixture(path, self._store.detector, name_of(recognizer.detector))
        except BaseException:
            self._store.close()
            raise

    @classmethod
    def open(
        cls,
        path: str | Path,
        recognizer: FaceEncoder | None = None,
        *,
        precision: Precision | None = None,
        index: bool = False,
    ) -> Self:
        """``Gallery(…)`` under the name that files are opened by."""
        return cls(path, recognizer, precision=precision, index=index)

    def close(self) -> None:
        """Closes the file; the object is of no use afterwards."""
        self._store.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many photos are enrolled."""
        return len(self._store.snapshot().ids)

    def require(self, model: Model) -> None:
        """Raises GalleryError unless the gallery's embeddings can be compared with the model's."""
        if not self.binding.fits(binding_of(model)):
            raise GalleryError(misfit(self.path, self.binding, model))

    def enroll(
        self,
        name: str,
        photo: ImageLike,
        *,
        face: WhichFace | None = None,
        force: bool = False,
        color: Color = "rgb",
    ) -> Photo:
        """Adds one photo of a person, who is new or known.

        A photo that is already there is not added again. A photo that is dark, blurred, small, turned away, shows
        several faces of which none was chosen, disagrees with the person's other photos or looks like somebody else
        is refused.

        Args:
            name: who it shows.
            photo: an image.
            face: the face that is meant where there are several: ``"largest"``, a point (x, y) on it, its box
                (x0, y0, x1, y1), or one that ``faces``, ``identify`` or ``watch`` found on this image. Pixels of the
                upright photo.
            force: take a photo that would be refused; without ``face`` the largest central one.
            color: the order of an array's channels, ``"rgb"`` or ``"bgr"``.

        Returns:
            The photo, ``new`` where it was not there before.

        Raises:
            ImageError: the photo cannot be read, or shows no face there.
            NoFaceError: the photo shows no face.
            EnrollmentError: the photo is refused; the message says why.
            GalleryError: the file cannot be written.
            UsageError: the name or ``face`` cannot be used, or the gallery was opened without a recognizer.
        """
        recognizer, name = self._enrolling(), checked_name(name)
        added = self._add(recognizer, name, examine(recognizer, photo, face, color=color), force)
        return replace(added, notice=self._notice(recognizer, [added]))

    def enroll_all(
        self,
        name: str,
        photos: Iterable[ImageLike],
        *,
        face: str | None = None,
        force: bool = False,
        color: Color = "rgb",
    ) -> Enrollment:
        """Adds several photos of one person, who is new or known, judged as a whole.

        Whose photos they are is decided by the largest group of photos that are alike, or by the photos that are
        there already, not by which photo comes first. Where several groups are the largest, as with two photos of two
        people, nothing tells which is meant and they are refused.

        Args:
            name: who they show.
            photos: images, any number; at most 1,000 are judged at a time.
            face: ``"largest"``: of each photo with several faces the largest; else such a photo is refused.
            force: take photos that would be refused, but for those without a face.
            color: the order of arrays' channels, ``"rgb"`` or ``"bgr"``.

        Raises:
            GalleryError: the file cannot be written.
            UsageError: the name, ``photos`` or ``face`` cannot be used, or the gallery was opened without a recognizer.
        """
        if isinstance(photos, (str, bytes, bytearray)) or not isinstance(photos, Iterable):
            raise UsageError(f"photos is {described(photos)}; it must be a list of photos")
        recognizer, name, rest = self._enrolling(), checked_name(name), iter(photos)
        enrolled: list[Photo] = []
        refused: list[Refusal] = []
        notice = ""
        while batch := list(itertools.islice(rest, _JUDGED)):
            samples, unusable = examine_all(recognizer, batch, face, color)
            known = widened(self._store.embeddings_of(name))
            turns, left = (list(samples), {}) if force else in_turn(recognizer, name, samples, known)
            added: dict[int, Photo] = {}
            for i in turns:
                try:
                    added[i] = self._add(recognizer, name, samples[i], force)
                except EnrollmentError as error:
                    left[i] = str(error)
            notice = self._notice(recognizer, list(added.values())) or notice
            enrolled += [added[i] for i in sorted(added)]
            refused += [Refusal(name, called(batch[i]), reason) for i, reason in sorted((unusable | left).items())]
        return Enrollment(enrolled, refused, notice)

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
        name, photo = checked_name(name), None if photo is None else whole("photo", photo)
        with self._store.writing() as db:
            where = "person = (SELECT id FROM person WHERE name = ?) AND id = coalesce(?, id)"
            removed = db.execute(f"DELETE FROM photo WHERE {where}", (name, photo)).rowcount
            if not removed:
                what = f"nobody called {name}" if photo is None else f"no photo {photo} of {name}"
                raise GalleryError(f"{self.path}: {what}")
            db.execute("DELETE FROM person WHERE id NOT IN (SELECT person FROM photo)")
            db.execute("UPDATE meta SET value = '1' WHERE key = 'stale'")
        self._store.overwrite()
        return removed

    def rename(self, old: str, new: str) -> None:
        """Gives a person another name.

        Raises:
            GalleryError: nobody is called ``old``, or somebody is called ``new`` already.
            UsageError: the new name cannot be used.
        """
        old, new = checked_name(old), checked_name(new)
        with self._store.writing() as db:
            if db.execute("SELECT 1 FROM person WHERE name = ? AND name != ?", (new, old)).fetchone():
                raise GalleryError(f"{self.path}: somebody is called {new} already")
            if not db.execute("UPDATE person SET name = ? WHERE name = ?", (new, old)).rowcount:
                raise GalleryError(f"{self.path}: nobody called {old}")
            db.execute("UPDATE meta SET value = '1' WHERE key = 'stale'")
        self._store.overwrite()

    @property
    def damaged(self) -> list[str]:
        """A line for each photo that was passed over so far because its row is damaged; ``repair`` leaves them out."""
        return list(self._store.damaged.values())

    def photos(self) -> list[Photo]:
        """All enrolled photos, by person's name and in the order of enrolment; damaged ones are passed over."""
        return self.contents()[0]

    def contents(self) -> tuple[list[Photo], NDArray[np.float32]]:
        """All enrolled photos, as ``photos`` gives them, and their (N, D) float32 embeddings of length 1.

        Raises:
            GalleryError: the file cannot be read.
        """
        rows, embeddings = self._store.sound(f"embedding, {PHOTO} {FROM} ORDER BY name, photo.id")
        return [Photo(*row) for row in rows], widened(embeddings)

    def repair(self, path: str | Path) -> list[str]:
        """Writes all that is sound to a new gallery; this one stays as it is.

        Returns:
            A line for each photo that is left out.

        Raises:
            GalleryError: there is a file of that name, or it cannot be written.
        """
        return self._store.repair(path_of("the file to write", path))

    def search(self, embeddings: NDArray[np.float32], k: int = 1) -> list[list[Candidate]]:
        """The nearest people; exactly, every embedding is compared, unless the gallery was opened with an index.

        An index may pass over somebody who is near. The scores are exact either way.

        Args:
            embeddings: (N, D) float32, rows of length 1.
            k: how many people for each row, at least 1.

        Returns:
            N lists of at most ``k`` people, the nearest first; equal scores in the order of enrolment.

        Raises:
            UsageError: the embeddings have another length, or ``k`` is below 1.
            GalleryError: the file cannot be read.
        """
        require_rows(embeddings, self.binding.length)
        k = whole("k", k)
        return self._store.nearest(embeddings, k)

    def merge(self, source: str | Path, *, force: bool = False) -> Merge:
        """Adds the photos of another gallery, or of a file of embeddings; all of them or, where that fails, none.

        A person of the same name is the same person, whose photos are united; a photo that is there already is not
        added again. Whose photos disagree with the gallery's is left out: a person who is more like somebody else
        than like who has that name here; with a recognizer also one who is not like who has that name here, or who is
        new and like somebody of another name.

        Args:
            source: a gallery; what ``export`` wrote; or an ``.npz`` file with ``names`` (N,) and ``embeddings`` (N, D).
            force: leave nobody out.

        Raises:
            GalleryError: the source is none of these, damaged, or of another model; or this one cannot be written.
            UsageError: the source cannot be read.
        """
        binding, photos, detector = read_source(path_of("what to merge", source))
        require_fit(Path(source), binding, photos, self.binding, shown(self.path))
        if detector:
            warn_of_mixture(self.path, self._store.detector, detector)
        return merge(self._store, self._recognizer, photos, shown(source), force=force)

    def backup(self, path: str | Path) -> None:
        """Writes a copy as the gallery is at one moment, whoever reads or writes meanwhile.

        Raises:
            GalleryError: there is a file of that name, it cannot be written, or the gallery is damaged.
        """
        self._store.backup(path_of("the file to write", path))

    def export(self, path: str | Path) -> None:
        """Writes everything that is stored, embeddings and all, to a ``.json`` or ``.csv`` file.

        Raises:
            UsageError: another suffix, or the file cannot be written.
            GalleryError: the gallery cannot be read.
        """
        path = path_of("the file to write", path)
        photos = [(asdict(photo), vector) for photo, vector in zip(*self.contents(), strict=True)]
        write_export(path, self.binding, photos, self._store.detector)

    def _enrolling(self) -> FaceEncoder:
        if self._recognizer is None:
            raise UsageError(f"{self.path}: opened without a recognizer, so nobody can be enrolled")
        return self._recognizer

    def _add(self, recognizer: FaceEncoder, name: str, sample: Sample, force: bool) -> Photo:
        # An older gallery holds the embedding of the face alone, which is the same photo.
        stored, alone = (pack(row, self.precision) for row in (sample.embedding, sample.alone))
        with self._store.writing() as db:
            same = f"SELECT {PHOTO} {FROM} WHERE name = ? AND embedding IN (?, ?)"
            known = db.execute(same, (name, stored, alone)).fetchone()
            if known:
                return Photo(*known)
            concerns = () if force else (*sample.concerns, *self._doubts(recognizer, name, sample.embedding))
            if concerns:
                raise EnrollmentError(refusal(sample.called, name, concerns))
            added = datetime.now(UTC).isoformat(timespec="seconds")
            row = (sample.source, added, sample.sharpness, sample.size, sample.yaw, sample.pitch)
            return Photo(self._store.insert(db, name, row, stored), name, *row, new=True)

    def _notice(self, recognizer: FaceEncoder, photos: list[Photo]) -> str:
        new = [photo.id for photo in photos if photo.new]
        # No more photos than the largest id: the gallery need not be read to know that nothing changes.
        if not new or not from_now_on(recognizer, 0, max(new)):
            return ""
        return from_now_on(recognizer, len(self) - len(new), len(self))

    def _doubts(self, recognizer: FaceEncoder, name: str, embedding: NDArray[np.float32]) -> tuple[str, ...]:
        best = {found.name: found.score for found in self.search(embedding[None], 2)[0]}
        own = self._store.embeddings_of(name)
        if len(own.vectors):
            best[name] = float(scores(own, embedding[None]).max())
        return disagreements(recognizer, name, best, len(self))
