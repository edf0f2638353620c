"""The bench with accuracy beside the milliseconds: what ``edgeface bench`` and the demo's report show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from edgeface.data.dataset import FaceData
from edgeface.evaluation.identification import identify
from edgeface.evaluation.verification import all_pairs, area_under_curve, pair_photos
from edgeface_devices.bench.interleaved import bench
from edgeface_devices.bench.limits import NO_LIMITS, Limits
from edgeface_devices.measurement import Embeddings, Measurement
from edgeface_devices.results import Results
from edgeface_devices.way import Setting
from edgeface_runtime import UsageError


def measure(
    paths: Sequence[Path],
    *,
    data: FaceData | None = None,
    threads: int = 1,
    limits: Limits = NO_LIMITS,
    calls: int = 200,
    photo: Sequence[Setting] = (),
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] = iter,
) -> Results:
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
    result = bench(paths, threads=threads, limits=limits, calls=calls, faces=faces, photo=photo, progress=progress)
    return result if data is None else replace(result, rows=tuple(_scored(row, data) for row in result.rows))


def score(result: Results, data: FaceData) -> Results:
    """Fills ``top1`` and ``auc`` of files that ran elsewhere, and of their answers on this machine.

    Raises:
        UsageError: the data hold no photo to test with.
    """
    _check(data)
    return replace(result, rows=tuple(_scored(row, data) for row in result.rows))


def _check(data: FaceData) -> None:
    if not len(data.rows("test")):
        raise UsageError("the data have no held-out photo (two or more photos of a person are needed)")


def _scored(row: Measurement, data: FaceData) -> Measurement:
    assert row.embeddings is not None
    top1, auc = _accuracy(row.embeddings, data)
    top1_here, auc_here = (None, None) if row.embeddings_here is None else _accuracy(row.embeddings_here, data)
    return replace(row, top1=top1, auc=auc, top1_here=top1_here, auc_here=auc_here)


def _accuracy(embeddings: Embeddings, data: FaceData) -> tuple[float, float | None]:
    gallery, probes = data.rows("train", "val"), data.rows("test")
    labels = data.labels
    given = identify(embeddings[gallery], labels[gallery], embeddings[probes], labels[probes])
    compared = probes[pair_photos(labels[probes])]
    pairs = all_pairs(embeddings[compared], labels[compared])
    return given.accuracy, area_under_curve(pairs) if pairs.has_both_kinds else None
