"""Distillation: what teachers say of each face, computed once, as targets in the student's own space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from edgeface.cli.console import bar
from edgeface.evaluation.embedder import Embedder
from edgeface.files import replacing
from edgeface.training.augment import normalise
from edgeface.training.config import NORMALISATIONS, TrainConfig
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


@torch.no_grad()
def turn_to_student(
    targets: NDArray[np.float32],
    net: nn.Module,
    sample: tuple[NDArray[np.float32], NDArray[np.uint8]],
    config: TrainConfig,
    file: Path,
) -> NDArray[np.float32]:
    """Targets turned as a whole towards what a student says that does not start from nothing.

    Cosines between targets stay as they are, so nothing that the teachers know is lost, and the student keeps
    what it knows. The rotation is that of the orthogonal Procrustes problem (Schönemann, 1966).

    Args:
        targets: (N, D) unit rows.
        net: the student, on a CPU, as it starts.
        sample: targets (n, D) of some faces, and those faces (n, S, S, 3) uint8 RGB.
        config: of the training, for the normalisation.
        file: keeps the rotation, so that a resumed run takes the same.

    Returns:
        (N, D) unit rows.
    """
    if not file.exists():
        net.eval()
        aims, faces = sample
        said = torch.cat(
            [
                net(normalise(torch.from_numpy(part), *NORMALISATIONS[config.normalise]))
                for part in (faces[at : at + CHUNK] for at in range(0, len(faces), CHUNK))
            ]
        )
        left, _, right = np.linalg.svd(aims.T @ unit_rows(said.numpy()))
        with replacing(file) as beside, beside.open("wb") as out:
            np.save(out, left @ right)
    turned: NDArray[np.float32] = targets @ np.load(file)
    return turned


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
