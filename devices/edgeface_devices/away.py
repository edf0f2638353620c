"""What model files did on another machine, over ssh or under emulation, beside their answers on this one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface_devices.bench.interleaved import FORMAT_NAMES
from edgeface_devices.bench.process import Worker
from edgeface_devices.bench.timing import Source
from edgeface_runtime import read_contract
from edgeface_runtime.golden import probe_images
from edgeface_runtime.metadata import file_format

Embeddings = NDArray[np.float32]
Faces = NDArray[np.uint8]
# fmt: off
_NEVER_EMULATED = ("import_ms", "load_ms", "first_ms", "p50_ms", "p90_ms", "p99_ms", "cpu_p50_ms", "interval_ms",
                   "rounds_ms", "calls", "peak_mb")
# fmt: on
_ENGINES = {"onnx": "onnxruntime", "tflite": "litert", "ncnn": "ncnn"}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the embeddings of the same faces compare on two machines."""

    faces: int
    identical: bool
    """To the last bit."""
    min_cosine: float
    max_difference: float
    """Of any component of a unit embedding."""

    def __str__(self) -> str:
        """For a person: identical, or how much not: the least cosine."""
        return "identical" if self.identical else f"cosine {self.min_cosine:.6f}"


def compare(here: Embeddings, there: Embeddings) -> Agreement:
    """Compares (N, D) unit embeddings of the same faces."""
    return Agreement(
        faces=len(here),
        identical=here.tobytes() == there.tobytes(),
        min_cosine=float((here.astype(np.float64) * there).sum(axis=1).min()),
        max_difference=float(np.abs(here.astype(np.float64) - there).max()),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class AwayRow:
    """One file. ``facts`` is its row as ``bench --json`` has it; the rest is what the answers say."""

    path: Path
    facts: Mapping[str, Any]
    here: Embeddings
    there: Embeddings
    """(N, D) unit embeddings of the same faces on this machine and on the other."""
    here_version: str
    """Of the engine on this machine."""
    accuracy: Mapping[str, float | None] = field(default_factory=dict)
    """``top1``, ``auc`` (there), ``top1_here`` and ``auc_here``, once photos with names were scored."""

    @property
    def agreement(self) -> Agreement:
        """The two machines compared."""
        return compare(self.here, self.there)

    def as_json(self) -> dict[str, Any]:
        """The row as in ``bench --json``."""
        agreement = self.agreement.__dict__ | {"engine_version_here": self.here_version}
        return {**self.facts, "path": str(self.path), **self.accuracy, "agreement": agreement}


@dataclass(frozen=True, kw_only=True)
class Away:
    """Rows of one machine, in the order the files were given."""

    device: Mapping[str, Any]
    """As in ``bench --json``: name, source, cores, system and what else is known of it."""
    rows: tuple[AwayRow, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More keys of the document: ``ratios``, ``sustained``."""

    @property
    def source(self) -> Source:
        """``measured`` on a board, ``emulated`` otherwise."""
        source: Source = self.device["source"]
        return source

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(columns, rows) for a terminal: ms of a measured board, millions of instructions of an emulated one."""
        emulated = self.source == "emulated"
        classes = ("total", "simd", "memory", "branch", "dot")
        columns = [*classes] if emulated else ["p50", "p90", "first", "peak"]
        table = []
        for row in self.rows:
            document = row.as_json()
            counts = document.get("instructions") or {}
            numbers = [counts.get(key) for key in classes]
            cells = [None if number is None else number / 1e6 for number in numbers]
            if not emulated:
                cells = [document[key] for key in ("p50_ms", "p90_ms", "first_ms", "peak_mb")]
            top1 = document["top1"]
            accuracy = ["–" if top1 is None else f"{100 * top1:.1f}"]
            table.append([self.name(row), *map(_shown, cells), *accuracy, str(row.agreement)])
        return ["file", *columns, "top-1", "against here"], table

    def name(self, row: AwayRow) -> str:
        """What tells a row from the others: precision and format, or its path where two rows have the same."""
        labels = [(other.facts["precision"], other.facts["format"]) for other in self.rows]
        label = (row.facts["precision"], row.facts["format"])
        return str(row.path) if labels.count(label) > 1 else f"{label[0]} {FORMAT_NAMES[label[1]]}"

    def as_json(self) -> dict[str, Any]:
        """The document of ``bench --json``, schema 1."""
        rows = [row.as_json() for row in self.rows]
        return {"schema": 1, "device": dict(self.device), "rows": rows, "ratios": []} | dict(self.extra)


def emulated_facts(path: Path, *, threads: int) -> dict[str, Any]:
    """A row of ``bench --json`` without any duration: under emulation one would mean nothing."""
    contract, format_ = read_contract(path), file_format(path.read_bytes())
    return dict.fromkeys((*_NEVER_EMULATED, "top1", "auc", "instructions")) | {
        "format": format_,
        "engine": _ENGINES[format_],
        "precision": contract.precision,
        "recipe": contract.recipe,
        "threads": threads,
        "size_bytes": path.stat().st_size,
        "source": "emulated",
    }


def faces_for(size: int, faces: Faces | None) -> Faces:
    """The faces that both machines embed: the given ones, else the four golden probe images."""
    return probe_images(size) if faces is None else faces


def embed_here(path: Path, faces: Faces, *, threads: int) -> tuple[Embeddings, str]:
    """(N, D) unit embeddings by a fresh process of this machine, and the engine's version.

    Raises:
        ModelError: the file is no model, or its process died; names it.
    """
    with tempfile.TemporaryDirectory() as folder, closing(Worker(path, threads=threads)) as worker:
        source = Path(folder) / "faces.npy"
        np.save(source, faces)
        return worker.embed(source, Path(folder) / "embeddings.npy"), worker.loaded["engine_version"]


def _shown(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}"
