"""Verification protocols on photos: find and align each face as a device does, embed it, score the pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgeface.data import pairs as lists
from edgeface.data.cache import open_cache
from edgeface.data.table import read_faces
from edgeface.embedder import Embedder
from edgeface.evaluation.verification import Pairs, Verification, best_threshold, verify, verify_folds
from edgeface_runtime import Detector, ImageError, UsageError
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.images import SUFFIXES, open_photo

_CHUNK = 256

Progress = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True, eq=False)
class Protocol:
    """A protocol's outcome."""

    verification: Verification
    pairs: Pairs
    people: tuple[str, ...]
    """Names of the people by their number in ``pairs``."""


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
        pairs_file: pairs to score, in LFW's form.
        train_pairs: pairs of other people to choose the threshold on.
        detector: as ``edgeface_runtime.detection.find.load_detector`` takes it; not used for a prepared folder.
        threads: of the detector.
        progress: told the photos that are being aligned.

    Raises:
        UsageError: a photo of the lists is not in the folder, or a list does not fit.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    asked = [lists.read_lfw_pairs(file) for file in (pairs_file, train_pairs) if file is not None]
    photos = sorted({photo for each in asked for photo in each.photos})
    size = embedder.contract.input.size
    if (folder / "faces.csv").exists():
        found, faces = _prepared(folder, photos, size)
    else:
        found, faces = _photos(folder, photos, size, load_detector(detector, threads=threads), progress)
    embeddings = np.concatenate([embedder.embed(faces[row : row + _CHUNK]) for row in range(0, len(faces), _CHUNK)])
    scored, *training = [_score(each, found, embeddings) for each in asked]
    pairs, people, there = scored
    failed = int((~there).sum())
    if training:
        threshold = best_threshold(training[0][0])
        result = replace(verify(pairs, threshold=threshold, failed=failed), threshold_from=str(train_pairs))
    else:
        result = verify_folds(pairs, asked[0].fold[there], failed=failed)
    return Protocol(result, pairs, people)


def _prepared(folder: Path, photos: Sequence[str], size: int) -> tuple[list[str], NDArray[np.uint8]]:
    """(names, (N, size, size, 3) crops) of the photos in which ``data prepare`` found a face."""
    rows = {PurePosixPath(row["source"]).stem: number for number, row in enumerate(read_faces(folder))}
    found = [photo for photo in photos if photo in rows]
    if not found:
        raise UsageError(f"{folder}: holds none of the {len(photos)} photos of the pair list, such as {photos[0]}")
    crops: NDArray[np.uint8] = open_cache(folder, size)[[rows[photo] for photo in found]]
    return found, crops


def _photos(
    folder: Path, photos: Sequence[str], size: int, detector: Detector, progress: Progress
) -> tuple[list[str], NDArray[np.uint8]]:
    """(names, (N, size, size, 3) aligned faces) of the photos in which a face is found."""
    files = {path.stem: path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES}
    if absent := [photo for photo in photos if photo not in files]:
        raise UsageError(
            f"{folder}: {len(absent)} of the {len(photos)} photos of the pair list are not in it, such as {absent[0]}"
        )
    found, faces = [], []
    for photo in progress(photos):
        pixels = open_photo(files[photo])
        seen, _ = find_faces(pixels, detector)
        try:
            faces += [align(pixels, most_central(seen, *pixels.shape[:2]).landmarks, size)] if seen else []
        except ImageError:
            continue
        found += [photo] if seen else []
    if not found:
        raise UsageError(f"{folder}: no face found in any of {len(photos)} photos")
    return found, np.stack(faces)


def _score(
    protocol: lists.PairList, found: Sequence[str], embeddings: NDArray[np.float32]
) -> tuple[Pairs, tuple[str, ...], NDArray[np.bool_]]:
    """Scored pairs, the people's names, and (P,) which pairs could be scored."""
    index, there = lists.find(protocol, found)
    people, numbers = np.unique([photo.rpartition("_")[0] for photo in found], return_inverse=True)
    exact_ND = embeddings.astype(np.float64)
    scores = (exact_ND[index[:, 0]] * exact_ND[index[:, 1]]).sum(axis=1)
    return Pairs(scores, numbers[index[:, 0]], numbers[index[:, 1]]), tuple(people.tolist()), there
