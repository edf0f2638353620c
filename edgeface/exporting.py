"""From a run or checkpoint and photos to checked files: which faces calibrate, which ones judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData, load_data
from edgeface.training.run import load_checkpoint
from edgeface_export.build import Export, export
from edgeface_export.gate import HeldOut, draw_pairs
from edgeface_runtime import UsageError


def export_checkpoint(
    source: Path,
    data: Path | FaceData,
    folder: Path,
    *,
    formats: Sequence[str] = ("onnx", "tflite"),
    precisions: Sequence[str] = ("fp32", "int8"),
    calibration_faces: int = 100,
    max_drop: float = 0.15,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Export:
    """Exports a run folder or checkpoint; the data's ``train`` faces calibrate, its ``test`` faces judge.

    Args:
        source: run folder or ``.safetensors`` checkpoint.
        data: photos, or the folder of them.
        folder: where the files go.
        formats, precisions, max_drop, progress: as in ``edgeface_export.build.export``.
        calibration_faces: how many faces int8 ranges are taken from.
        seed: of the choice of calibration faces and of the pairs.

    Raises:
        UsageError: no checkpoint, no photos, none held out, or none to calibrate with.
    """
    if calibration_faces < 1:
        raise UsageError(f"int8 ranges are taken from {calibration_faces} faces; at least 1 is needed")
    checkpoint = load_checkpoint(source)
    faces = data if isinstance(data, FaceData) else load_data(data, size=checkpoint.contract.input.size)
    test = faces.rows("test")
    if not len(test):
        raise UsageError("the photos hold no test split to judge an export on; see edgeface data split")
    labels = faces.labels[test]
    pairs = draw_pairs(labels, seed=seed)
    held_out = HeldOut(faces.faces[test], pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]])
    chosen = balanced(faces.labels, faces.rows("train"), calibration_faces, seed)
    return export(
        checkpoint.net,
        replace(checkpoint.contract, parent_sha256=checkpoint.sha256),
        folder,
        calibration=faces.faces[chosen],
        held_out=held_out,
        formats=formats,
        precisions=precisions,
        max_drop=max_drop,
        progress=progress,
    )


def balanced(labels: NDArray[np.int64], rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` of ``rows``, the identities taking turns, so that none of them sets the ranges alone."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rows)
    turn = np.zeros(len(shuffled), np.int64)
    seen: dict[int, int] = {}
    for index, label in enumerate(labels[shuffled].tolist()):
        turn[index] = seen[label] = seen.get(label, -1) + 1
    return np.sort(shuffled[np.argsort(turn, kind="stable")][:count])
