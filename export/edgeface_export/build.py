"""A torch module and a contract in, checked ONNX and TFLite files out."""

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
from edgeface_export.cost import cost_table
from edgeface_export.gate import Drop, HeldOut, accuracy_drop
from edgeface_export.rewrite import embedder
from edgeface_runtime import Contract, InputSpec, UsageError, load
from edgeface_runtime.contract import Golden, seal
from edgeface_runtime.golden import PROBES, probe_images
from edgeface_runtime.model import unit_rows

WRITERS: dict[str, Any] = {"onnx": onnx_file, "tflite": tflite_file}
SAME = 0.9999
"""The least cosine between an fp32 file and the net."""
VERSIONED = {"onnx": ("torch", "onnx", "onnxruntime"), "tflite": ("torch", "litert-torch", "ai-edge-quantizer")}


@dataclass(frozen=True)
class Recipe:
    """How one file is made."""

    format: str
    precision: str
    name: str
    """Decodes: ``static_wi8_au8`` is static, int8 weights, uint8 activations."""
    prelu: str
    """The PReLU form that this engine runs fastest at this precision."""
    min_golden: float
    """The least cosine that another processor's arithmetic may give on the golden probes."""

    @property
    def suffix(self) -> str:
        """``fp32.onnx`` and the like."""
        return f"{self.precision}.{self.format}"


RECIPES = (
    Recipe("onnx", "fp32", "float", "affine", 0.9999),
    Recipe("onnx", "int8", "static_wi8_au8", "depthwise", 0.99),
    Recipe("tflite", "fp32", "float", "maximum", 0.9999),
    Recipe("tflite", "int8", "static_wi8_ai8", "maximum", 0.99),
)


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
    operators: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """One row of ``export --json``."""
        return {
            "path": str(self.path),
            "format": self.format,
            "precision": self.precision,
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
        }


@dataclass(frozen=True)
class Export:
    """What an export made, and whether it passed the gate."""

    files: tuple[Exported, ...]
    max_drop: float
    reason: str | None
    """Why nothing got its name; None when all did."""

    @property
    def passed(self) -> bool:
        """True when every file is within its budget and has its name."""
        return self.reason is None

    def as_json(self) -> dict[str, Any]:
        """The document of ``export --json``, schema 1."""
        gate = {"passed": self.passed, "max_drop_points": self.max_drop, "reason": self.reason}
        return {"schema": 1, "files": [file.as_json() for file in self.files], "gate": gate}


def export(
    net: nn.Module,
    contract: Contract,
    folder: Path,
    *,
    calibration: NDArray[np.uint8],
    held_out: HeldOut,
    formats: Iterable[str] = ("onnx", "tflite"),
    precisions: Iterable[str] = ("fp32", "int8"),
    max_drop: float = 0.15,
    progress: Callable[[str], None] = lambda _: None,
) -> Export:
    """Writes ``<name>.<precision>.<format>`` for each asked recipe, each with its contract inside.

    The files get their names only when all of them open in their engine and pass the gate; until then
    they lie in a folder that is removed.

    Args:
        net: (N, 3, S, S) normalised float → (N, D), in evaluation mode.
        contract: what training knows; precision, recipe, operators, costs and golden vectors are added.
        folder: where the files go; made if absent.
        calibration: (N, S, S, 3) uint8 RGB faces that int8 ranges are taken from.
        held_out: faces, none of them among the calibration faces, and the pairs to judge.
        formats: of ``onnx``, ``tflite``.
        precisions: of ``fp32``, ``int8``.
        max_drop: accuracy that a file may lose against the net, in percentage points.
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
    expected = torch_embeddings(net, contract.input, held_out.faces)
    with _workspace(folder) as workspace:
        done = []
        for recipe in recipes:
            progress(f"writing {contract.name}.{recipe.suffix}")
            path = _build(net, contract, recipe, workspace, calibration)
            done.append(_check(path, recipe, held_out, expected))
        reason = next((reason for file in done if (reason := _refusal(file, max_drop))), None)
        if reason is None:
            for file in done:
                file.path.replace(folder / file.path.name)
    return Export(tuple(replace(file, path=folder / file.path.name) for file in done), max_drop, reason)


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


def _refusal(file: Exported, max_drop: float) -> str | None:
    name = file.path.name
    if not math.isfinite(file.cosine_p1):
        return f"{name}: gives embeddings that are no numbers"
    if file.precision == "fp32" and file.cosine_p1 < SAME:
        return f"{name}: cosine to the net {file.cosine_p1:.6f}, at least {SAME} is needed"
    if file.precision == "int8" and file.operators["int8"] < 0.9 * (file.operators["int8"] + file.operators["float"]):
        return f"{name}: {file.operators['float']} operators stayed float"
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


def _build(net: nn.Module, contract: Contract, recipe: Recipe, workspace: Path, calibration: NDArray[np.uint8]) -> Path:
    """Converts, quantizes where the recipe says so, stamps; a float file of one PReLU form is converted once."""
    writer = WRITERS[recipe.format]
    source = workspace / f"{recipe.prelu}.{recipe.format}"
    if not source.exists():
        writer.write_float(embedder(net, contract.input, recipe.prelu), contract.input.size, source)
    path = workspace / f"{contract.name}.{recipe.suffix}"
    calibrated = None
    if recipe.precision == "int8":
        writer.write_int8(source, calibration, path)
        calibrated = {"faces": len(calibration), "sha256": hashlib.sha256(calibration.tobytes()).hexdigest()}
    else:
        path.write_bytes(source.read_bytes())
    stamped = replace(
        contract,
        precision=recipe.precision,
        recipe=recipe.name,
        calibration=calibrated,
        cost=cost_table(net, contract.input.size, bytes_per_weight=1 if recipe.precision == "int8" else 4),
        operators=writer.count_operators(path),
        versions={package: importlib.metadata.version(package) for package in VERSIONED[recipe.format]},
    )
    _stamp(path, stamped, writer)
    # The golden vectors are what the finished file itself answers.
    answers = load(path).embed(probe_images(contract.input.size))
    rounded = tuple(tuple(round(float(value), 6) for value in row) for row in answers)
    golden = Golden(probes=PROBES, embeddings=rounded, min_cosine=recipe.min_golden)
    _stamp(path, replace(stamped, golden=golden), writer)
    return path


def _stamp(path: Path, contract: Contract, writer: Any) -> None:
    writer.write_contract(path, contract.to_json())
    seal(path)


def _check(path: Path, recipe: Recipe, held_out: HeldOut, expected: NDArray[np.float32]) -> Exported:
    model = load(path)
    found = model.embed(held_out.faces)
    cosines = (found * expected).sum(axis=1)
    return Exported(
        path=path,
        format=recipe.format,
        precision=recipe.precision,
        size_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        cosine_mean=float(cosines.mean()),
        cosine_p1=float(np.percentile(cosines, 1)),
        drop=accuracy_drop(expected, found, held_out.pairs, held_out.same),
        operators=model.contract.operators,
    )
