"""A parent and its contract in, checked ONNX and TFLite files and a model card out."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface_export import onnx_file, tflite_file
from edgeface_export.card import model_card
from edgeface_export.cost import cost_table
from edgeface_export.gate import Drop, HeldOut, accuracy_drop, wilson
from edgeface_export.recipes import RECIPES, Recipe
from edgeface_export.rewrite import embedder
from edgeface_runtime import Contract, InputSpec, UsageError, load
from edgeface_runtime.contract import Golden, OperatorCost, read_contract, seal
from edgeface_runtime.golden import PROBES, probe_images
from edgeface_runtime.model import as_input, unit_rows

FORMATS: dict[str, Any] = {"onnx": onnx_file, "tflite": tflite_file}
VERSIONED = {"onnx": ("torch", "onnx", "onnxruntime"), "tflite": ("torch", "litert-torch", "ai-edge-quantizer")}


@dataclass(frozen=True, eq=False)
class Parent:
    """What files are made from, and what they are compared with."""

    write_float: Callable[[Recipe, Path], None]
    """Writes the fp32 file of a recipe's format, with PReLU in the recipe's form."""
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """(N, S, S, 3) uint8 RGB → (N, D) unit rows."""
    cost: Callable[[Recipe], dict[str, OperatorCost]]


@dataclass(frozen=True, eq=False)
class Strangers:
    """People that the net was not trained on: what thresholds are measured on."""

    faces: NDArray[np.uint8]
    """(N, S, S, 3) uint8 RGB; may be empty, then ``thresholds`` says why there are none."""
    thresholds: Callable[[NDArray[np.float32]], tuple[dict[str, Any], dict[str, Any]]]
    """(N, D) embeddings of ``faces`` → the contract's ``thresholds`` and its ``accuracy["thresholds"]``."""


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
            "threshold_shift": self.drop.threshold_shift,
            "operators": self.operators,
            "accuracy": self.contract.accuracy,
            "thresholds": self.contract.thresholds,
        }


@dataclass(frozen=True)
class Export:
    """What an export made, and whether it passed the gate."""

    files: tuple[Exported, ...]
    max_drop: float
    reason: str | None
    """Why nothing got its name; None when all did."""
    card: Path
    """The model card, written when all passed."""

    @property
    def passed(self) -> bool:
        """True when every file is within its budget and has its name."""
        return self.reason is None

    def as_json(self) -> dict[str, Any]:
        """The document of ``export --json``, schema 1."""
        gate = {"passed": self.passed, "max_drop_points": self.max_drop, "reason": self.reason}
        card = str(self.card) if self.passed else None
        return {"schema": 1, "files": [file.as_json() for file in self.files], "gate": gate, "card": card}


def export(net: nn.Module, contract: Contract, folder: Path, **options: Any) -> Export:
    """Exports a torch module; see ``export_parent``.

    Args:
        net: (N, 3, S, S) normalised float → (N, D), in evaluation mode.
        contract: what training knows; precision, recipe, operators, costs and golden vectors are added.
        folder: where the files go; made if absent.
        options: of ``export_parent``.
    """

    def write_float(recipe: Recipe, path: Path) -> None:
        FORMATS[recipe.format].write_float(embedder(net, contract.input, recipe.prelu), contract.input.size, path)

    def cost(recipe: Recipe) -> dict[str, OperatorCost]:
        weight, activation = recipe.bytes_each
        return cost_table(net, contract.input.size, bytes_per_weight=weight, bytes_per_activation=activation)

    parent = Parent(write_float, lambda faces: torch_embeddings(net, contract.input, faces), cost)
    return export_parent(parent, contract, folder, **options)


