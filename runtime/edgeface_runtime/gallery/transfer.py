"""Photos that come into a gallery from another one, or from a file of embeddings."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import build, parse_json, path_of, read_text, require_regular
from edgeface_runtime.errors import GalleryError, UsageError
from edgeface_runtime.files import spreadsheet_text
from edgeface_runtime.gallery.database import UNSAID, Binding, binding_of, new_gallery
from edgeface_runtime.gallery.enrollment import Refusal, checked_name, disagreements
from edgeface_runtime.gallery.search import Precision, in_bytes, pack, scores, widened
from edgeface_runtime.gallery.store import FROM, PHOTO, Store
from edgeface_runtime.gallery.versions import named
from edgeface_runtime.images import shown
from edgeface_runtime.model import Model
from edgeface_runtime.protocols import FaceEncoder

_MOST = 4_000_000_000
"""Bytes of an export; a million photos of 128 numbers are 2.9 GB."""
_BATCH = 64  # photos that are looked for at a time
_UNREADABLE = (
    *(ValueError, TypeError, KeyError, AttributeError, RecursionError, EOFError, OverflowError, MemoryError),
    *(csv.Error, zlib.error, zipfile.BadZipFile),
)
_Read: TypeAlias = "tuple[Binding | None, list[dict[str, object]], str | None]"
_MEASURED = ("sharpness", "size", "yaw", "pitch")


@dataclass(frozen=True)
class Merge:
    """What became of the photos of another gallery or file."""

    added: int
    """Photos that are new."""
    already_there: int
    refused: list[Refusal]
    """People who were left out, and why; one entry each."""


@dataclass(frozen=True, eq=False)
class Incoming:
    """One photo of another gallery or file."""

    name: str
    details: tuple[str, str, float, float, float, float]
    """Source, time, sharpness, size, yaw and pitch, as ``Photo`` has them."""
    embedding: NDArray[np.float32]
    """(D,) of length 1."""


def read_source(path: Path) -> tuple[Binding | None, list[Incoming], str | None]:
    """The photos of a gallery or a file of embeddings, and the model and detector that made them where it says so.

    Raises:
        GalleryError: it is neither, or damaged; the message says where.
        UsageError: it cannot be read.
    """
    if path.suffix.lower() in _READERS:
        return _read_file(path)
    store = Store(path, None, "float32", index=False)
    try:
        return store.binding, _read_store(store), store.detector or UNSAID
    finally:
        store.close()


def import_gallery(
    source: str | Path, path: str | Path, model: Model | None = None, *, precision: Precision = "float32"
) -> Merge:
    """Makes a new gallery of a file of embeddings, or of another gallery; it appears whole or not at all.

    Args:
        source: what ``Gallery.export`` wrote, ``.json`` or ``.csv`` (of which the columns ``name`` and ``e0``, ``e1``,
            … are enough); an ``.npz`` file with ``names`` (N,) and ``embeddings`` (N, D); or a gallery.
        path: the new gallery's file.
        model: what made the embeddings; needed where the source does not say it, as ``.csv`` and ``.npz`` do not.
        precision: how the new gallery stores embeddings.

    Raises:
        GalleryError: the source is none of these, damaged, or of another model; ``path`` is there already, or cannot
            be written.
        UsageError: the source cannot be read, or no model is known.
    """
    source, path = path_of("what to import", source), path_of("the gallery", path)
    stated, photos, detector = read_source(source)
    binding = binding_of(model) if model else stated
    if binding is None:
        raise UsageError(f"{shown(source)}: does not say which model made its embeddings: name it (model=, --model)")
    require_fit(source, stated, photos, binding, "the model")
    with new_gallery(path) as part:
        store = Store(part, binding, precision, index=False, detector=detector or "")
        try:
            return merge(store, None, photos, shown(source), force=True)
        finally:
            store.close()


def require_fit(
    source: Path, stated: Binding | None, photos: Sequence[Incoming], binding: Binding, called: str
) -> None:
    """Raises GalleryError unless what ``read_source`` gave can be compared with ``binding``'s embeddings."""
    if stated and not binding.fits(stated):
        mine, its = named(binding).told_from(named(stated))
        raise GalleryError(
            f"{shown(source)}: made with {its}, but {called} is of {mine}, and their embeddings cannot be compared: "
            "enroll the photos again (edgeface gallery move)"
        )
    if wrong := {len(photo.embedding) for photo in photos} - {binding.length}:
        raise GalleryError(f"{shown(source)}: embeddings of {wrong.pop()} numbers; {called} has {binding.length}")


def merge(
    store: Store, recognizer: FaceEncoder | None, photos: Sequence[Incoming], source: str, *, force: bool
) -> Merge:
    """Adds photos to a gallery, all in one transaction; a photo that is there already is not added again.

    Args:
        store: where to.
        recognizer: knows the thresholds; where None, only who is more like somebody else is in doubt.
        photos: from where, embedded with the same model.
        source: what the errors call it.
        force: add people whose photos disagree with the gallery's too.
    """
    people: dict[str, list[Incoming]] = {}
    for photo in photos:
        people.setdefault(photo.name, []).append(photo)
    added, refused = 0, []
    with store.writing() as db:
        doubts = {} if force else _doubts(store, recognizer, people)
        for name, group in people.items():
            known = {row.tobytes() for row in in_bytes(widened(store.embeddings_of(name)))}
            new = {key: photo for photo in group if (key := pack(photo.embedding, "int8")) not in known}
            if new and doubts.get(name):
                why = f"{source}: {name} is left out: {'; '.join(doubts[name])}; rename one of them, or force (--force)"
                refused.append(Refusal(name, source, why))
                continue
            for photo in new.values():
                store.insert(db, name, photo.details, pack(photo.embedding, store.precision))
            added += len(new)
    left = sum(len(people[refusal.name]) for refusal in refused)
    return Merge(added, len(photos) - left - added, refused)


