"""Distillation: what teachers say of each face, computed once, as targets in the student's own space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from edgeface.cli.console import bar
from edgeface.evaluation.embedder import Embedder
from edgeface.files import replacing
from edgeface_runtime import UsageError
from edgeface_runtime.model import unit_rows

CHUNK = 256


def teacher_targets(
    faces: Sequence[NDArray[np.uint8]],
    teachers: Sequence[Embedder],
    length: int,
    cache: Path,
    *,
    console: Console,
    seed: int = 0,
) -> NDArray[np.float32]:
    """(N, length) unit vectors that a student's embeddings should point along.

    A teacher's word on a face is the mean over the face and its mirror image. The words of several
    teachers are put side by side, so that the cosine of the whole is the mean of their cosines. Where
    that is longer than ``length`` it is projected onto its ``length`` strongest directions, uncentred:
    the projection that keeps inner products best (Eckart and Young, 1936).

    Args:
        faces: arrays (N_i, S, S, 3) uint8 RGB, taken one after another.
        teachers: one or more.
        length: floats in the student's embedding.
        cache: folder that holds each teacher's embeddings between runs.
        console: for the progress bar.
        seed: of the projection.

    Raises:
        UsageError: the teachers together give fewer floats than the student.
    """
    words = np.concatenate([_embed_both(faces, teacher, cache, console) for teacher in teachers], axis=1)
    if words.shape[1] < length:
        raise UsageError(
            f"the teachers give {words.shape[1]} floats, the student {length}: --embedding {words.shape[1]}"
        )
    if words.shape[1] > length:
        from sklearn.decomposition import TruncatedSVD

        words = TruncatedSVD(length, random_state=seed).fit_transform(words)
    return unit_rows(words.astype(np.float32))


def _embed_both(
    faces: Sequence[NDArray[np.uint8]], teacher: Embedder, cache: Path, console: Console
) -> NDArray[np.float32]:
    """(N, D) unit rows: the mean of each face's embedding and its mirror image's; cached as float16."""
    rows = []
    for array in faces:
        digest = hashlib.sha256(np.ascontiguousarray(array).data)
        digest.update(teacher.contract.to_json().encode())
        file = cache / f"teacher-{digest.hexdigest()[:24]}.npy"
        if not file.exists():
            starts = range(0, len(array), CHUNK)
            title = f"asking {teacher.contract.name}"
            parts = [teacher.embed(_with_mirror(array[at : at + CHUNK])) for at in bar(console, starts, title)]
            both = [part.reshape(2, -1, part.shape[1]).mean(axis=0) for part in parts]
            cache.mkdir(parents=True, exist_ok=True)
            with replacing(file) as beside, beside.open("wb") as out:
                np.save(out, np.concatenate(both).astype(np.float16))
        rows.append(unit_rows(np.load(file).astype(np.float32)))
    return np.concatenate(rows)


def _with_mirror(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([faces, faces[:, :, ::-1]])
