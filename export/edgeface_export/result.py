"""What an export made: its files, each with what was measured, the answer of the gate, and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeface_export.gate import FASTER, AccuracyDrop, Parity
from edgeface_export.options import ExportOptions, Recipe
from edgeface_export.quantize.sensitivity import ExcludedLayer
from edgeface_export.quantize.static import Trial
from edgeface_runtime import Contract

_ENGINES = {"onnx": "onnxruntime", "tflite": "LiteRT", "ncnn": "ncnn"}
CAVEATS = (
    "The threshold behind an accuracy is the best one on the pairs that it is measured on, so the figure flatters.",
    "Photos of other light, age, skin or camera than the ones measured here may give other figures. Measure on your "
    "own photos: `edgeface eval`.",
    "A cosine above a threshold is evidence, not proof, that two photos show one person.",
)


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
            "genuine": self.drop.genuine,
            "eer": self.drop.eer,
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
    warnings: tuple[str, ...] = ()
    """What makes the source model, its contract or the measurement doubtful."""

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

    @property
    def choice(self) -> list[str]:
        """Which file to take for which engine, by the speed and the loss that were measured."""
        lines = []
        for file in self.files:
            if file.path == self.recommended[file.format] and file.cpu_ms is not None:
                figures = f"{file.cpu_ms:.1f} ms of processor time a face here, drop {file.drop.points:+.3f} points"
                lines.append(f"for {_ENGINES[file.format]} take {file.path.name}: {figures}")
        return lines

    def as_json(self) -> dict[str, object]:
        """The document of ``export --json``, schema 1."""
        return {
            "schema": 1,
            "files": [file.as_json() for file in self.files],
            "gate": {"passed": self.passed, "max_drop_points": self.options.max_drop, "reason": self.reason},
            "warnings": list(self.warnings),
            "card": str(self.card) if self.passed else None,
            "recommended": {kind: str(path) for kind, path in self.recommended.items()},
            "options": self.options.as_json(),
        }


def fastest(files: Sequence[ExportedFile]) -> Path:
    """The file to take on this machine: of those within 5 % of the fastest, the smallest."""
    least = min(file.cpu_ms or 0.0 for file in files)
    near = [file for file in files if FASTER * (file.cpu_ms or 0.0) <= least]
    return min(near, key=lambda file: file.size_bytes).path


def model_card(files: Sequence[ExportedFile], options: ExportOptions, warnings: Sequence[str] = ()) -> str:
    """What a person should know before using the files of one export, as Markdown."""
    contract = files[0].contract  # what differs between files is taken from each
    spec = contract.input
    rows = [
        (
            file.path.name,
            f"{file.size_bytes:,}",
            f"`{file.contract.recipe}`",
            f"{file.cosine_mean:.5f}",
            f"{100 * at['value']:.2f} % ({100 * at['low']:.2f} to {100 * at['high']:.2f})",
            f"{at['drop_points']:+.3f} ({at['drop_low']:+.3f} to {at['drop_high']:+.3f})",
        )
        for file in files
        for at in [file.contract.accuracy["verification"]]
    ]
    fed = "pixels as they are" if spec.dtype == "uint8" else f"(pixel − {spec.mean}) / {spec.std}"
    sections = (
        f"# {contract.name}",
        f"A face embedder ({contract.backbone}): one aligned face of {spec.size} × {spec.size} pixels in, "
        f"{contract.embedding.length} numbers out. Compare two faces by the cosine of their embeddings.",
        f"Input: {spec.layout} {spec.dtype}, {spec.colour}, {fed}. Each file carries its contract; `edgeface inspect` "
        "prints it.",
        "## Files",
        _table(("file", "bytes", "recipe", "cosine to source model", "accuracy", "drop, points"), rows),
        f"Accuracy and drop: verification on {files[0].drop.pairs} evaluation pairs, {files[0].drop.genuine} of them "
        "genuine, both kinds of equal weight (guessing has 50 %), with 95 % intervals. A positive drop is a loss "
        "against the source model.",
        *_quantized(files),
        f"Export options: {', '.join(_option(name, value) for name, value in options.as_json().items())}.",
        "## Thresholds",
        _thresholds(files),
        "## Data and licence",
        "\n".join(
            (
                f"- Training data, sha256: {contract.data_sha256 or 'unknown'}",
                f"- Source model, sha256: {contract.parent_sha256 or 'unknown'}",
                f"- Licence that the training photos impose: {contract.licence}",
            )
        ),
        "## Caveats",
        "\n".join(f"- {caveat}" for caveat in (*warnings, *CAVEATS)),
    )
    return "\n\n".join(sections) + "\n"


def _option(name: str, value: object) -> str:
    return f"{name} {' and '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _quantized(files: Sequence[ExportedFile]) -> list[str]:
    """A line for each file whose ranges were taken from faces."""
    lines = []
    for file in files:
        if file.calibrator is not None:
            layers = ", ".join(f"`{item.layer}`" for item in file.excluded)
            said = f"excluded from quantization, because too sensitive: {layers}" if layers else "no layer excluded"
            lines.append(f"- {file.path.name}: ranges by {file.calibrator}; {said}.")
    return ["\n".join(lines)] if lines else []


def _thresholds(files: Sequence[ExportedFile]) -> str:
    first, people = files[0].contract.thresholds, files[0].contract.accuracy.get("thresholds", {})
    asked = sorted(first, key=float, reverse=True)
    rates = [rate for rate in asked if first[rate]]
    carried = [rate for rate in rates if "from" in first[rate]]
    said = [f"- FMR {rate}: none: {people['missing'][rate]}." for rate in asked if rate not in rates]
    said += [f"- FMR {rate}: not measured on this file, but on {first[rate]['from']}." for rate in carried]
    if not rates:
        return "\n".join(said or ["None were measured."])
    rows = [
        (
            file.path.name,
            rate,
            f"{item['value']:.4f} ({item['low']:.4f} to {item['high']:.4f})",
            f"{100 * item['tar']:.2f} %",
        )
        for file in files
        for rate in rates
        for item in [file.contract.thresholds[rate]]
    ]
    intro = "Accept when the cosine reaches the threshold."
    if carried != rates:
        intro += (
            f" Measured all against all on {people['photos']} photos of {people['people']} people that the model was "
            "not trained on; 95 % intervals over people."
        )
    table = _table(("file", "false match rate (FMR)", "threshold", "genuine pairs accepted"), rows)
    return "\n\n".join([intro, table, *(["\n".join(said)] if said else [])])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
