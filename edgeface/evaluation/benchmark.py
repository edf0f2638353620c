"""The bench with accuracy beside the milliseconds: what ``edgeface bench`` and the demo's report show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData
from edgeface.evaluation.identification import identify
from edgeface.evaluation.verification import all_pairs, area_under_curve, pair_photos
from edgeface_devices.away import Away
from edgeface_devices.bench.interleaved import Bench, Row, bench
from edgeface_devices.bench.limits import NO_LIMITS, Limits
from edgeface_runtime import UsageError


def measure(
    paths: Sequence[Path],
    *,
    data: FaceData | None = None,
    threads: int = 1,
    limits: Limits = NO_LIMITS,
    calls: int = 200,
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] = iter,
) -> Bench:
    """Benches model files and, with data, fills ``top1`` and ``auc``.

    Top-1 names each held-out photo after the nearest centroid of the other photos; the AUC is over
    all pairs of held-out photos, and stays None where no person has two of them.

    Raises:
        DoesNotFitError: a file does not run within ``limits``.
        ModelError: a file cannot be benched.
        UsageError: an option does not fit, or the data hold no photo to test with.
    """
    if data is not None:
        _check(data)
    faces = None if data is None else data.faces
    result = bench(paths, threads=threads, limits=limits, calls=calls, faces=faces, progress=progress)
    return result if data is None else replace(result, rows=tuple(_scored(row, data) for row in result.rows))


def score(result: Away, data: FaceData) -> Away:
    """Fills ``top1`` and ``auc`` of files that ran elsewhere, and of their answers on this machine.

    Raises:
        UsageError: the data hold no photo to test with.
    """
    _check(data)
    rows = []
    for row in result.rows:
        (top1, auc), (top1_here, auc_here) = _accuracy(row.there, data), _accuracy(row.here, data)
        accuracy = {"top1": top1, "auc": auc, "top1_here": top1_here, "auc_here": auc_here}
        rows.append(replace(row, accuracy=accuracy))
    return replace(result, rows=tuple(rows))


def _check(data: FaceData) -> None:
    if not len(data.rows("test")):
        raise UsageError("the data have no held-out photo (two or more photos of a person are needed)")


def _scored(row: Row, data: FaceData) -> Row:
    assert row.embeddings is not None
    top1, auc = _accuracy(row.embeddings, data)
    return replace(row, top1=top1, auc=auc)


def _accuracy(embeddings: NDArray[np.float32], data: FaceData) -> tuple[float, float | None]:
    gallery, probes = data.rows("train", "val"), data.rows("test")
    labels = data.labels
    given = identify(embeddings[gallery], labels[gallery], embeddings[probes], labels[probes])
    compared = probes[pair_photos(labels[probes])]
    pairs = all_pairs(embeddings[compared], labels[compared])
    return given.accuracy, area_under_curve(pairs) if pairs.has_both_kinds else None
