"""What an export made: its files, each with what was measured, and the answer of the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeface_export.accuracy import AccuracyDrop, Parity
from edgeface_export.latency import FASTER
from edgeface_export.options import ExportOptions
from edgeface_export.quantize.sensitivity import ExcludedLayer
from edgeface_export.quantize.static import Trial
from edgeface_export.recipes import Recipe
from edgeface_runtime import Contract


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One written file and how far it is from its source model."""

    path: Path
    """Where it lies, or would lie had it passed the gate."""
    recipe: Recipe
    size_bytes: int
    sha256: str
    parity: Parity
    """To the source model, on the evaluation set."""
    contract: Contract
    """What the file itself says."""
    float_operators: dict[str, int]
    """Operators that compute in float, by name."""
    trials: tuple[Trial, ...] = ()
    """The calibrators that were tried, the chosen one first."""
    excluded: tuple[ExcludedLayer, ...] = ()
    """Layers that stay float because they are too sensitive to int8."""
    reason: str | None = None
    """Why the gate refuses it; None when it passes."""
    cpu_ms: float | None = None
    """Median processor time of one face on this machine."""
    latency_ratio: float | None = None
    """The same, divided by that of the fp32 file that it was made from."""

    @property
    def format(self) -> str:
        """``onnx``, ``tflite`` or ``ncnn``."""
        return self.recipe.format

    @property
    def precision(self) -> str:
        """``fp32``, ``int8`` …"""
        return self.recipe.precision

    @property
    def cosine_mean(self) -> float:
        """To the source model, over the evaluation faces."""
        return self.parity.cosine_mean

    @property
    def cosine_p1(self) -> float:
        """The cosine that 1 % of the evaluation faces fall below."""
        return self.parity.cosine_p1

    @property
    def drop(self) -> AccuracyDrop:
        """Against the source model, on the evaluation pairs."""
        return self.parity.drop

    @property
    def calibrator(self) -> str | None:
        """How int8 activation ranges were taken; None where none were."""
        return (self.contract.calibration or {}).get("method")

    @property
    def operators(self) -> dict[str, int]:
        """``int8``, ``float``, ``other`` → how many operators."""
        return self.contract.operators

    def as_json(self) -> dict[str, object]:
        """One row of ``export --json``."""
        return {
            "path": str(self.path),
            "format": self.format,
            "precision": self.precision,
            "recipe": self.contract.recipe,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "cosine_mean": self.cosine_mean,
            "cosine_p1": self.cosine_p1,
            "drop_points": self.drop.points,
            "drop_interval": [self.drop.low, self.drop.high],
            "pairs": self.drop.pairs,
            "lost": self.drop.lost,
            "won": self.drop.won,
            "tar_drop_points": self.drop.tar,
            "threshold_shift": self.drop.threshold_shift,
            "operators": self.operators,
            "float_operators": self.float_operators,
            "calibrator": self.calibrator,
            "calibrators": [trial.as_json() for trial in self.trials],
            "float_layers": [layer.as_json() for layer in self.excluded],
            "cpu_ms": self.cpu_ms,
            "latency_ratio": self.latency_ratio,
            "accuracy": self.contract.accuracy,
            "thresholds": self.contract.thresholds,
        }


@dataclass(frozen=True)
class ExportResult:
    """What an export made, and whether it passed the gate."""

    files: tuple[ExportedFile, ...]
    options: ExportOptions
    """With the formats and precisions that were made."""
    reason: str | None
    """Why nothing got its name; None when all did."""
    card: Path
    """The model card, written when all passed."""
    recommended: dict[str, Path]
    """Format → the fastest of its files on this machine; of nearly equal ones the smallest."""

    @property
    def passed(self) -> bool:
        """True when every file is within its budget and has its name."""
        return self.reason is None

    @property
    def advice(self) -> list[str]:
        """Which int8 file is not faster than fp32 on this machine, and what to take instead."""
        lines = []
        for file in self.files:
            if file.precision == "int8" and file.latency_ratio is not None and file.latency_ratio > FASTER:
                better = self.recommended[file.format]
                take = "an fp32 file" if better == file.path else better.name
                ratio = f"{file.latency_ratio:.2f} of its time"
                lines.append(f"{file.path.name} is not faster than fp32 on this machine ({ratio}): take {take} here")
        return lines

    def as_json(self) -> dict[str, object]:
        """The document of ``export --json``, schema 1."""
        return {
            "schema": 1,
            "files": [file.as_json() for file in self.files],
            "gate": {"passed": self.passed, "max_drop_points": self.options.max_drop, "reason": self.reason},
            "card": str(self.card) if self.passed else None,
            "recommended": {kind: str(path) for kind, path in self.recommended.items()},
            "options": self.options.as_json(),
        }


def fastest(files: Sequence[ExportedFile]) -> Path:
    """The file to take on this machine: of those within 5 % of the fastest, the smallest."""
    least = min(file.cpu_ms or 0.0 for file in files)
    near = [file for file in files if FASTER * (file.cpu_ms or 0.0) <= least]
    return min(near, key=lambda file: file.size_bytes).path
