"""Proposes near embeddings among very many without looking at all of them: a graph of usearch.

Y. Malkov, D. Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical navigable small
world graphs", TPAMI 2020. The graph holds 8-bit copies; the scores of what it proposes are those of the gallery.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.engines import onnxruntime
from edgeface_runtime.errors import MissingExtraError, UsageError
from edgeface_runtime.gallery.search import Rows, in_bytes, widened

_LINKS, _EFFORT = 16, 128  # of the graph: links a row, candidates while building and while searching
_BATCH = 4096


class NearIndex:
    """The graph, in memory."""

    def __init__(self, length: int, saved: tuple[Path, str] | None = None) -> None:
        """Reads it from a file that ``save`` wrote and its sha256; empty where that is not what is there.

        Raises:
            MissingExtraError: usearch is absent (extra ``index``).
        """
        # A model may be opened later, and usearch must not be there before onnxruntime (engines.onnxruntime).
        with contextlib.suppress(UsageError):
            onnxruntime()
        try:
            from usearch.index import Index
        except ModuleNotFoundError as error:
            raise MissingExtraError("usearch", "index") from error
        self._new: Callable[[], Any] = lambda: Index(
            ndim=length,
            metric="cos",
            dtype="i8",
            connectivity=_LINKS,
            expansion_add=_EFFORT,
            expansion_search=_EFFORT,
        )
        self._graph = self._new()
        if saved is not None and _is(*saved):  # usearch crashes on a damaged file
            self._graph.load(str(saved[0]))

    def update(
        self, ids: NDArray[np.int64], fetch: Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], Rows]]
    ) -> int:
        """Makes it hold the embeddings of ``ids`` and no others; after a removal it is built anew.

        Args:
            ids: (N,) of the photos.
            fetch: gives the embeddings of some of them; those that are no longer there it leaves out.

        Returns:
            How many were added.
        """
        ids = np.sort(ids)
        missing = ids[~self._holds(ids)]
        if len(self._graph) > len(ids) - len(missing):
            self._graph, missing = self._new(), ids
        return self.add(missing, fetch)

    def add(self, ids: NDArray[np.int64], fetch: Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], Rows]]) -> int:
        """Adds the embeddings of ``ids``, of which it holds none, as ``update`` does."""
        for start in range(0, len(ids), _BATCH):
            some, rows = fetch(ids[start : start + _BATCH])
            # usearch would round rows of length 1 to a third of the 127 steps; the cosine does not see the scale.
            vectors = rows.vectors if rows.scales is not None else in_bytes(widened(rows))
            # Several threads now and then leave rows that no search reaches.
            self._graph.add(some.astype(np.uint64), vectors, threads=1)
        return len(ids)

    def nearest(self, query: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """At most ``count`` ids of embeddings that are probably the nearest."""
        if not len(self._graph):
            return np.empty(0, np.int64)
        return np.asarray(self._graph.search(in_bytes(query), count).keys).astype(np.int64)

    def save(self, file: Path) -> None:
        """Writes it.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        try:
            self._graph.save(str(file))
        except RuntimeError as error:
            raise OSError(str(error)) from error

    def _holds(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        if not len(self._graph) or not len(ids):
            return np.zeros(len(ids), np.bool_)
        return np.asarray(self._graph.contains(ids.astype(np.uint64)), np.bool_)


def _is(file: Path, digest: str) -> bool:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == digest
    except OSError:
        return False
