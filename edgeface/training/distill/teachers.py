"""Distillation from embeddings: each teacher's output for each face, computed once, in the student's space."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.data.dataset import FaceData
from edgeface.embedder import Embedder
from edgeface.progress import SILENT, Reporter
from edgeface.training.augment import normalize
from edgeface.training.config import TrainConfig
from edgeface.training.devices import best_device, onto
from edgeface.training.processes import gathered, is_main_process, own_share, wait_for_all
from edgeface_runtime import UsageError
from edgeface_runtime.files import replacing
from edgeface_runtime.model import unit_rows

CHUNK = 256
ROTATION_FACES = 2000
"""Faces that the rotation into the space of a student with weights already is taken from."""

Embedded = Sequence[tuple[NDArray[np.uint8], NDArray[np.int64]]]
"""Arrays (N_i, S, S, 3) of faces, uint8 RGB, each with the rows (M_i,) of those that teachers embed."""


def targets_of_run(
    data: FaceData,
    unlabeled: NDArray[np.uint8] | None,
    teachers: Sequence[Embedder],
    student: nn.Module | None,
    config: TrainConfig,
    cache: Path,
    reporter: Reporter = SILENT,
) -> NDArray[np.float32]:
    """The teachers' outputs for a run's faces: those with labels, then the M without.

    Args:
        data: N faces with labels.
        unlabeled: (M, S, S, 3) uint8 RGB, or None.
        teachers: one or more.
        student: the model as it starts, on a CPU; None where its weights are random.
        config: of the training.
        cache: folder that keeps outputs, and the rotation into the student's space, between runs.
        reporter: told how far it is.

    Returns:
        (N + M, D) unit rows; zeros for the test photos, which teachers are not shown.

    Raises:
        UsageError: as in :func:`teacher_targets`.
    """
    rows = data.rows("train", "val")
    others = np.empty((0, *data.faces.shape[1:]), np.uint8) if unlabeled is None else unlabeled
    embedded = [(data.faces, rows), (others, np.arange(len(others)))]
    outputs = teacher_targets(
        [each for each in embedded if len(each[1])], teachers, config.model.embedding_dim, cache, reporter=reporter
    )
    if student is not None:
        some = np.linspace(0, len(rows) - 1, ROTATION_FACES).astype(np.int64)
        outputs = rotate_to_student(
            outputs, student, (outputs[some], data.faces[rows[some]]), config, cache / "turn.npy"
        )
    targets = np.zeros((len(data.faces) + len(others), config.model.embedding_dim), np.float32)
    targets[np.concatenate([rows, len(data.faces) + np.arange(len(others))])] = outputs
    return targets


def teacher_targets(
    faces: Embedded,
    teachers: Sequence[Embedder],
    length: int,
    cache: Path,
    *,
    reporter: Reporter = SILENT,
    seed: int = 0,
) -> NDArray[np.float32]:
    """(M, length) unit vectors that a student's embeddings should point along.

    A teacher's output for a face is the mean embedding of the face and its mirror image. The outputs of several
    teachers are concatenated, so that the cosine of the whole is the mean of their cosines. Where that is longer than
    ``length`` it is projected onto its ``length`` strongest directions, uncentered: the projection that keeps inner
    products best (Eckart and Young, 1936).

    Args:
        faces: what the teachers embed, taken one after another.
        teachers: one or more.
        length: floats in the student's embedding.
        cache: folder that holds each teacher's embeddings between runs.
        reporter: told how far it is.
        seed: of the projection.

    Raises:
        UsageError: the teachers together give fewer floats than the student.
    """
    outputs = np.concatenate([_embed_both(faces, teacher, cache, reporter) for teacher in teachers], axis=1)
    if outputs.shape[1] < length:
        raise UsageError(
            f"the teachers give {outputs.shape[1]} floats, the student {length}: --embedding-dim {outputs.shape[1]}"
        )
    if outputs.shape[1] > length:
        from sklearn.decomposition import TruncatedSVD

        outputs = TruncatedSVD(length, random_state=seed).fit_transform(outputs)
        outputs = np.pad(outputs, ((0, 0), (0, length - outputs.shape[1])))  # fewer faces than ``length`` span fewer
    return unit_rows(outputs.astype(np.float32))


@torch.no_grad()
def rotate_to_student(
    targets: NDArray[np.float32],
    net: nn.Module,
    sample: tuple[NDArray[np.float32], NDArray[np.uint8]],
    config: TrainConfig,
    file: Path,
) -> NDArray[np.float32]:
    """Targets rotated into the embedding space of a student that has weights already.

    A rotation changes no cosine between targets, so nothing that the teachers know is lost, and the student keeps
    what it knows. It is that of the orthogonal Procrustes problem (Schönemann, 1966).

    Args:
        targets: (N, D) unit rows.
        net: the student, on a CPU, as it starts.
        sample: targets (n, D) of some faces, and those faces (n, S, S, 3) uint8 RGB.
        config: of the training, for the normalization.
        file: keeps the rotation, so that a resumed run takes the same.

    Returns:
        (N, D) unit rows.
    """
    begun = file.exists()
    wait_for_all()
    if not begun and is_main_process():
        device = best_device()
        placed = copy.deepcopy(net).eval().to(device)
        aims, faces = sample
        embeddings = torch.cat(
            [
                placed(normalize(onto(torch.from_numpy(part), device), *config.model.pixel_statistics)).cpu()
                for part in (faces[at : at + CHUNK] for at in range(0, len(faces), CHUNK))
            ]
        )
        left, _, right = np.linalg.svd(aims.T @ unit_rows(embeddings.numpy()))
        with replacing(file) as beside, beside.open("wb") as out:
            np.save(out, left @ right)
    wait_for_all()
    rotated: NDArray[np.float32] = targets @ np.load(file)
    return rotated


def _embed_both(faces: Embedded, teacher: Embedder, cache: Path, reporter: Reporter) -> NDArray[np.float32]:
    """(M, D) unit rows: the mean of each face's embedding and its mirror image's; cached as float16.

    Of several processes each embeds its share.
    """
    outputs = []
    for array, rows in faces:
        parts_of = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]
        digest = hashlib.sha256(teacher.contract.to_json().encode())
        for part in parts_of:
            digest.update(array[part].data)
        file = cache / f"teacher-{digest.hexdigest()[:24]}.npy"
        begun = file.exists()
        wait_for_all()  # else one process might find what another has just written, and the shares would not add up
        if not begun:
            title = f"embedding with {teacher.contract.name}"
            parts = [teacher.embed(_with_mirror(array[part])) for part in reporter.track(own_share(parts_of), title)]
            both = gathered([part.reshape(2, -1, part.shape[1]).mean(axis=0).astype(np.float16) for part in parts])
            if is_main_process():
                cache.mkdir(parents=True, exist_ok=True)
                with replacing(file) as beside, beside.open("wb") as out:
                    np.save(out, np.concatenate(both))
        wait_for_all()
        outputs.append(unit_rows(np.load(file).astype(np.float32)))
    return np.concatenate(outputs)


def _with_mirror(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([faces, faces[:, :, ::-1]])
