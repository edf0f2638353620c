"""Faces as one array with labels and splits, of whatever folder a person names: prepared, aligned crops, whole photos.

Whole photos scaled to a face's size give other embeddings than the aligned faces that a device feeds, and figures that
hold for neither. They are recognized by a look at a sample, and prepared on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.cache import open_cache
from edgeface.data.table import read_card, read_faces
from edgeface.data.whole import align_into, prepared
from edgeface.progress import SILENT, Reporter
from edgeface_runtime import Contract, ImageError, UsageError
from edgeface_runtime.align import TEMPLATE
from edgeface_runtime.checks import require_folder
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.detection.pixels import reduced
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.images import SUFFIXES, open_photo, open_rgb, photo_size, shown

SPLITS = ("train", "val", "test")
UNKNOWN = "unknown"
"""The licence of photos that nothing is known of."""
_VALIDATE = 1 / 7
"""Of the photos of a plain folder that do not test."""
SAMPLE = 16
ALIGNED = 6.5
"""Pixels of a 112 px crop that the landmarks lie off the template on average, in the median photo of a sample: 2 to 4
in aligned sets, 9 in AT&T's tight crops, 10 to 31 in LFW, Pins, Families in the Wild, CelebA and portraits."""
SMALL = 140
_ENOUGH = 640
"""Photos whose longer side has no more pixels are crops of faces, aligned or not: nothing is gained by a search."""


@dataclass(frozen=True, eq=False)
class FaceData:
    """Aligned faces in memory (or memory-mapped), one row each."""

    faces: NDArray[np.uint8]
    """(N, size, size, 3) uint8 RGB."""
    labels: NDArray[np.int64]
    """(N,) index into ``identities``."""
    identities: tuple[str, ...]
    paths: tuple[str, ...]
    """(N,) relative to the data folder."""
    split: NDArray[np.str_]
    """(N,) ``train``, ``val`` or ``test``."""
    rejected: tuple[tuple[str, str], ...] = ()
    """Files left out, each with its reason."""
    is_aligned: bool = True
    """False where the faces are seen not to lie on the template, so that they set no threshold for a device."""

    @property
    def sha256(self) -> str:
        """Digest of pixels, labels and splits: what a model was trained on."""
        digest = hashlib.sha256(np.ascontiguousarray(self.faces).data)
        digest.update("\n".join((*self.identities, *self.paths, *self.split)).encode(errors="surrogateescape"))
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def photos_sha256(self, *splits: str) -> str:
        """Digest of the pixels alone, in their order: of all faces, or of those of some splits."""
        faces = self.faces[self.rows(*splits)] if splits else self.faces
        return hashlib.sha256(np.ascontiguousarray(faces).data).hexdigest()

    def split_since(self, contract: Contract) -> str | None:
        """What to say where a model learnt from these photos under another split; None where it did not."""
        if contract.photos_sha256 is None or contract.photos_sha256 != self.photos_sha256():
            return None
        if contract.train_sha256 == self.photos_sha256("train"):
            return None
        return (
            f"the photos were split again after {contract.name} was trained on them: test photos are among those that "
            "it has learnt from, and figures on them flatter; split them as they were, or take photos of other people"
        )

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Row numbers of the given splits."""
        return np.flatnonzero(np.isin(self.split, splits))


@dataclass(frozen=True)
class Sampled:
    """What a sample of the photos of a folder looks like."""

    offset: float | None
    """Median distance of the landmarks from the template, in pixels of a 112 px crop; infinite where most photos are
    not square, which aligned faces are; None where half of the photos show no face."""
    side: int
    """Median of the longer sides, in pixels."""

    @property
    def is_aligned(self) -> bool:
        """True where the photos are aligned faces."""
        return self.offset is not None and self.offset <= ALIGNED

    def is_whole(self, size: int) -> bool:
        """True where they are photos in which faces of ``size`` pixels are yet to be found."""
        return not self.is_aligned and self.side > max(SMALL, 1.25 * size)


def look(photos: list[Path]) -> Sampled:
    """Looks at a sample, drawn with a fixed seed; the detector at its square photos, since only these can be aligned.

    Raises:
        UsageError: none of the photos can be read.
    """
    rng, detector = np.random.default_rng(0), None
    offsets: list[float] = []
    sides: list[int] = []
    for row in rng.permutation(len(photos)):
        with contextlib.suppress(ImageError):
            width, height = photo_size(photos[row])
            # Decoded only where the detector may still change what most of the sample says.
            if height != width or sum(offset > ALIGNED for offset in offsets) > SAMPLE // 2:
                offsets.append(math.inf)
            else:
                pixels = open_photo(photos[row])
                detector = detector or load_detector(threads=1)
                # An aligned face fills its photo: small is enough, and a large one takes seconds.
                small = reduced(pixels, (-(-width // _ENOUGH),) * 2)
                del pixels  # before the next one is decoded
                if faces := find_faces(small, detector)[0]:
                    points = most_central(faces, *small.shape[:2]).landmarks * (112 / small.shape[1])
                    offsets.append(float(np.linalg.norm(points - TEMPLATE, axis=1).mean()))
            sides.append(max(height, width))
        if len(sides) == SAMPLE:
            break
    if not sides:
        raise UsageError(f"{shown(photos[0].parent)}: none of its photos can be read")
    return Sampled(float(np.median(offsets)) if 2 * len(offsets) >= len(sides) else None, int(np.median(sides)))


def open_faces(folder: str | Path, *, size: int = 112, reporter: Reporter = SILENT) -> FaceData:
    """As ``load_data``; the faces of whole photos are found and aligned first, into ``FOLDER.faces`` beside the folder.

    That folder is like any that ``data prepare`` makes: a run that was stopped goes on, the next command finds it
    finished, and it is made anew where the photos have changed. Without the extra ``data``, as on a device, nothing is
    kept: the faces are found and aligned each time.

    Args:
        folder: prepared, or ``<identity>/<photo>``.
        size: height and width of the returned faces, in pixels.
        reporter: told what the photos are, where they are no aligned faces, and how far the preparation is.

    Raises:
        UsageError: as ``load_data``; or the folder beside it cannot be written or is another's.
    """
    folder = Path(folder)
    photos = _photos_in(folder, "*/*")
    if not photos or (folder / "faces.csv").exists():
        return load_data(folder, size=size)
    seen = look(photos)
    if seen.is_whole(size):
        if not all(map(importlib.util.find_spec, ("imagehash", "scipy"))):  # what `data prepare` takes
            with temporary_folder() as made:
                align_into(Path(made), folder, photos, size=size, side=seen.side, reporter=reporter)
                return load_data(made, size=size)
        everything = _photos_in(folder.resolve(), "**/*")
        return load_data(prepared(folder, everything, size=size, side=seen.side, reporter=reporter), size=size)
    data = load_data(folder, size=size)
    if seen.is_aligned or seen.offset is None:
        return data
    reporter.say(
        f"{shown(folder)}: crops of about {seen.side} pixels that are not aligned: taken as they are, though a device "
        "feeds aligned faces, so figures may differ there; edgeface data prepare aligns them"
    )
    return replace(data, is_aligned=False)


def open_unlabeled(folder: str | Path, *, size: int = 112) -> NDArray[np.uint8]:
    """As ``load_unlabeled``, for aligned faces or small crops only.

    Raises:
        UsageError: as ``load_unlabeled``; or the photos are whole.
    """
    folder = Path(folder)
    photos = _photos_in(folder, "**/*")
    if photos and not (folder / "faces.csv").exists() and look(photos).is_whole(size):
        name = shown(folder)
        raise UsageError(
            f"{name}: whole photos, not aligned faces; align them: edgeface data prepare {name} {name}.faces"
        )
    return load_unlabeled(folder, size=size)


def _photos_in(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file())


def load_data(folder: str | Path, *, size: int = 112, seed: int = 0, pattern: str = "*") -> FaceData:
    """Reads a prepared folder (with ``faces.csv``) or a plain one (``<identity>/<photo>``).

    The photos of a plain folder are taken as faces already and scaled to ``size``; per identity, with
    ``seed``, 3 of 10 photos become ``test`` and, of all others, one in seven ``val``.

    Args:
        folder: where the photos lie.
        size: height and width of the returned faces, in pixels.
        seed: of the split.
        pattern: which file names of a plain folder are photos.

    Raises:
        UsageError: no such folder, no image in it, a table of another kind, or fewer than two identities.
    """
    folder = Path(folder)
    require_folder(folder)
    data = (
        _read_prepared(folder, size, seed)
        if (folder / "faces.csv").exists()
        else _read_plain(folder, size, seed, pattern)
    )
    if not len(data.faces):
        reason = f" ({data.rejected[0][0]}: {data.rejected[0][1]})" if data.rejected else ""
        raise UsageError(f"{folder}: no image found in <identity>/<photo> folders{reason}")
    if len(data.identities) < 2:
        raise UsageError(f"{folder}: only one identity ({data.identities[0]}); recognition needs at least two")
    return data


def _read_plain(folder: Path, size: int, seed: int, pattern: str) -> FaceData:
    faces: list[NDArray[np.uint8]] = []
    identities: list[str] = []
    labels, paths, rejected = [], [], []
    for person in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        before = len(faces)
        for photo in sorted(path for path in person.glob(pattern) if path.is_file() and not path.name.startswith(".")):
            name = photo.relative_to(folder).as_posix()
            if photo.suffix.lower() not in SUFFIXES:
                rejected.append((name, "not an image by its name"))
                continue
            try:
                faces.append(_square(open_rgb(photo), size))
            except ImageError as error:
                rejected.append((name, str(error).removeprefix(f"{photo}: ")))
                continue
            labels.append(len(identities))
            paths.append(name)
        if len(faces) > before:
            identities.append(person.name)
    data = FaceData(
        faces=np.stack(faces) if faces else np.empty((0, size, size, 3), np.uint8),
        labels=np.array(labels, np.int64),
        identities=tuple(identities),
        paths=tuple(paths),
        split=np.full(len(faces), "train", dtype="<U5"),
        rejected=tuple(rejected),
    )
    return replace(data, split=split_photos(data.labels, seed=seed))


def _read_prepared(folder: Path, size: int, seed: int) -> FaceData:
    rows = read_faces(folder)
    named = np.array([bool(row["identity"]) for row in rows], bool)
    faces = open_cache(folder, size)
    if not named.all():
        faces, rows = faces[named], [row for row in rows if row["identity"]]
    identities, labels = np.unique([row["identity"] for row in rows], return_inverse=True)
    split = np.array([row["split"] for row in rows], dtype="<U5")
    if not np.isin(split, SPLITS).all():
        split = split_photos(labels, seed=seed)
    paths = tuple(row["path"] for row in rows)
    return FaceData(faces, labels.astype(np.int64), tuple(identities.tolist()), paths, split)


def load_unlabeled(folder: str | Path, *, size: int = 112) -> NDArray[np.uint8]:
    """(M, size, size, 3) uint8 RGB: every face of a prepared folder, or every image below a plain one.

    Raises:
        UsageError: no such folder, or no image in it.
    """
    folder = Path(folder)
    if (folder / "faces.csv").exists():
        return open_cache(folder, size)
    require_folder(folder)
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    faces = []
    for photo in photos:
        with contextlib.suppress(ImageError):
            faces.append(_square(open_rgb(photo), size))
    if not faces:
        raise UsageError(f"{folder}: no image found below it")
    return np.stack(faces)


def licence_of_photos(folder: Path, given: str | None = None) -> str:
    """What was given; else what the card of a prepared folder says."""
    if given is not None:
        return given
    if not (folder / "dataset.json").exists():
        return UNKNOWN
    try:
        return str(read_card(folder)["licence"])
    except (UsageError, KeyError):
        return UNKNOWN


def _square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def split_photos(labels: NDArray[np.int64], *, seed: int = 0, test: float = 0.3) -> NDArray[np.str_]:
    """(N,) ``train``, ``val``, ``test``: photos split within each identity.

    An identity with one photo only trains. One in seven of all other photos that do not test is ``val``: of identities
    with few photos, some give one and some none.
    """
    rng = np.random.default_rng(seed)
    split = np.full(len(labels), "train", dtype="<U5")
    mine = {str(label): rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
    held_out = {name: round(test * len(rows)) for name, rows in mine.items()}
    validate = share_out({name: len(rows) - held_out[name] for name, rows in mine.items()}, _VALIDATE, seed)
    for name, rows in mine.items():
        first = held_out[name]
        split[rows[:first]] = "test"
        split[rows[first : first + validate[name]]] = "val"
    return split


def share_out(counts: Mapping[str, int], share: float, seed: int = 0) -> dict[str, int]:
    """How many of each identity's photos go to a part that gets a share of all, to the nearest whole number.

    Each identity gives the whole number below its share; what is missing in all comes from those with the largest
    remainders, of equal ones drawn with the seed. Nobody gives the last photo.
    """
    exact = {identity: share * count + 1e-9 for identity, count in counts.items()}
    given = {identity: min(math.floor(value), max(counts[identity] - 1, 0)) for identity, value in exact.items()}
    missing = math.floor(sum(exact.values()) + 0.5) - sum(given.values())
    spare = [identity for identity, count in counts.items() if given[identity] < count - 1]
    draw = {identity: random.Random(f"{seed}:{identity}").random() for identity in spare}
    for identity in sorted(spare, key=lambda name: (given[name] - exact[name], draw[name], name))[:missing]:
        given[identity] += 1
    return given


def batches(rows: Sequence[int] | NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Consecutive chunks of at most ``size`` row numbers."""
    array = np.asarray(rows, np.int64)
    return [array[start : start + size] for start in range(0, len(array), size)]
