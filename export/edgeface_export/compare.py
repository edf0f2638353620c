"""Where two files of one model differ: every tensor that both compute, side by side."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_export.formats import STATIC_FORMATS
from edgeface_export.formats.protocols import Inputs
from edgeface_runtime import Contract, UsageError, load
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.metadata import file_format
from edgeface_runtime.model import as_input, probe_images

_DEQUANTIZED = "_DequantizeLinear_Output"
Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Layer:
    """One tensor as both files compute it."""

    name: str
    shape: tuple[int, ...]
    cosine: float
    """Between the two, mean over the faces."""
    sqnr_db: float | None
    """Signal-to-quantization-noise ratio: power of the first file's values over that of the difference, in decibels;
    None where there is no difference."""

    @property
    def label(self) -> str:
        """The name without the packages that a TFLite converter puts before each module."""
        return re.sub(r"(torch\.nn\.modules\.\w+|edgeface_export\.rewrite)\.", "", self.name)

    def as_json(self) -> dict[str, object]:
        """One row of ``inspect --compare --json``."""
        return {"name": self.name, "shape": list(self.shape), "cosine": self.cosine, "sqnr_db": self.sqnr_db}


def compare_files(first: Path, second: Path, faces: NDArray[np.uint8] | None = None) -> list[Layer]:
    """Runs the same faces through both files and compares what they compute on the way, in the order of computing.

    Tensors are matched by name and shape; where no names are shared, by their order, if the shapes are the same
    all through. Quantized values are turned back into numbers first.

    Args:
        first: whose values count as the signal; the more exact file.
        second: another file of the same model, in the same format.
        faces: (N, S, S, 3) uint8 RGB; None takes the golden probes.

    Raises:
        UsageError: two formats, or files of different models.
        ModelError: a file that does not open or was changed.
    """
    kind, contracts = file_format(first.read_bytes()), [load(path).contract for path in (first, second)]
    if file_format(second.read_bytes()) != kind:
        raise UsageError(f"{first} and {second} are of two formats; compare two .onnx or two .tflite files")
    if kind not in STATIC_FORMATS:
        raise UsageError(f"{first} and {second} are {kind} files; compare two .onnx or two .tflite files")
    _require_same_net(first, second, *contracts)
    inputs = as_input(probe_images(contracts[0].input.size) if faces is None else faces, contracts[0].input)
    read = _onnx_tensors if kind == "onnx" else STATIC_FORMATS[kind].observe
    totals: dict[tuple[str, tuple[int, ...]], list[float]] = defaultdict(lambda: [0.0] * 4)
    for ours, theirs in zip(read(first, inputs), read(second, inputs), strict=True):
        for name, a, b in _matched(ours, theirs):
            row = totals[name, a.shape[1:]]
            length = float(np.linalg.norm(a) * np.linalg.norm(b))
            row[0] += float((a * b).sum()) / length if length else float(np.array_equal(a, b))
            row[1] += float((a**2).sum())
            row[2] += float(((a - b) ** 2).sum())
            row[3] += 1
    if not totals:
        raise UsageError(f"{first} and {second} are of different models: they have no layer in common")
    return [
        Layer(name, shape, cosines / count, 10 * math.log10(signal / noise) if signal and noise else None)
        for (name, shape), (cosines, signal, noise, count) in totals.items()
    ]


def _require_same_net(first: Path, second: Path, ours: Contract, theirs: Contract) -> None:
    for what, a, b in (
        ("input", ours.input, theirs.input),
        ("embedding", ours.embedding, theirs.embedding),
        ("backbone", ours.backbone, theirs.backbone),
        ("parent", ours.parent_sha256, theirs.parent_sha256),
    ):
        if a != b:
            raise UsageError(f"{first} and {second} are of different models: {what} {a} and {b}")


def _matched(ours: Tensors, theirs: Tensors) -> list[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    named = [(name, a, theirs[name]) for name, a in ours.items() if name in theirs and theirs[name].shape == a.shape]
    if named or [a.shape for a in ours.values()] != [b.shape for b in theirs.values()]:
        return named
    return [(name, a, b) for (name, a), b in zip(ours.items(), theirs.values(), strict=True)]


def _onnx_tensors(path: Path, inputs: Inputs) -> Iterator[Tensors]:
    """For each input what every node gives, as the layer after it gets it."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    computed = {name for node in model.graph.node for name in node.output}
    with temporary_folder() as folder:
        onnx.save(model, Path(folder) / "inferred.onnx")
        yield from (
            {name: found.get(f"{name}{_DEQUANTIZED}", value) for name, value in found.items() if name in computed}
            for found in STATIC_FORMATS["onnx"].observe(Path(folder) / "inferred.onnx", inputs)
        )
