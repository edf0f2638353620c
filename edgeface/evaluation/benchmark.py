"""The bench with accuracy beside the milliseconds: what ``edgeface bench`` and the demo's report show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from edgeface.data.dataset import FaceData
from edgeface.evaluation.identification import nearest_centroid
from edgeface.evaluation.verification import all_pairs, area_under_curve
from edgeface_devices.bench import Bench, Row, bench
from edgeface_runtime import UsageError


def measure(
    paths: Sequence[Path],
    *,
    data: FaceData | None = None,
    threads: int = 1,
    calls: int = 200,
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] = iter,
) -> Bench:
    """Benches model files and, with data, fills ``top1`` and ``auc``.

    Top-1 names each held-out photo after the nearest centroid of the other photos; the AUC is over
    all pairs of held-out photos, and stays None where no person has two of them.

    Raises:
        ModelError: a file cannot be benched.
        UsageError: an option does not fit, or the data hold no photo to test with.
    """
    if data is not None and not len(data.rows("test")):
        raise UsageError("the data have no held-out photo (two or more photos of a person are needed)")
    faces = None if data is None else data.faces
    result = bench(paths, threads=threads, calls=calls, faces=faces, progress=progress)
    return result if data is None else replace(result, rows=tuple(_scored(row, data) for row in result.rows))


def _scored(row: Row, data: FaceData) -> Row:
    assert row.embeddings is not None
    gallery, probes = data.rows("train", "val"), data.rows("test")
    labels, embeddings = data.labels, row.embeddings
    named = nearest_centroid(embeddings[gallery], labels[gallery], embeddings[probes], labels[probes])
    pairs = all_pairs(embeddings[probes], labels[probes])
    return replace(row, top1=named.accuracy, auc=area_under_curve(pairs) if pairs.has_both_kinds else None)
