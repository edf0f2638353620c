"""One file: written by its recipe, stamped with its contract, measured against its parent."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface_export import onnx_file, tflite_file
from edgeface_export.gate import Drop, HeldOut, accuracy_drop, wilson
from edgeface_export.int8 import SEARCH, Draft, Kept, Trial, draft, harm, mend, probes, try_methods
from edgeface_export.recipes import Recipe
from edgeface_runtime import Contract, EdgefaceError, ModelError, load
from edgeface_runtime.contract import Golden, OperatorCost, read_contract, seal
from edgeface_runtime.engines import first_line
from edgeface_runtime.golden import PROBES, probe_images
from edgeface_runtime.model import as_input

FORMATS: dict[str, Any] = {"onnx": onnx_file, "tflite": tflite_file}
VERSIONED: dict[str, tuple[str, ...]] = {
    "onnx": ("torch", "onnx", "onnxruntime"),
    "tflite": ("torch", "litert-torch", "ai-edge-quantizer"),
}


@dataclass(frozen=True, eq=False)
class Parent:
    """What files are made from, and what they are compared with."""

    write_float: Callable[[Recipe, Path], None]
    """Writes the fp32 file of a recipe's format, with PReLU in the recipe's form."""
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """(N, S, S, 3) uint8 RGB → (N, D) unit rows."""
    cost: Callable[[Recipe], dict[str, OperatorCost]]
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: VERSIONED)
    """Format → the distributions that write it; their versions stand in the contract."""


@dataclass(frozen=True, eq=False)
class Strangers:
    """People that the net was not trained on: what thresholds are measured on."""

    faces: NDArray[np.uint8]
    """(N, S, S, 3) uint8 RGB; may be empty, then ``thresholds`` says why there are none."""
    thresholds: Callable[[NDArray[np.float32]], tuple[dict[str, Any], dict[str, Any]]]
    """(N, D) embeddings of ``faces`` → the contract's ``thresholds`` and its ``accuracy["thresholds"]``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What all files of one export have in common."""

    parent: Parent
    contract: Contract
    workspace: Path
    calibration: NDArray[np.uint8]
    """(N, S, S, 3) uint8 RGB faces that int8 ranges are taken from."""
    calibrator: str
    """A key of ``ranges.METHODS``, or ``int8.SEARCH``."""
    chooser: HeldOut | None
    """Faces and pairs that a calibrator is chosen on: they neither calibrate nor judge."""
    seed: int
    """That the calibration faces were drawn with; only recorded."""
    held_out: HeldOut
    """Faces and pairs that judge."""
    expected: NDArray[np.float32]
    """(N, D) the parent's embeddings of the faces that judge."""
    strangers: Strangers | None
    max_drop: float
    min_cosine: float
    progress: Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """One written file and how far it is from the net it was made from."""

    path: Path
    """Where it lies, or would lie had it passed the gate."""
    format: str
    precision: str
    size_bytes: int
    sha256: str
    cosine_mean: float
    """To the torch net, over the parity faces."""
    cosine_p1: float
    """The cosine that 1 % of the faces fall below."""
    drop: Drop
    """Against the torch net, on the held-out pairs."""
    contract: Contract
    """What the file itself says."""
    stayed_float: dict[str, int]
    """Operators that compute in float, by name."""
    trials: tuple[Trial, ...] = ()
    """The methods of calibration that were tried, the chosen one first."""
    kept: tuple[Kept, ...] = ()
    """Layers that stay float because int8 cost too much."""
    cpu_ms: float | None = None
    """Median processor time of one face on this machine."""
    latency_ratio: float | None = None
    """The same, divided by that of the fp32 file of its format."""

    @property
    def operators(self) -> dict[str, int]:
        """``int8``, ``float``, ``other`` → how many operators."""
        return self.contract.operators

    def as_json(self) -> dict[str, Any]:
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
            "float_operators": self.stayed_float,
            "calibrator": (self.contract.calibration or {}).get("method"),
            "calibrators": [trial.as_json() for trial in self.trials],
            "float_layers": [kept.as_json() for kept in self.kept],
            "cpu_ms": self.cpu_ms,
            "latency_ratio": self.latency_ratio,
            "accuracy": self.contract.accuracy,
            "thresholds": self.contract.thresholds,
        }