def export_parent(
    parent: Parent,
    contract: Contract,
    folder: Path,
    *,
    calibration: NDArray[np.uint8],
    held_out: HeldOut,
    formats: Iterable[str] = ("onnx", "tflite"),
    precisions: Iterable[str] = ("fp32", "int8"),
    max_drop: float = 0.15,
    strangers: Strangers | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Export:
    """Writes ``<name>.<precision>.<format>`` for each asked recipe, each with its contract inside, and a card.

    The files get their names only when all of them open in their engine and pass the gate; until then
    they lie in a folder that is removed.

    Args:
        parent: what the files are made from.
        contract: what is known of the parent.
        folder: where the files go; made if absent.
        calibration: (N, S, S, 3) uint8 RGB faces that int8 ranges are taken from.
        held_out: faces, none of them among the calibration faces, and the pairs to judge.
        formats: of ``onnx``, ``tflite``.
        precisions: of ``RECIPES``.
        max_drop: accuracy that a file may lose against its parent, in percentage points.
        strangers: whom each file's thresholds are measured on; None leaves them out.
        progress: told what is being made.

    Raises:
        UsageError: no such format or precision, no faces to calibrate with, or a folder that cannot be written to.
        ModelError: a file does not open or does not fit its contract.
    """
    formats, precisions = list(formats), list(precisions)
    recipes = [recipe for recipe in RECIPES if recipe.format in formats and recipe.precision in precisions]
    _require_known(formats, precisions, max_drop)
    size = contract.input.size
    for what, faces in (("calibration", calibration), ("held-out", held_out.faces)):
        if not len(faces) or faces.shape[1:] != (size, size, 3) or faces.dtype != np.uint8:
            raise UsageError(f"{what} faces are {faces.dtype} {faces.shape}, not uint8 (N, {size}, {size}, 3), N ≥ 1")
    expected = parent.embed(held_out.faces)
    card = folder / f"{contract.name}.card.md"
    with _workspace(folder) as workspace:
        done = []
        for recipe in recipes:
            progress(f"writing {contract.name}.{recipe.suffix}")
            path, stamped = _build(parent, contract, recipe, workspace, calibration)
            done.append(_check(path, stamped, recipe, held_out, expected, strangers))
        reason = next((reason for row in zip(done, recipes, strict=True) if (reason := _refusal(*row, max_drop))), None)
        if reason is None:
            (workspace / card.name).write_text(model_card([file.as_json() for file in done], done[0].contract), "utf-8")
            for path in (*(file.path for file in done), workspace / card.name):
                path.replace(folder / path.name)
    return Export(tuple(replace(file, path=folder / file.path.name) for file in done), max_drop, reason, card)


def _require_known(formats: list[str], precisions: list[str], max_drop: float) -> None:
    for what, asked in (("format", formats), ("precision", precisions)):
        known = sorted({str(getattr(recipe, what)) for recipe in RECIPES})
        if not asked or not set(asked) <= set(known):
            raise UsageError(f"{what} {', '.join(asked)}: there are {', '.join(known)}")
    if math.isnan(max_drop):
        raise UsageError("the largest drop must be a number of percentage points")


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A folder inside ``folder`` that is removed at the end, as is ``folder`` if it is new and stayed empty."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".export-") as workspace:
            yield Path(workspace)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written to ({error.strerror or error})") from error
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _refusal(file: Exported, recipe: Recipe, max_drop: float) -> str | None:
    name, operators = file.path.name, file.operators
    if not math.isfinite(file.cosine_p1):
        return f"{name}: gives embeddings that are no numbers"
    if file.cosine_p1 < recipe.min_cosine:
        return f"{name}: cosine to its parent {file.cosine_p1:.6f}, at least {recipe.min_cosine} is needed"
    if operators["int8"] < recipe.min_int8 * (operators["int8"] + operators["float"]):
        return f"{name}: {operators['float']} operators stayed float"
    if file.drop.points > max_drop:
        return f"{name}: loses {file.drop.points:.3f} points on {file.drop.pairs} pairs, at most {max_drop} are allowed"
    return None


def torch_embeddings(net: nn.Module, spec: InputSpec, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, D) unit embeddings by PyTorch itself of (N, S, S, 3) uint8 RGB faces."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    rows = []
    with torch.no_grad():
        for start in range(0, len(faces), 32):
            chunk = torch.from_numpy(np.ascontiguousarray(faces[start : start + 32]))
            rows.append(net((chunk.permute(0, 3, 1, 2).float() - mean) / std).numpy())
    return unit_rows(np.concatenate(rows))


def _build(
    parent: Parent, contract: Contract, recipe: Recipe, workspace: Path, calibration: NDArray[np.uint8]
) -> tuple[Path, Contract]:
    """Converts, quantizes where the recipe says so, stamps; a float file of one PReLU form is converted once."""
    converter = FORMATS[recipe.format]
    source = workspace / f"{recipe.prelu}.{recipe.format}"
    if not source.exists():
        parent.write_float(recipe, source)
    path = workspace / f"{contract.name}.{recipe.suffix}"
    if recipe.precision == "fp32":
        path.write_bytes(source.read_bytes())
    else:
        converter.WRITERS[recipe.precision](source, as_input(calibration, contract.input), path)
    digest = hashlib.sha256(calibration.tobytes()).hexdigest()
    stamped = replace(
        contract,
        precision=recipe.precision,
        recipe=recipe.name,
        calibration={"faces": len(calibration), "sha256": digest} if recipe.is_calibrated else None,
        cost=parent.cost(recipe),
        operators=converter.count_operators(path),
        versions={package: importlib.metadata.version(package) for package in VERSIONED[recipe.format]},
    )
    _stamp(path, stamped, recipe)
    return path, stamped


def _stamp(path: Path, contract: Contract, recipe: Recipe) -> None:
    FORMATS[recipe.format].write_contract(path, contract.to_json())
    seal(path)


def _check(
    path: Path,
    stamped: Contract,
    recipe: Recipe,
    held_out: HeldOut,
    expected: NDArray[np.float32],
    strangers: Strangers | None,
) -> Exported:
    """Measures the written file itself and stamps what was found into it."""
    model = load(path)
    found = model.embed(held_out.faces)
    cosines = (found * expected).sum(axis=1)
    mean, worst = float(cosines.mean()), float(np.percentile(cosines, 1))
    drop = accuracy_drop(expected, found, held_out.pairs, held_out.same)
    low, high = wilson(drop.accuracy, drop.pairs)
    figures = {"value": drop.accuracy, "low": low, "high": high, "cosine_mean": mean, "cosine_p1": worst}
    figures |= {"drop_points": drop.points, "drop_low": drop.low, "drop_high": drop.high}
    # Rounded, so that the last bit of a float does not make two exports of one net differ.
    verification = {"pairs": drop.pairs} | {key: round(value, 5) for key, value in figures.items()}
    accuracy = stamped.accuracy | {"verification": verification}
    thresholds: dict[str, Any] = {}
    if strangers is not None:
        thresholds, accuracy["thresholds"] = strangers.thresholds(model.embed(strangers.faces))
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
    )
