"""Static int8 of one float file: ranges by the method that measures best, and layers kept in float where int8 hurts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface_export.gate import Drop, HeldOut, accuracy_drop
from edgeface_export.latency import compare
from edgeface_export.ranges import METHODS, Range, Spread, observe, ranges
from edgeface_runtime import Contract, load

SEARCH = "auto"
"""The calibrator that tries all of ``METHODS``."""
PROBED = 32
"""Faces that a layer's harm is measured on."""


@dataclass(frozen=True, eq=False)
class Draft:
    """A float file, ready to be written as int8."""

    converter: Any
    """The module of its format."""
    source: Path
    layers: dict[str, tuple[str, ...]]
    """Name → its operators, in the order of computing."""
    spreads: dict[str, Spread]
    shifts: dict[str, NDArray[np.float32]]
    """Layer → what rounding its weights adds to the mean of each channel."""

    def write(self, path: Path, method: str, keep: Iterable[str] = ()) -> Path:
        """Writes the file with ranges by ``method`` and the layers ``keep`` in float.

        What rounding the weights adds to a channel's mean is taken from its bias again (M. Nagel et al., "Data-Free
        Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2).
        """
        found: dict[str, Range] = ranges(self.spreads, method)
        kept = list(keep)
        operators = [operator for layer in kept for operator in self.layers[layer]]
        corrected = self.source.with_stem(f"{self.source.stem}-corrected")
        shifts = {layer: shift for layer, shift in self.shifts.items() if layer not in kept}
        self.converter.shift_biases(self.source, shifts, corrected)
        self.converter.write_int8(corrected, found, path, operators)
        return path


@dataclass(frozen=True)
class Trial:
    """What one method of calibration did to faces that neither calibrate nor judge."""

    method: str
    cosine_mean: float
    drop: Drop

    def as_json(self) -> dict[str, Any]:
        """One row of ``calibrators`` in ``export --json``."""
        return {"method": self.method, "cosine_mean": self.cosine_mean, "drop_points": self.drop.points}


@dataclass(frozen=True)
class Kept:
    """A layer that stays float, and what that costs."""

    layer: str
    cosine_alone: float
    """Mean cosine to the parent when this layer alone is int8."""
    size_bytes: int
    """By how much it lengthens the file."""
    latency_ratio: float
    """Processor time with it in float ÷ with it in int8, the other kept layers in float."""

    def as_json(self) -> dict[str, Any]:
        """One row of ``float_layers`` in ``export --json``."""
        return dict(vars(self))


def draft(converter: Any, source: Path, inputs: NDArray[Any], folder: Path) -> Draft:
    """Runs the float file over the calibration inputs.

    Args:
        converter: ``onnx_file`` or ``tflite_file``.
        source: an fp32 file.
        inputs: (N, …) what the graph takes for the calibration faces.
        folder: for what lies between.
    """
    prepared = converter.prepare(source, folder)
    spreads = observe(lambda: converter.observe(prepared, inputs))
    return Draft(converter, prepared, converter.layers(prepared), spreads, converter.rounding_shifts(prepared, inputs))


def try_methods(
    job: Draft, contract: Contract, chooser: HeldOut, expected: NDArray[np.float32], path: Path
) -> list[Trial]:
    """Each method measured on ``chooser``, the one to take first.

    Where accuracy cannot tell two methods apart (the lowest loss lies in the other's 95 % interval),
    the mean cosine to the parent does: it sees what few pairs do not.

    Args:
        job: what is written.
        contract: of the input.
        chooser: faces and pairs that neither calibrate nor judge.
        expected: (N, D) the parent's embeddings of them.
        path: a file to write over and over.
    """
    trials = []
    for method in METHODS:
        found = load(job.write(path, method), contract=contract).embed(chooser.faces)
        drop = accuracy_drop(expected, found, chooser.pairs, chooser.same)
        trials.append(Trial(method, float((found * expected).sum(axis=1).mean()), drop))
    lowest = min(trial.drop.points for trial in trials)
    return sorted(trials, key=lambda trial: (trial.drop.low > lowest, -trial.cosine_mean))


def harm(
    job: Draft, method: str, contract: Contract, faces: NDArray[np.uint8], expected: NDArray[np.float32], path: Path
) -> dict[str, float]:
    """Layer → mean cosine to the parent when it alone is int8, the most harmful first.

    Args:
        job: what is written.
        method: of calibration.
        contract: of the input.
        faces: (N, S, S, 3) uint8 RGB.
        expected: (N, D) the parent's embeddings of them.
        path: a file to write over and over.
    """
    found = {}
    for layer in job.layers:
        job.write(path, method, [other for other in job.layers if other != layer])
        found[layer] = float((load(path, contract=contract).embed(faces) * expected).sum(axis=1).mean())
    return dict(sorted(found.items(), key=lambda item: item[1]))


def mend(
    job: Draft, method: str, contract: Contract, alone: dict[str, float], fits: Callable[[Path], bool], path: Path
) -> tuple[Kept, ...] | None:
    """The fewest layers to keep in float so that the file fits; None where half of the layers do not suffice.

    The most harmful 1, 2, 4 … layers are kept until the file fits; then each is given back that need not
    be kept. Two layers that share a tensor which int8 cannot hold are found together in this way.

    Args:
        job: what is written.
        method: of calibration.
        contract: of the input.
        alone: by ``harm``.
        fits: whether a written file is good enough.
        path: a file to write over and over; one beside it serves too.
    """
    order, most = list(alone), (len(alone) + 1) // 2
    count = 1
    while not fits(job.write(path, method, order[:count])):
        if count == most:
            return None
        count = min(2 * count, most)
    keep, without = order[:count], path.with_stem(f"{path.stem}-without")
    kept = []
    for layer in reversed(order[:count]):
        rest = [other for other in keep if other != layer]
        if fits(job.write(without, method, rest)):
            keep = rest
            continue
        job.write(path, method, keep)
        with_it, in_int8 = compare([load(file, contract=contract) for file in (path, without)])
        size = path.stat().st_size - without.stat().st_size
        kept.append(Kept(layer, alone[layer], size, with_it / in_int8))
    return tuple(reversed(kept))


def probes(faces: NDArray[np.uint8], expected: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Up to ``PROBED`` of the faces, evenly taken, with their embeddings."""
    chosen = np.unique(np.linspace(0, len(faces) - 1, PROBED).astype(np.int64))
    return faces[chosen], expected[chosen]