def make(plan: Plan, recipe: Recipe) -> Exported:
    """Writes, stamps and measures one file in the plan's workspace.

    Raises:
        ModelError: a converter failed, or its file does not open or does not fit its contract.
    """
    plan.progress(f"writing {plan.contract.name}.{recipe.suffix}")
    path = plan.workspace / f"{plan.contract.name}.{recipe.suffix}"
    try:
        source = float_source(plan, recipe)
        if recipe.is_calibrated:
            return _static(plan, recipe, source, path)
        if recipe.precision == "fp32":
            path.write_bytes(source.read_bytes())
        else:
            FORMATS[recipe.format].WRITERS[recipe.precision](source, path)
        return _check(plan, recipe, path)
    except (EdgefaceError, OSError):
        raise
    except Exception as error:  # converters raise types of their own
        raise ModelError(f"{path.name}: cannot be made: {type(error).__name__}: {first_line(error)}") from error


def float_source(plan: Plan, recipe: Recipe) -> Path:
    """The float file of a recipe's format and PReLU form; converted once."""
    source = plan.workspace / f"{recipe.prelu}.{recipe.format}"
    if not source.exists():
        plan.parent.write_float(recipe, source)
    return source


def _static(plan: Plan, recipe: Recipe, source: Path, path: Path) -> Exported:
    """Calibrates, with a search where one is asked for, and keeps layers in float where int8 costs too much."""
    contract, scratch = plan.contract, plan.workspace / f"scratch.{recipe.format}"
    job = draft(FORMATS[recipe.format], source, as_input(plan.calibration, contract.input), plan.workspace)
    if "finetuning" in contract.accuracy:  # its weights were moved so that they have the right means when rounded
        job = replace(job, shifts={})
    method, trials = plan.calibrator, []
    if method == SEARCH:
        assert plan.chooser is not None
        plan.progress(f"choosing the calibrator of {path.name}")
        trials = try_methods(job, contract, plan.chooser, plan.parent.embed(plan.chooser.faces), scratch)
        method = trials[0].method
    file = _check(plan, recipe, job.write(path, method), method)
    return replace(_mended(plan, recipe, job, method, file, scratch), trials=tuple(trials))


def _mended(plan: Plan, recipe: Recipe, job: Draft, method: str, file: Exported, scratch: Path) -> Exported:
    """The file with the layers in float that it needs: to be close to the parent and accurate, or else accurate."""
    # What even the float file does not reach, no layer in float can mend.
    tests = [
        partial(_fits, plan, least)
        for least in (plan.min_cosine, -1.0)
        if not _is_enough(plan, least, file.drop, file.cosine_mean) and _fits(plan, least, job.source)
    ]
    if not tests or not _is_int8(file, recipe):
        return file
    plan.progress(f"searching which layers of {file.path.name} to keep in float")
    faces, expected = probes(plan.calibration, plan.parent.embed(plan.calibration))
    alone = harm(job, method, plan.contract, faces, expected, scratch)
    for fits in tests:
        kept = mend(job, method, plan.contract, alone, fits, scratch)
        if kept is not None:
            layers = [item.layer for item in kept]
            return replace(_check(plan, recipe, job.write(file.path, method, layers), method, layers), kept=kept)
    return file


def _fits(plan: Plan, min_cosine: float, path: Path) -> bool:
    found = load(path, contract=plan.contract).embed(plan.held_out.faces)
    drop = accuracy_drop(plan.expected, found, plan.held_out.pairs, plan.held_out.same)
    return _is_enough(plan, min_cosine, drop, float((found * plan.expected).sum(axis=1).mean()))


def _is_enough(plan: Plan, min_cosine: float, drop: Drop, cosine: float) -> bool:
    return drop.points <= plan.max_drop and cosine >= min_cosine


