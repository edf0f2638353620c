"""Embeddings in bytes, their scores against a face, and whose they are.

Eight-bit embeddings keep the direction alone: a row is scaled so that its largest component is 127, rounded, and
brought back to length 1 when it is compared (symmetric quantization, one scale a row, the scale dropped).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import described
from edgeface_runtime.errors import UsageError

Precision = Literal["float32", "int8"]
"""How a gallery stores embeddings."""
ITEMS: dict[Precision, np.dtype[np.float32 | np.int8]] = {"float32": np.dtype("<f4"), "int8": np.dtype("i1")}
_BLOCK = 1024  # rows that stay in the cache while they are widened and compared
_FEW = 4  # below, a product of vectors beats OpenBLAS's product of matrices


@dataclass(frozen=True)
class Candidate:
    """One person a face may show."""

    name: str
    score: float
    """Cosine to the nearest of the person's photos, −1 to 1."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Embeddings ready to be compared."""

    vectors: NDArray[np.float32 | np.int8]
    """(N, D) float32 or int8."""
    scales: NDArray[np.float32] | None
    """(N,) what brings each row to length 1; None where it has it."""


@dataclass(frozen=True, eq=False)
class People:
    """All photos of a gallery at one moment, a person's side by side."""

    version: int
    """Of the gallery's file."""
    ids: NDArray[np.int64]
    order: NDArray[np.intp]
    """What sorts ``ids``."""
    starts: NDArray[np.intp]
    """First row of each person."""
    names: tuple[str, ...]
    rows: Rows | None
    """None where an index proposes, and only what it proposes is read."""

    def owners(self, ids: NDArray[np.int64]) -> NDArray[np.intp]:
        """The number in ``names`` of the person whom each of these photos shows."""
        rows = self.order[np.searchsorted(self.ids, ids, sorter=self.order)]
        return np.searchsorted(self.starts, rows, side="right") - 1

    def photos(self, owners: NDArray[np.intp]) -> NDArray[np.int64]:
        """The ids of all photos of these people."""
        ends = np.append(self.starts, len(self.ids))
        parts = [self.ids[ends[owner] : ends[owner + 1]] for owner in owners]
        return np.concatenate([*parts, np.empty(0, np.int64)])


def people_of(
    version: int, photos: Sequence[tuple[int, int, str] | tuple[int, int, str, bytes]], rows: Rows | None
) -> People:
    """``photos`` are (photo's id, person's id, name, …), ordered by person and photo."""
    ids, owners = (np.array([photo[column] for photo in photos], np.int64) for column in (0, 1))
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    names = tuple(photos[start][2] for start in starts.tolist())
    return People(version, ids, np.argsort(ids), starts, names, rows)


def pack(embedding: NDArray[np.float32], precision: Precision) -> bytes:
    """The bytes of one (D,) float32 embedding of length 1."""
    if precision == "int8":
        embedding = np.rint(embedding * (127 / np.abs(embedding).max()))
    return embedding.astype(ITEMS[precision]).tobytes()


def read_rows(data: bytes, precision: Precision, length: int) -> Rows:
    """The embeddings whose bytes were joined."""
    vectors = np.frombuffer(data, ITEMS[precision]).reshape(-1, length)
    if precision == "float32":
        return Rows(vectors, None)
    squares = [np.square(block, dtype=np.float32).sum(axis=1) for block in _blocks(vectors)]
    return Rows(vectors, 1 / np.sqrt(np.maximum(np.concatenate([*squares, np.empty(0, np.float32)]), 1)))


def require_rows(embeddings: object, length: int) -> None:
    """Raises UsageError unless these are embeddings of that many floats, an array (N, ``length``)."""
    if not isinstance(embeddings, np.ndarray):
        raise UsageError(f"embeddings is {described(embeddings)}; it must be an array (N, {length})")
    if embeddings.dtype.kind != "f" or embeddings.ndim != 2 or embeddings.shape[1] != length:
        raise UsageError(f"embeddings are {embeddings.dtype} {embeddings.shape}, not float32 (N, {length})")


def widened(rows: Rows) -> NDArray[np.float32]:
    """(N, D) float32 of length 1."""
    wide = rows.vectors.astype(np.float32, copy=False)
    return wide if rows.scales is None else wide * rows.scales[:, None]


def scores(rows: Rows, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q, N) float32 cosines of (Q, D) float32 embeddings with all rows.

    Needs no more than a block of widened rows beside the result.
    """
    out = np.empty((len(queries), len(rows.vectors)), np.float32)
    start = 0
    for block in _blocks(rows.vectors):
        wide, stop = block.astype(np.float32, copy=False), start + len(block)
        if len(queries) < _FEW:
            for query, row in zip(queries, out, strict=True):
                np.einsum("nd,d->n", wide, query, out=row[start:stop])
        else:
            np.matmul(queries, wide.T, out=out[:, start:stop])
        start = stop
    return out if rows.scales is None else np.multiply(out, rows.scales, out=out)


def best_scores(people: People, rows: Rows, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q, P) of each face the best score among each person's photos."""
    found = scores(rows, queries)
    return found if len(people.names) == len(people.ids) else np.maximum.reduceat(found, people.starts, axis=1)


def nearest(names: Sequence[str], best: NDArray[np.float32], k: int) -> list[Candidate]:
    """The ``k`` people with the highest of (P,) scores; equal ones in their order."""
    if not k:
        return []
    rows = np.flatnonzero(best >= np.partition(best, -k)[-k])
    order = rows[np.argsort(-best[rows], kind="stable")][:k]
    return [Candidate(names[row], float(best[row])) for row in order]


def _blocks(vectors: NDArray[np.float32 | np.int8]) -> list[NDArray[np.float32 | np.int8]]:
    return [vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK)]