def _read_store(store: Store) -> list[Incoming]:
    """All photos of another gallery, in the order of enrollment."""
    photos, rows = store.sound(f"embedding, {PHOTO} {FROM} ORDER BY photo.id")
    return [Incoming(photo[1], photo[2:8], row) for photo, row in zip(photos, widened(rows), strict=True)]


def _read_file(path: Path) -> tuple[Binding | None, list[Incoming], str | None]:
    try:
        require_regular(path)
        binding, rows, detector = _READERS[path.suffix.lower()](path)
    except GalleryError as error:
        raise GalleryError(f"{shown(path)}: not an export of a gallery: {error}") from error
    except OSError as error:
        raise UsageError(f"{shown(path)}: {error.strerror}") from error
    except _UNREADABLE as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        raise GalleryError(f"{shown(path)}: not an export of a gallery, nor names and embeddings ({said})") from error
    found = _checked(path, rows)
    lengths = {len(photo.embedding) for photo in found}
    if len(lengths) > 1 or (binding and lengths - {binding.length}):
        raise GalleryError(f"{shown(path)}: its embeddings are of {' and '.join(map(str, sorted(lengths)))} numbers")
    return binding, found, detector


def _doubts(
    store: Store, recognizer: FaceEncoder | None, people: dict[str, list[Incoming]]
) -> dict[str, tuple[str, ...]]:
    """Of each person, why the photos may show somebody else than the gallery's person of that name."""
    best: dict[str, dict[str, float]] = {name: {} for name in people}
    every = [photo for group in people.values() for photo in group]
    for start in range(0, len(every), _BATCH):
        some = every[start : start + _BATCH]
        for photo, found in zip(some, store.nearest(np.stack([each.embedding for each in some]), 2), strict=True):
            for candidate in found:
                row = best[photo.name]
                row[candidate.name] = max(row.get(candidate.name, -1), candidate.score)
    for name, group in people.items():
        own = store.embeddings_of(name)
        if len(own.vectors):
            best[name][name] = float(scores(own, np.stack([photo.embedding for photo in group])).max())
    judge, count = recognizer or cast(FaceEncoder, _NoThresholds()), len(store.snapshot().ids)
    return {name: disagreements(judge, name, row, count) for name, row in best.items()}


class _NoThresholds:
    def threshold(self, far: float, comparisons: int = 1) -> None:
        raise UsageError("no model, and so no thresholds")


def _incoming(row: dict[str, object]) -> Incoming:
    embedding = np.asarray(row["embedding"], np.float32)
    length = float(np.linalg.norm(embedding)) if embedding.ndim == 1 else 0.0
    if not np.isfinite(length) or length < 1e-6:
        raise ValueError("no direction in its embedding")
    if abs(length - 1) > 1e-4:
        embedding = embedding / np.float32(length)
    added = str(row.get("added") or datetime.now(UTC).isoformat(timespec="seconds"))
    sharpness, size, yaw, pitch = (float(str(row.get(key) or 0)) for key in _MEASURED)
    if not np.isfinite([sharpness, size, yaw, pitch]).all():
        raise ValueError(f"{' or '.join(_MEASURED)} is no number")
    details = (str(row.get("source") or ""), added, sharpness, size, yaw, pitch)
    return Incoming(checked_name(cast(str, row["name"])), details, embedding)


def _checked(path: Path, rows: Sequence[dict[str, object]]) -> list[Incoming]:
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(_incoming(row))
        except (*_UNREADABLE, UsageError) as error:
            said = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise GalleryError(f"{shown(path)}: damaged: photo {number} of {len(rows)}: {said}") from error
    return found


def _json(path: Path) -> _Read:
    document = build(_Export, parse_json(read_text(path, _MOST)), "export", fails=GalleryError)
    return document.model, list(document.photos), document.detector or UNSAID


@dataclass(frozen=True)
class _Export:
    model: Binding
    photos: list[dict[str, object]]
    detector: str | None = None


def _texts(row: dict[str, str]) -> dict[str, str]:
    return {key: spreadsheet_text(row.get(key) or "") for key in ("name", "source")}


def _csv(path: Path) -> _Read:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or () if name[:1] == "e" and name[1:].isdigit()]
        columns.sort(key=lambda name: int(name[1:]))
        if not columns or "name" not in (reader.fieldnames or ()):
            raise ValueError("it has no columns name, e0, e1, …")
        rows = [{**row, **_texts(row), "embedding": [row[column] or "" for column in columns]} for row in reader]
    stated = str(rows[0].get("detector") or "") if rows else ""
    return None, rows, stated or (UNSAID if "added" in (reader.fieldnames or ()) else None)


def _npz(path: Path) -> _Read:
    with zipfile.ZipFile(path) as packed:
        if (whole := sum(member.file_size for member in packed.infolist())) > max(100e6, 20 * path.stat().st_size):
            raise ValueError(f"it says that it holds {whole / 1e6:.0f} MB, which embeddings are never packed to")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        names, embeddings = arrays["names"], arrays["embeddings"]
    if names.ndim != 1 or embeddings.ndim != 2 or len(names) != len(embeddings) or embeddings.dtype.kind != "f":
        raise ValueError(f"names {names.shape} and embeddings {embeddings.dtype} {embeddings.shape} do not fit")
    return None, [{"name": str(name), "embedding": row} for name, row in zip(names, embeddings, strict=True)], None


_READERS: dict[str, Callable[[Path], _Read]] = {
    ".json": _json,
    ".csv": _csv,
    ".npz": _npz,
}
