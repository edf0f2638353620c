"""Distillation: what teachers say of each face, computed once, as targets in the student's own space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.data.dataset import FaceData
from edgeface.evaluation.embedder import Embedder
from edgeface.files import replacing
from edgeface.progress import SILENT, Reporter
from edgeface.training.augment import normalize
from edgeface.training.config import TrainConfig
from edgeface_runtime import UsageError
from edgeface_runtime.model import unit_rows

CHUNK = 256
TURN_FACES = 2000
"""Faces from which targets are turned towards a student that does not start from nothing."""

Asked = Sequence[tuple[NDArray[np.uint8], NDArray[np.int64]]]
"""Arrays (N_i, S, S, 3) of faces, uint8 RGB, each with the rows (M_i,) of those that teachers are asked about."""


def run_targets(
    data: FaceData,
    unlabelled: NDArray[np.uint8] | None,
    teachers: Sequence[Embedder],
    student: nn.Module | None,
    config: TrainConfig,
    cache: Path,
    reporter: Reporter = SILENT,
) -> NDArray[np.float32]:
    """What teachers say of a run's faces: those with labels, then the M without.

    Args:
        data: N faces with labels.
        unlabelled: (M, S, S, 3) uint8 RGB, or None.
        teachers: one or more.
        student: the net as it starts, on a CPU; None where it starts from nothing.
        config: of the training.
        cache: folder that holds answers, and the rotation towards the student, between runs.
        reporter: told how far it is.

    Returns:
        (N + M, D) unit rows; zeros for the test photos, which teachers are not asked about.

    Raises:
        UsageError: as in :func:`teacher_targets`.
    """
    rows = data.rows("train", "val")
    others = np.empty((0, *data.faces.shape[1:]), np.uint8) if unlabelled is None else unlabelled
    asked = [(data.faces, rows), (others, np.arange(len(others)))]
    said = teacher_targets(
        [each for each in asked if len(each[1])], teachers, config.model.embedding_dim, cache, reporter=reporter
    )
    if student is not None:
        some = np.linspace(0, len(rows) - 1, TURN_FACES).astype(np.int64)
        said = turn_to_student(said, student, (said[some], data.faces[rows[some]]), config, cache / "turn.npy")
    targets = np.zeros((len(data.faces) + len(others), config.model.embedding_dim), np.float32)
    targets[np.concatenate([rows, len(data.faces) + np.arange(len(others))])] = said
    return targets


def teacher_targets(
    faces: Asked,
    teachers: Sequence[Embedder],
    length: int,
    cache: Path,
    *,
    reporter: Reporter = SILENT,
    seed: int = 0,
) -> NDArray[np.float32]:
    """(M, length) unit vectors that a student's embeddings should point along.

    A teacher's word on a face is the mean over the face and its mirror image. The words of several
    teachers are put side by side, so that the cosine of the whole is the mean of their cosines. Where
    that is longer than ``length`` it is projected onto its ``length`` strongest directions, uncentred:
    the projection that keeps inner products best (Eckart and Young, 1936).

    Args:
        faces: what is asked about, taken one after another.
        teachers: one or more.
        length: floats in the student's embedding.
        cache: folder that holds each teacher's embeddings between runs.
        reporter: told how far it is.
        seed: of the projection.

    Raises:
        UsageError: the teachers together give fewer floats than the student.
    """
    words = np.concatenate([_embed_both(faces, teacher, cache, reporter) for teacher in teachers], axis=1)
    if words.shape[1] < length:
        raise UsageError(
            f"the teachers give {words.shape[1]} floats, the student {length}: --embedding-dim {words.shape[1]}"
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
                net(normalize(torch.from_numpy(part), *config.model.pixel_statistics))
                for part in (faces[at : at + CHUNK] for at in range(0, len(faces), CHUNK))
            ]
        )
        left, _, right = np.linalg.svd(aims.T @ unit_rows(said.numpy()))
        with replacing(file) as beside, beside.open("wb") as out:
            np.save(out, left @ right)
    turned: NDArray[np.float32] = targets @ np.load(file)
    return turned


def _embed_both(faces: Asked, teacher: Embedder, cache: Path, reporter: Reporter) -> NDArray[np.float32]:
    """(M, D) unit rows: the mean of each face's embedding and its mirror image's; cached as float16."""
    said = []
    for array, rows in faces:
        parts_of = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]
        digest = hashlib.sha256(teacher.contract.to_json().encode())
        for part in parts_of:
            digest.update(array[part].data)
        file = cache / f"teacher-{digest.hexdigest()[:24]}.npy"
        if not file.exists():
            title = f"asking {teacher.contract.name}"
            parts = [teacher.embed(_with_mirror(array[part])) for part in reporter.track(parts_of, title)]
            both = [part.reshape(2, -1, part.shape[1]).mean(axis=0) for part in parts]
            cache.mkdir(parents=True, exist_ok=True)
            with replacing(file) as beside, beside.open("wb") as out:
                np.save(out, np.concatenate(both).astype(np.float16))
        said.append(unit_rows(np.load(file).astype(np.float32)))
    return np.concatenate(said)


def _with_mirror(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([faces, faces[:, :, ::-1]])
