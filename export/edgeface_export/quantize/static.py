"""Static int8 of one float file: ranges by the calibrator that measures best, sensitive layers excluded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_export.faces import EvaluationSet
from edgeface_export.formats.protocols import Inputs, StaticFormat
from edgeface_export.gate import AccuracyDrop, accuracy_drop
from edgeface_export.quantize.ranges import METHODS, Spread, observe, ranges
from edgeface_runtime import Contract, load


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A float file that was run over the calibration faces, ready to be written as int8."""

    format: StaticFormat
    source: Path
    """The prepared float file."""
    layers: dict[str, tuple[str, ...]]
    """Name → its operators, in the order of computing."""
    spreads: dict[str, Spread]
    shifts: dict[str, NDArray[np.float32]]
    """Layer → what rounding its weights adds to the mean of each channel."""

    def write(self, path: Path, method: str, excluded: Iterable[str] = ()) -> Path:
        """Writes the file with ranges by ``method``, the layers ``excluded`` in float.

        What rounding the weights adds to a channel's mean is taken from its bias again (bias correction: M. Nagel et
        al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2).
        """
        layers = list(excluded)
        operators = [operator for layer in layers for operator in self.layers[layer]]
        corrected = self.source.with_stem(f"{self.source.stem}-corrected")
        # A layer in float keeps its weights as they are: nothing is to be made good.
        shifts = {layer: shift for layer, shift in self.shifts.items() if layer not in layers}
        self.format.shift_biases(self.source, shifts, corrected)
        self.format.write_int8(corrected, ranges(self.spreads, method), path, operators)
        return path


@dataclass(frozen=True)
class Trial:
    """What one calibrator did to the calibration-selection set."""

    method: str
    cosine_mean: float
    drop: AccuracyDrop

    def as_json(self) -> dict[str, object]:
        """One row of ``calibrators`` in ``export --json``."""
        return {"method": self.method, "cosine_mean": self.cosine_mean, "drop_points": self.drop.points}


def calibrate(kind: StaticFormat, source: Path, inputs: Inputs, folder: Path) -> Calibrated:
    """Runs a float file over the calibration faces.

    Args:
        kind: the file's format.
        source: an fp32 file.
        inputs: (N, …) what the graph takes for the calibration faces.
        folder: for what lies between.
    """
    prepared = kind.prepare(source, folder)
    spreads = observe(lambda: kind.observe(prepared, inputs))
    return Calibrated(kind, prepared, kind.layers(prepared), spreads, kind.rounding_shifts(prepared, inputs))


def try_methods(
    job: Calibrated,
    contract: Contract,
    selection: EvaluationSet,
    expected: NDArray[np.float32],
    path: Path,
    track: Callable[[list[str], str], Iterable[str]] = lambda methods, _: methods,
) -> list[Trial]:
    """Each calibrator measured on the calibration-selection set, the one to take first.

    Where accuracy cannot tell two of them apart (the lowest loss lies in the other's 95 % interval), the mean cosine
    to the source model does: it is exact where few pairs are not.

    Args:
        job: what is written.
        contract: of the input.
        selection: faces and pairs that neither calibrate nor evaluate.
        expected: (N, D) the source model's embeddings of them.
        path: a file to write over and over.
        track: tells how far it is, (methods, title).
    """
    trials = []
    for method in track(list(METHODS), "calibrators tried"):
        # The whole file is measured: how the errors of its ranges add up shows in no single tensor.
        found = load(job.write(path, method), contract=contract).embed(selection.faces)
        drop = accuracy_drop(expected, found, selection.pairs, selection.same)
        trials.append(Trial(method, float((found * expected).sum(axis=1).mean()), drop))
    # False comes first: those that the most accurate one cannot be told from.
    lowest = min(trial.drop.points for trial in trials)
    return sorted(trials, key=lambda trial: (trial.drop.low > lowest, -trial.cosine_mean))
