"""Finds photos that are copies of each other: cut, scaled, toned or compressed anew, under one name or two."""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime.errors import MissingExtraError

THUMB = 32
MAX_BITS = 12
"""Bits of 64 in which the difference hashes of two copies may differ."""
MIN_CORRELATION = 0.9
"""The least correlation of two copies' details, at the shift that suits them best."""
_SHIFT = 2
"""Pixels of a thumbnail by which copies may lie apart: landmarks move a little with every compression."""
_WORTH_SHIFTING = 0.6
_BLOCK = 256


def require(extra: str = "data") -> None:
    """Raises MissingExtraError, which names the extra, where a package that finds copies is absent."""
    for package in ("imagehash", "scipy"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)


def fingerprint(crop: NDArray[np.uint8]) -> tuple[int, bytes]:
    """What a (S, S, 3) uint8 RGB crop is compared by: 64-bit difference hash, and details as 32×32 int8.

    Both look at the inner face (eyes to mouth) only, because the border of a tight photo is black
    in its crop. Details are the grey thumbnail less its blur (σ 2.5), so that light and tone do not count.
    """
    import imagehash
    from scipy.ndimage import gaussian_filter

    left, top, right, bottom = (round(len(crop) * part / 112) for part in (24, 36, 88, 100))
    inner = Image.fromarray(crop[top:bottom, left:right])
    bits = np.packbits(imagehash.dhash(inner, hash_size=8).hash)
    grey = np.asarray(inner.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX), np.float32)
    details = grey - gaussian_filter(grey, 2.5)
    scaled = np.clip(np.rint(32 * details / max(float(details.std()), 1.0)), -127, 127)
    return int.from_bytes(bits.tobytes(), "big"), scaled.astype(np.int8).tobytes()


def first_copies(
    hashes: NDArray[np.uint64],
    details: NDArray[np.int8],
    *,
    max_bits: int = MAX_BITS,
    min_correlation: float = MIN_CORRELATION,
) -> NDArray[np.int64]:
    """For each of N faces the lowest row that it is a copy of; its own row where it is the first.

    A difference hash alone calls thousands of strangers copies, because aligned faces share their
    light and dark halves; so pairs within ``max_bits`` are compared by their details too. Copies of
    copies belong together.

    Args:
        hashes: (N,) uint64 difference hashes.
        details: (N, 1024) int8; may be memory-mapped.
        max_bits: differing bits up to which details are compared.
        min_correlation: of details that makes a copy.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(hashes)
    if not count:
        return np.empty(0, np.int64)
    # As ±1 vectors the product of two hashes is 64 − 2 × their differing bits: one matrix product a block.
    bits = np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(count, 8), axis=1).astype(np.float32) * 2 - 1
    edges = []
    for start in range(0, count, _BLOCK):
        rows, others = np.nonzero(bits[start : start + _BLOCK] @ bits[start:].T >= 64 - 2 * max_bits)
        later = others > rows
        pairs = np.stack([rows[later], others[later]]) + start
        edges += [
            chunk[:, _alike(details[chunk[0]], details[chunk[1]], min_correlation)]
            for chunk in np.array_split(pairs, pairs.shape[1] // _BLOCK + 1, axis=1)
        ]
    first, second = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    group = connected_components(graph, directed=False)[1]
    firsts: NDArray[np.int64] = np.unique(group, return_index=True)[1][group].astype(np.int64)
    return firsts


def _alike(one: NDArray[np.int8], other: NDArray[np.int8], least: float) -> NDArray[np.bool_]:
    """(P,) True where P pairs of details correlate at some shift of up to two pixels."""
    side = THUMB - 2 * _SHIFT
    squares = [details.reshape(-1, THUMB, THUMB).astype(np.float32) for details in (one, other)]
    inner = _unit(squares[0][:, _SHIFT:-_SHIFT, _SHIFT:-_SHIFT])
    best = (inner * _unit(squares[1][:, _SHIFT:-_SHIFT, _SHIFT:-_SHIFT])).sum(axis=1)
    worth = np.flatnonzero((best >= _WORTH_SHIFTING) & (best < least))
    inner, moved = inner[worth], squares[1][worth]
    for y in range(2 * _SHIFT + 1):
        for x in range(2 * _SHIFT + 1):
            score = (inner * _unit(moved[:, y : y + side, x : x + side])).sum(axis=1)
            best[worth] = np.maximum(best[worth], score)
    alike: NDArray[np.bool_] = best >= least
    return alike


def _unit(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P, h, w) as P rows of mean 0 and length 1, so that products of rows are correlations."""
    rows = squares.reshape(len(squares), squares.shape[1] * squares.shape[2])
    rows = rows - rows.mean(axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit
