"""Embeddings in bytes, their scores against a face, and whose they are.

Eight-bit embeddings keep the direction alone: a row is scaled so that its largest component is 127, rounded, and
brought back to length 1 when it is compared (symmetric quantization, one scale a row, the scale dropped).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
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
_STRETCH = 64  # scores of which the best one is looked at first
_FEW = 4  # faces; below, products of vectors beat OpenBLAS's product of matrices


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


class GrowingRows:
    """Embeddings in memory with room for more, so that whoever adds a few copies only those."""

    def __init__(self, length: int, precision: Precision, count: int) -> None:
        """Room for ``count`` of so many numbers, and some more."""
        self._vectors = np.empty((count + count // 8, length), ITEMS[precision])
        self._scales = np.empty(len(self._vectors), np.float32)
        self._count, self._scaled = 0, precision == "int8"

    def add(self, more: Rows) -> None:
        """Adds rows; what ``rows`` returned before stays as it is."""
        stop = self._count + len(more.vectors)
        if stop > len(self._vectors):
            for name in ("_vectors", "_scales"):
                old = getattr(self, name)
                new = np.empty((stop + stop // 8, *old.shape[1:]), old.dtype)
                new[: self._count] = old[: self._count]
                setattr(self, name, new)
        self._vectors[self._count : stop] = more.vectors
        if more.scales is not None:
            self._scales[self._count : stop] = more.scales
        self._count = stop

    def rows(self) -> Rows:
        """All that were added."""
        return Rows(self._vectors[: self._count], self._scales[: self._count] if self._scaled else None)


@dataclass(frozen=True, eq=False)
class People:
    """All photos of a gallery at one moment, in the order of enrollment."""

    ids: NDArray[np.int64]
    """(N,) of the photos, ascending."""
    person_ids: NDArray[np.int64]
    """(P,) ascending."""
    names: tuple[str, ...]
    """(P,)"""
    owners: NDArray[np.intp]
    """(N,) whom each photo shows: the number in ``names``."""
    rows: Rows | None
    """None where an index proposes, and only what it proposes is read."""

    def owners_of(self, ids: NDArray[np.int64]) -> NDArray[np.intp]:
        """The number in ``names`` of the person whom each of these photos shows."""
        return self.owners[np.searchsorted(self.ids, ids)]

    def photos_of(self, people: NDArray[np.intp]) -> NDArray[np.int64]:
        """The ids of all photos of these people."""
        order, sorted_owners = self._by_person
        ends = np.searchsorted(sorted_owners, np.append(people, people + 1)).reshape(2, -1)
        return np.concatenate([self.ids[order[start:stop]] for start, stop in ends.T] or [np.empty(0, np.int64)])

    @functools.cached_property
    def _by_person(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        order = np.argsort(self.owners, kind="stable")
        return order, self.owners[order]


def pack(embedding: NDArray[np.float32], precision: Precision) -> bytes:
    """The bytes of one (D,) float32 embedding of length 1."""
    return (in_bytes(embedding) if precision == "int8" else embedding.astype(ITEMS[precision])).tobytes()


def in_bytes(embeddings: NDArray[np.float32]) -> NDArray[np.int8]:
    """(…, D) int8: each embedding by its own scale, so that its largest component is 127 or −127."""
    scaled: NDArray[np.float32] = embeddings * (127 / np.abs(embeddings).max(axis=-1, keepdims=True))
    return np.rint(scaled).astype(np.int8)


def read_rows(data: bytes, precision: Precision, length: int) -> Rows:
    """The embeddings whose bytes were joined."""
    vectors = np.frombuffer(data, ITEMS[precision]).reshape(-1, length)
    if precision == "float32":
        return Rows(vectors, None)
    squares = [np.einsum("nd,nd->n", block, block) for _, block in _blocks(vectors)]
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
    """(Q, N) float32 cosines of (Q, D) float32 embeddings with all rows, equal for equal rows.

    Needs no more than a block of widened rows beside the result.
    """
    out = np.empty((len(queries), len(rows.vectors)), np.float32)
    for start, wide in _blocks(rows.vectors):
        for query, row in zip(queries, out, strict=True):
            _dot(wide, query, row[start : start + len(wide)])
    return out if rows.scales is None else np.multiply(out, rows.scales, out=out)


def nearest_people(people: People, rows: Rows, queries: NDArray[np.float32], k: int) -> list[list[Candidate]]:
    """The ``k`` nearest people, of whom there are as many, of each of (Q, D) float32 embeddings, Q lists.

    A product of matrices scores many faces sooner than products of vectors, but rounds equal rows differently. So it
    only says which photos may be among the nearest; their scores, and the order, are those of each face alone.
    """
    few = len(queries) < _FEW
    # Twice what rounding can do to a sum of D products of rows of length 1.
    margin = 0.0 if few else 2 * queries.shape[1] * float(np.finfo(np.float32).eps)
    answers = []
    for query, found in zip(queries, scores(rows, queries) if few else _products(rows, queries), strict=True):
        count = k
        while True:
            least = _least(found, count)
            if len(np.unique(people.owners[found >= least])) >= k:
                break
            count *= 4
        near = np.flatnonzero(found >= least - margin)
        exact = found[near]
        if not few:
            exact = scores(Rows(rows.vectors[near], None if rows.scales is None else rows.scales[near]), query[None])[0]
        answers.append(nearest_owners(people, people.owners[near], exact, k))
    return answers


def nearest_owners(people: People, owners: NDArray[np.intp], found: NDArray[np.float32], k: int) -> list[Candidate]:
    """The ``k`` nearest of the people whom some photos show, by their (N,) ``owners`` and scores."""
    who, places = np.unique(owners, return_inverse=True)
    best = np.full(len(who), -np.inf, np.float32)
    np.maximum.at(best, places, found)
    order = np.argsort(-best, kind="stable")[:k]
    return [Candidate(people.names[who[place]], float(best[place])) for place in order]


def _least(found: NDArray[np.float32], count: int) -> float:
    """A score that at least ``count`` of (N,) scores reach, and not many more; −∞ where there are too few to say."""
    blocks = found[: len(found) // _STRETCH * _STRETCH].reshape(-1, _STRETCH).max(axis=1)
    return float(np.partition(blocks, -count)[-count]) if count <= len(blocks) else -np.inf


def _products(rows: Rows, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """``scores`` but for rounding."""
    out = np.empty((len(queries), len(rows.vectors)), np.float32)
    for start, wide in _blocks(rows.vectors):
        np.matmul(queries, wide.T, out=out[:, start : start + len(wide)])
    return out if rows.scales is None else np.multiply(out, rows.scales, out=out)


def _dot(rows: NDArray[np.float32], query: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    if hasattr(np, "vecdot"):  # numpy 2
        np.vecdot(rows, query, out=out)
    else:
        np.einsum("nd,d->n", rows, query, out=out)


def _blocks(vectors: NDArray[np.float32 | np.int8]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows in float32, some at a time, and the number of the first."""
    for start in range(0, len(vectors), _BLOCK):
        yield start, vectors[start : start + _BLOCK].astype(np.float32, copy=False)
