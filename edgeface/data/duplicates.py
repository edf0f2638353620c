"""Finds photos that are copies of each other: cut, scaled, toned or compressed anew, under one name or two."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

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
_SIDE = THUMB - 2 * _SHIFT
_CENTER = (2 * _SHIFT + 1) ** 2 // 2
"""Number of the shift by nothing."""
_BLOCK = 16
_CHUNK = 256
"""Details at once: 1 MB of floats, which stay in a core's cache."""


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
    progress: Callable[[int, int], None] = lambda done, total: None,
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
        progress: called with the faces done and all, in shares of the work.
    """
    count, details = len(hashes), np.asarray(details)
    firsts = np.arange(count)
    # As ±1 vectors the product of two hashes is 64 − 2 × their differing bits: one matrix product a block.
    bits = np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(count, 8), axis=1).astype(np.float32) * 2 - 1
    means, scales = _statistics(details)
    for start in range(0, count, _BLOCK):
        # A face is compared with those after it, so that the first ones take longest.
        progress(count - (count - start) ** 2 // count, count)
        block = slice(start, start + _BLOCK)
        near = bits[block] @ bits[start:].T >= 64 - 2 * max_bits
        squares = details[block].reshape(-1, THUMB, THUMB)[:, _SHIFT:-_SHIFT, _SHIFT:-_SHIFT]
        places = _shifted((squares - means[block, None, None]) * scales[block, _CENTER, None, None])
        for row in range(start, min(start + _BLOCK, count)):
            others = row + 1 + np.flatnonzero(near[row - start, row - start + 1 :])
            # What is known to belong together need not be compared.
            others = others[firsts[others] != firsts[row]]
            for at in range(0, len(others), _CHUNK):
                some = others[at : at + _CHUNK]
                copies = some[_alike(places[row - start], details, scales, some, min_correlation)]
                if len(copies):
                    joined = firsts[[row, *copies]]
                    firsts[np.isin(firsts, joined)] = joined.min()
    progress(count, count)
    return firsts


def _alike(
    places: NDArray[np.float32],
    details: NDArray[np.int8],
    scales: NDArray[np.float32],
    rows: NDArray[np.int64],
    least: float,
) -> NDArray[np.bool_]:
    """(P,) True where details of P rows correlate with a square at one of its (25, 1024) places."""
    some = details[rows].astype(np.float32)
    best = some @ places[_CENTER] * scales[rows, _CENTER]
    worth = np.flatnonzero((best >= _WORTH_SHIFTING) & (best < least))
    best[worth] = (some[worth] @ places.T * scales[rows[worth]]).max(axis=1)
    alike: NDArray[np.bool_] = best >= least
    return alike


def _statistics(details: NDArray[np.int8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N,) means of the inner squares; (N, 25) one over the length of each square less its mean, 0 where it is flat."""
    masks = _shifted(np.ones((1, _SIDE, _SIDE), np.float32))[0].T
    means, scales = [np.empty(0, np.float32)], [np.empty((0, masks.shape[1]), np.float32)]
    for start in range(0, len(details), _CHUNK):
        # Sums of whole numbers below 2**24 are exact in float32.
        some = details[start : start + _CHUNK].astype(np.float32)
        mean = (some @ masks).astype(np.float64) / _SIDE**2
        squares = some**2 @ masks - mean**2 * _SIDE**2
        means.append(mean[:, _CENTER].astype(np.float32))
        scales.append((1 / np.sqrt(np.where(squares > 0.5, squares, np.inf))).astype(np.float32))
    return np.concatenate(means), np.concatenate(scales)


def _shifted(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P, 28, 28) squares, each at 25 places of an empty thumbnail: (P, 25, 1024)."""
    steps = 2 * _SHIFT + 1
    places = np.zeros((len(squares), steps, steps, THUMB, THUMB), np.float32)
    for y in range(steps):
        for x in range(steps):
            places[:, y, x, y : y + _SIDE, x : x + _SIDE] = squares
    return places.reshape(-1, steps**2, THUMB**2)
