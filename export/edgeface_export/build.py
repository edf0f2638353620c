"""A parent and its contract in, checked ONNX and TFLite files and a model card out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgeface_export import keras_twin
from edgeface_export.card import model_card
from edgeface_export.cost import cost_table
from edgeface_export.gate import HeldOut
from edgeface_export.int8 import SEARCH
from edgeface_export.latency import FASTER, compare
from edgeface_export.one_file import (
    FORMATS,
    VERSIONED,
    Exported,
    Parent,
    Plan,
    Strangers,
    float_source,
    make,
    refusal,
)
from edgeface_export.ranges import METHODS
from edgeface_export.recipes import RECIPES, Recipe
from edgeface_export.rewrite import embedder
from edgeface_export.torch_model import torch_embeddings
from edgeface_runtime import Contract, UsageError, load
from edgeface_runtime.contract import OperatorCost

CALIBRATOR = "mse"
MIN_COSINE = 0.995
_BLUE = 8.0
"""By how many levels blue exceeds red on average before faces are taken for BGR: skin has more red than blue."""


@dataclass(frozen=True)
class Export:
    """What an export made, and whether it passed the gate."""

    files: tuple[Exported, ...]
    max_drop: float
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

    def as_json(self) -> dict[str, Any]:
        """The document of ``export --json``, schema 1."""
        gate = {"passed": self.passed, "max_drop_points": self.max_drop, "reason": self.reason}
        card = str(self.card) if self.passed else None
        recommended = {kind: str(path) for kind, path in self.recommended.items()}
        files = [file.as_json() for file in self.files]
        return {"schema": 1, "files": files, "gate": gate, "card": card, "recommended": recommended}


def export(
    net: nn.Module,
    contract: Contract,
    folder: Path,
    *,
    reference: nn.Module | None = None,
    converter: str = "litert",
    **options: Any,
) -> Export:
    """Exports a torch module; see ``export_parent``.

    Args:
        net: (N, 3, S, S) normalised float → (N, D), in evaluation mode.
        contract: what training knows; precision, recipe, operators, costs and golden vectors are added.
        folder: where the files go; made if absent.
        reference: the net that files are compared with; None takes ``net``.
        converter: what writes TFLite: ``litert`` or ``keras``.
        options: of ``export_parent``.

    Raises:
        UsageError: no such converter, or as ``export_parent``.
        MissingExtraError: TensorFlow is not installed.
    """
    writers, packages = FORMATS, VERSIONED
    if converter == "keras":
        keras_twin.require()
        writers, packages = FORMATS | {"tflite": keras_twin}, VERSIONED | {"tflite": keras_twin.packages()}
    elif converter != "litert":
        raise UsageError(f"converter {converter}: there are litert, keras")

    def write_float(recipe: Recipe, path: Path) -> None:
        writers[recipe.format].write_float(embedder(net, contract.input, recipe.prelu), contract.input.size, path)

    def cost(recipe: Recipe) -> dict[str, OperatorCost]:
        weight, activation = recipe.bytes_each
        return cost_table(net, contract.input.size, bytes_per_weight=weight, bytes_per_activation=activation)

    judge = net if reference is None else reference
    parent = Parent(write_float, lambda faces: torch_embeddings(judge, contract.input, faces), cost, packages)
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
    min_cosine: float = MIN_COSINE,
    calibrator: str = CALIBRATOR,
    chooser: HeldOut | None = None,
    seed: int = 0,
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
        min_cosine: mean cosine to the parent below which layers of a static int8 file are kept in float, as
            far as that helps; it refuses nothing.
        calibrator: a key of ``ranges.METHODS``, or ``auto``: the one that measures best on ``chooser``.
        chooser: faces and pairs that neither calibrate nor judge; ``auto`` needs them.
        seed: that the calibration faces were drawn with; only recorded.
        strangers: whom each file's thresholds are measured on; None leaves them out.
        progress: told what is being made.

    Raises:
        UsageError: no such format, precision or calibrator, no faces to calibrate with, no pairs of both kinds, or
            a folder that cannot be written to.
        ModelError: a converter failed, or its file does not open or does not fit its contract.
    """
    formats, precisions = list(formats), list(precisions)
    recipes = [recipe for recipe in RECIPES if recipe.format in formats and recipe.precision in precisions]
    _require_known(formats, precisions, calibrator)
    _require_numbers(max_drop, min_cosine)
    if calibrator == SEARCH and chooser is None:
        raise UsageError("no photos are left to choose a calibrator on; give more, or name a calibrator")
    size = contract.input.size
    for what, faces in (("calibration", calibration), ("held-out", held_out.faces)):
        if not len(faces) or faces.shape[1:] != (size, size, 3) or faces.dtype != np.uint8:
            raise UsageError(f"{what} faces are {faces.dtype} {faces.shape}, not uint8 (N, {size}, {size}, 3), N ≥ 1")
        if faces[..., 2].mean() > faces[..., 0].mean() + _BLUE:
            progress(f"{what} faces have more blue than red: are they BGR? RGB is what is asked for")
    expected = parent.embed(held_out.faces)
    card = folder / f"{contract.name}.card.md"
    with _workspace(folder) as workspace:
        plan = Plan(
            parent=parent, contract=contract, workspace=workspace, calibration=calibration, calibrator=calibrator,
            chooser=chooser, seed=seed, held_out=held_out, expected=expected, strangers=strangers, max_drop=max_drop,
            min_cosine=min_cosine, progress=progress,
        )  # fmt: skip
        done = [make(plan, recipe) for recipe in recipes]
        progress("timing")
        done = [file for kind in FORMATS for file in _timed(plan, kind, [x for x in done if x.format == kind])]
        reason = next((reason for row in zip(done, recipes, strict=True) if (reason := refusal(*row, max_drop))), None)
        if reason is None:
            (workspace / card.name).write_text(model_card([file.as_json() for file in done], done[0].contract), "utf-8")
            for path in (*(file.path for file in done), workspace / card.name):
                path.replace(folder / path.name)
    files = tuple(replace(file, path=folder / file.path.name) for file in done)
    recommended = {
        kind: fastest([file for file in files if file.format == kind]) for kind in FORMATS if kind in formats
    }
    return Export(files, max_drop, reason, card, recommended)


