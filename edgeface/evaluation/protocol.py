"""Verification protocols on photos: find and align each face as a device does, embed it, score the pairs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data import pairs as lists
from edgeface.data.cache import open_cache
from edgeface.data.table import read_faces
from edgeface.embedder import Embedder
from edgeface.evaluation.verification import Pairs, Verification, best_threshold, verify, verify_folds
from edgeface_runtime import Detector, ImageError, UsageError
from edgeface_runtime.align import align
from edgeface_runtime.checks import require_folder
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.images import SUFFIXES, open_photo
from edgeface_runtime.quality import pose

_CHUNK = 256

Progress = Callable[[Sequence[str]], Iterable[str]]


YAW_EDGES = (0, 15, 30, 45, 90)
"""Degrees between which the rows of ``by_yaw`` lie."""


@dataclass(frozen=True)
class YawRates:
    """Pairs whose more turned head lies within a range of yaw, at the threshold of all pairs."""

    degrees: str
    """Such as ``30 to 45``; estimated from five landmarks, good to about 10 degrees."""
    genuine: int
    """Pairs of one person."""
    fnmr: float | None
    """False non-match rate: the share of them that is rejected. None where there is none."""
    impostor: int
    """Pairs of two people."""
    fmr: float | None
    """False match rate: the share of them that is accepted."""


@dataclass(frozen=True, eq=False)
class Protocol:
    """A protocol's outcome."""

    verification: Verification
    pairs: Pairs
    people: tuple[str, ...]
    """Names of the people by their number in ``pairs``."""
    by_yaw: tuple[YawRates, ...] = ()
    """Empty where the photos were prepared before."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """The photos of pair lists in which a face is found."""

    found: tuple[str, ...]
    """(N,) keys, as the lists have them."""
    embeddings: NDArray[np.float32]
    """(N, D) unit rows."""
    yaw: NDArray[np.float64] | None
    """(N,) degrees; None where the photos were prepared before."""


def verify_photos(
    embedder: Embedder,
    folder: Path,
    pairs_file: Path,
    *,
    train_pairs: Path | None = None,
    detector: str = "yunet",
    threads: int = 1,
    progress: Progress = iter,
) -> Protocol:
    """LFW's View 1 (``train_pairs`` choose the threshold) or View 2 (each fold by the other nine).

    Args:
        embedder: what to measure.
        folder: photos named ``Ann_Lee_0001.jpg``, at any depth, or a folder made by ``data prepare``.
        pairs_file: pairs to score, in the form of LFW, or of CALFW and CPLFW.
        train_pairs: pairs of other people to choose the threshold on.
        detector: as ``edgeface_runtime.detection.find.load_detector`` takes it; not used for a prepared folder.
        threads: of the detector.
        progress: told the photos that are being aligned.

    Raises:
        UsageError: a photo of the lists is not in the folder, or a list does not fit.
    """
    asked = [lists.read_pairs(file) for file in (pairs_file, train_pairs) if file is not None]
    photos = _embed(embedder, folder, asked, detector, threads, progress)
    if train_pairs is None:
        return _folds(asked[0], photos)
    pairs, people, there = _score(asked[0], photos)
    verification = verify(pairs, threshold=best_threshold(_score(asked[1], photos)[0]), failed=int((~there).sum()))
    return _outcome(asked[0], photos, replace(verification, threshold_from=str(train_pairs)), pairs, people)


def verify_cfp(
    embedder: Embedder,
    folder: Path,
    *,
    folds: Collection[int] | None = None,
    detector: str = "yunet",
    threads: int = 1,
    progress: Progress = iter,
) -> dict[str, Protocol]:
    """CFP's two protocols, ``frontal-frontal`` and ``frontal-profile``: each fold by the others.

    Args:
        embedder: what to measure.
        folder: the set's, with ``Data`` and ``Protocol``.
        folds: numbers of the folds to measure, two at least; None takes all ten.
        detector: as ``edgeface_runtime.detection.find.load_detector`` takes it.
        threads: of the detector.
        progress: told the photos that are being aligned.

    Raises:
        UsageError: a photo of the lists is not in the folder, or a list does not fit.
    """
    asked = {
        name: lists.read_cfp_pairs(folder / "Protocol", kind, folds)
        for name, kind in (("frontal-frontal", "FF"), ("frontal-profile", "FP"))
    }
    photos = _embed(embedder, folder, list(asked.values()), detector, threads, progress)
    return {name: _folds(each, photos) for name, each in asked.items()}


def _folds(asked: lists.PairList, photos: Embedded) -> Protocol:
    pairs, people, there = _score(asked, photos)
    verification = verify_folds(pairs, asked.fold[there], failed=int((~there).sum()))
    return _outcome(asked, photos, verification, pairs, people)


def _outcome(
    asked: lists.PairList, photos: Embedded, verification: Verification, pairs: Pairs, people: tuple[str, ...]
) -> Protocol:
    rows: tuple[YawRates, ...] = ()
    if photos.yaw is not None:
        turned = np.abs(photos.yaw[lists.find(asked, photos.found)[0]]).max(axis=1)
        rows = by_yaw(pairs, turned, verification.threshold)
    return Protocol(verification, pairs, people, rows)


def by_yaw(pairs: Pairs, turned: NDArray[np.float64], threshold: float) -> tuple[YawRates, ...]:
    """Error rates by how far the more turned head of each pair is turned.

    Args:
        pairs: P scored pairs.
        turned: (P,) degrees of yaw, from 0.
        threshold: from which a pair is accepted.
    """
    accepted, place = pairs.scores >= threshold, np.digitize(turned, YAW_EDGES[1:-1])
    rows = []
    for number, (low, high) in enumerate(pairwise(YAW_EDGES)):
        genuine, impostor = (accepted[(place == number) & (pairs.same == kind)] for kind in (True, False))
        fnmr = float(1 - genuine.mean()) if len(genuine) else None
        fmr = float(impostor.mean()) if len(impostor) else None
        rows.append(YawRates(f"{low} to {high}", len(genuine), fnmr, len(impostor), fmr))
    return tuple(rows)


def _embed(
    embedder: Embedder,
    folder: Path,
    asked: Sequence[lists.PairList],
    detector: str,
    threads: int,
    progress: Progress,
) -> Embedded:
    require_folder(folder)
    photos = sorted({photo for each in asked for photo in each.photos})
    size = embedder.contract.input.size
    yaw = None
    if (folder / "faces.csv").exists():
        found, faces = _prepared(folder, photos, size)
    else:
        found, faces, yaw = _photos(folder, photos, size, load_detector(detector, threads=threads), progress)
    embeddings = np.concatenate([embedder.embed(faces[row : row + _CHUNK]) for row in range(0, len(faces), _CHUNK)])
    return Embedded(tuple(found), embeddings, yaw)


def _prepared(folder: Path, photos: Sequence[str], size: int) -> tuple[list[str], NDArray[np.uint8]]:
    """(names, (N, size, size, 3) crops) of the photos in which ``data prepare`` found a face."""
    depth = lists.key_depth(photos)
    rows = {lists.key_of(row["source"], depth): number for number, row in enumerate(read_faces(folder))}
    found = [photo for photo in photos if photo in rows]
    if not found:
        raise UsageError(f"{folder}: holds none of the {len(photos)} photos of the pair list, such as {photos[0]}")
    crops: NDArray[np.uint8] = open_cache(folder, size)[[rows[photo] for photo in found]]
    return found, crops


def _photos(
    folder: Path, photos: Sequence[str], size: int, detector: Detector, progress: Progress
) -> tuple[list[str], NDArray[np.uint8], NDArray[np.float64]]:
    """(names, (N, size, size, 3) aligned faces, (N,) yaw) of the photos in which a face is found."""
    depth = lists.key_depth(photos)
    files = {
        lists.key_of(path.relative_to(folder).as_posix(), depth): path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
    }
    if absent := [photo for photo in photos if photo not in files]:
        raise UsageError(
            f"{folder}: {len(absent)} of the {len(photos)} photos of the pair list are not in it, such as {absent[0]}"
        )
    found, faces, yaw = [], [], []
    for photo in progress(photos):
        pixels = open_photo(files[photo])
        seen, _ = find_faces(pixels, detector)
        if not seen:
            continue
        face = most_central(seen, *pixels.shape[:2])
        try:
            faces.append(align(pixels, face.landmarks, size))
        except ImageError:
            continue
        found.append(photo)
        yaw.append(pose(face.landmarks).yaw)
    if not found:
        raise UsageError(f"{folder}: no face found in any of {len(photos)} photos")
    return found, np.stack(faces), np.array(yaw)


def _score(protocol: lists.PairList, photos: Embedded) -> tuple[Pairs, tuple[str, ...], NDArray[np.bool_]]:
    """Scored pairs, the people's names, and (P,) which pairs could be scored."""
    index, there = lists.find(protocol, photos.found)
    people, numbers = np.unique(protocol.people, return_inverse=True)
    exact_ND = photos.embeddings.astype(np.float64)
    scores = (exact_ND[index[:, 0]] * exact_ND[index[:, 1]]).sum(axis=1)
    first, second = numbers[protocol.index[there]].T
    return Pairs(scores, first, second), tuple(people.tolist()), there