def _check(plan: Plan, recipe: Recipe, path: Path, method: str | None = None, layers: Iterable[str] = ()) -> Exported:
    """Stamps a file, measures the stamped file itself, and stamps what was found into it."""
    converter = FORMATS[recipe.format]
    operators: dict[str, Counter[str]] = converter.operators(path)
    calibration = None
    if method is not None:
        digest = hashlib.sha256(plan.calibration.tobytes()).hexdigest()
        calibration = {"faces": len(plan.calibration), "seed": plan.seed, "sha256": digest, "method": method}
        calibration |= {"float_layers": list(layers)}
    stamped = replace(
        plan.contract,
        precision=recipe.precision,
        recipe=recipe.name,
        calibration=calibration,
        cost=plan.parent.cost(recipe),
        operators={kind: count.total() for kind, count in operators.items()},
        versions={package: importlib.metadata.version(package) for package in plan.parent.packages[recipe.format]},
    )
    _stamp(path, stamped, recipe)
    model = load(path)
    found = model.embed(plan.held_out.faces)
    cosines = (found * plan.expected).sum(axis=1)
    mean, worst = float(cosines.mean()), float(np.percentile(cosines, 1))
    drop = accuracy_drop(plan.expected, found, plan.held_out.pairs, plan.held_out.same)
    low, high = wilson(drop.accuracy, drop.pairs)
    figures = {"value": drop.accuracy, "low": low, "high": high, "cosine_mean": mean, "cosine_p1": worst}
    figures |= {"drop_points": drop.points, "drop_low": drop.low, "drop_high": drop.high}
    # Rounded, so that the last bit of a float does not make two exports of one net differ.
    verification = {"pairs": drop.pairs} | {key: round(value, 5) for key, value in figures.items()}
    accuracy = stamped.accuracy | {"verification": verification}
    thresholds: dict[str, Any] = {}
    if plan.strangers is not None:
        thresholds, accuracy["thresholds"] = plan.strangers.thresholds(model.embed(plan.strangers.faces))
    # The golden vectors are what the finished file itself answers.
    answers = model.embed(probe_images(stamped.input.size))
    rounded = tuple(tuple(round(float(value), 6) for value in row) for row in answers)
    golden = Golden(probes=PROBES, embeddings=rounded, min_cosine=recipe.min_golden)
    _stamp(path, replace(stamped, golden=golden, accuracy=accuracy, thresholds=thresholds), recipe)
    return Exported(
        path=path,
        format=recipe.format,
        precision=recipe.precision,
        size_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        cosine_mean=mean,
        cosine_p1=worst,
        drop=drop,
        contract=read_contract(path),
        stayed_float=dict(sorted(operators["float"].items())),
    )


def _is_int8(file: Exported, recipe: Recipe) -> bool:
    counts = file.operators
    # Preprocessing inside the graph, a subtraction and a product, stays float on purpose: VGG11 has 14 operators else.
    others = counts["float"] - (2 if file.contract.input.dtype == "uint8" else 0)
    return counts["int8"] >= recipe.min_int8 * (counts["int8"] + others)


def _stamp(path: Path, contract: Contract, recipe: Recipe) -> None:
    FORMATS[recipe.format].write_contract(path, contract.to_json())
    seal(path)


def refusal(file: Exported, recipe: Recipe, max_drop: float) -> str | None:
    """Why a file does not get its name; None when it does."""
    name = file.path.name
    if not math.isfinite(file.cosine_p1):
        return f"{name}: gives embeddings that are no numbers"
    if file.cosine_p1 < recipe.min_cosine:
        return f"{name}: cosine to its parent {file.cosine_p1:.6f}, at least {recipe.min_cosine} is needed"
    if not file.kept and not _is_int8(file, recipe):
        listed = ", ".join(f"{operator} {count}" for operator, count in file.stayed_float.items())
        return f"{name}: {file.operators['float']} operators cannot be quantized and stayed float: {listed}"
    if file.drop.points > max_drop:
        return f"{name}: loses {file.drop.points:.3f} points on {file.drop.pairs} pairs, at most {max_drop} are allowed"
    return None