def _timed(plan: Plan, kind: str, files: list[Exported]) -> list[Exported]:
    """The files of one format, with their processor time beside that of its fp32 file."""
    if not files:
        return []
    fp32 = next(recipe for recipe in RECIPES if (recipe.format, recipe.precision) == (kind, "fp32"))
    sources = [float_source(plan, fp32), *(file.path for file in files)]
    reference, *times = compare([load(path, contract=plan.contract) for path in sources])
    return [replace(file, cpu_ms=ms, latency_ratio=ms / reference) for file, ms in zip(files, times, strict=True)]


def fastest(files: Sequence[Exported]) -> Path:
    """The file to take on this machine: of those within 5 % of the fastest, the smallest."""
    least = min(file.cpu_ms or 0.0 for file in files)
    near = [file for file in files if FASTER * (file.cpu_ms or 0.0) <= least]
    return min(near, key=lambda file: file.size_bytes).path


def _require_known(formats: list[str], precisions: list[str], calibrator: str) -> None:
    for what, asked in (("format", formats), ("precision", precisions)):
        known = sorted({str(getattr(recipe, what)) for recipe in RECIPES})
        if not asked or not set(asked) <= set(known):
            raise UsageError(f"{what} {', '.join(asked)}: there are {', '.join(known)}")
    if calibrator not in (SEARCH, *METHODS):
        raise UsageError(f"calibrator {calibrator}: there are {', '.join((SEARCH, *METHODS))}")


def _require_numbers(max_drop: float, min_cosine: float) -> None:
    if math.isnan(max_drop):
        raise UsageError("the largest drop must be a number of percentage points")
    if not -1 <= min_cosine <= 1:
        raise UsageError(f"the least cosine is {min_cosine}; a cosine lies between -1 and 1")


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
