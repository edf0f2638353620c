"""ncnn files from edgeface's fp32 ONNX files: converted by pnnx, compared with their parent, stamped."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface_export.gate import Drop, HeldOut, accuracy_drop, wilson
from edgeface_export.one_file import Strangers
from edgeface_runtime import Contract, MissingExtraError, ModelError, UsageError, load
from edgeface_runtime.contract import Golden, read_contract, seal
from edgeface_runtime.golden import PROBES, probe_images
from edgeface_runtime.metadata import KEY, file_format


@dataclass(frozen=True, kw_only=True)
class NcnnRecipe:
    """How a precision is reached; ``min_cosine`` is asked of 99 % of the held-out faces."""

    name: str
    flag: str
    min_cosine: float
    min_golden: float


RECIPES = {
    "fp32": NcnnRecipe(name="float", flag="fp16=0", min_cosine=0.9999, min_golden=0.999),
    "fp16": NcnnRecipe(name="float_wf16_af16", flag="fp16=1", min_cosine=0.999, min_golden=0.99),
}
_CASTS = "Tensor.to"
"""What pnnx writes for a cast that ncnn does not know; the runtime feeds floats, so that it has nothing to do."""
_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class NcnnFile:
    """One written file and how far it is from the fp32 ONNX file that it was made from."""

    path: Path
    contract: Contract
    cosine_mean: float
    """To the parent, over the held-out faces."""
    cosine_p1: float
    """The cosine that 1 % of the faces fall below."""
    drop: Drop

    def as_json(self) -> dict[str, Any]:
        """One row of ``export --json``."""
        return {
            "path": str(self.path),
            "format": "ncnn",
            "precision": self.contract.precision,
            "recipe": self.contract.recipe,
            "size_bytes": self.path.stat().st_size if self.path.exists() else None,
            "cosine_mean": self.cosine_mean,
            "cosine_p1": self.cosine_p1,
            "drop_points": self.drop.points,
            "drop_interval": [self.drop.low, self.drop.high],
            "pairs": self.drop.pairs,
            "operators": self.contract.operators,
            "accuracy": self.contract.accuracy,
            "thresholds": self.contract.thresholds,
        }


@dataclass(frozen=True)
class NcnnExport:
    """What was made, and whether it passed the gate."""

    files: tuple[NcnnFile, ...]
    max_drop: float
    reason: str | None
    """Why nothing got its name; None when all did."""

    def as_json(self) -> dict[str, Any]:
        """The document of ``export --json``, schema 1."""
        gate = {"passed": self.reason is None, "max_drop_points": self.max_drop, "reason": self.reason}
        return {"schema": 1, "files": [file.as_json() for file in self.files], "gate": gate}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(columns, rows) for a terminal."""
        columns = ["file", "cosine", "worst 1 %", "drop, points"]
        rows = [
            (file, f"{file.drop.points:+.3f} ({file.drop.low:+.3f} to {file.drop.high:+.3f})") for file in self.files
        ]
        return columns, [[f.path.name, f"{f.cosine_mean:.5f}", f"{f.cosine_p1:.5f}", drop] for f, drop in rows]


def export_ncnn(
    source: Path,
    folder: Path,
    *,
    held_out: HeldOut,
    strangers: Strangers | None = None,
    precisions: Sequence[str] = ("fp16",),
    max_drop: float = 0.15,
    progress: Callable[[str], None] = lambda _: None,
) -> NcnnExport:
    """Writes ``<name>.<precision>.ncnn`` of an fp32 ONNX file; all pass the gate, or none gets its name.

    Args:
        source: fp32 ONNX with its contract: the parent.
        folder: where the files go; made if absent.
        held_out: faces and pairs that judge.
        strangers: whom thresholds are measured on; None leaves them out.
        precisions: of ``RECIPES``.
        max_drop: accuracy that a file may lose against its parent, in percentage points.
        progress: told what is being made.

    Raises:
        UsageError: no such precision, another kind of source, no pnnx, or a folder that cannot be written to.
        ModelError: pnnx or ncnn does not take the graph.
    """
    contract = read_contract(source)
    if file_format(source.read_bytes()) != "onnx" or contract.precision != "fp32":
        raise UsageError(f"{source}: ncnn files are made of fp32 ONNX files")
    if not precisions or not set(precisions) <= set(RECIPES):
        raise UsageError(f"precision {', '.join(precisions)}: ncnn has {', '.join(RECIPES)}")
    expected = load(source).embed(held_out.faces)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".export-") as workspace:
            done = []
            for precision in dict.fromkeys(precisions):
                path = Path(workspace) / f"{contract.name}.{precision}.ncnn"
                progress(f"writing {path.name}")
                _convert(source, contract, RECIPES[precision], path)
                done.append(_check(path, contract, precision, held_out, expected, strangers))
            reason = next((text for file in done if (text := _refusal(file, max_drop))), None)
            for file in done if reason is None else ():
                file.path.replace(folder / file.path.name)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written to ({error.strerror or error})") from error
    files = tuple(replace(file, path=folder / file.path.name) for file in done)
    return NcnnExport(files, max_drop, reason)


def _convert(source: Path, contract: Contract, recipe: NcnnRecipe, path: Path) -> None:
    """pnnx's two files of the graph and a place for the contract, in one tar archive."""
    size, planar = contract.input.size, contract.input.layout == "NCHW"
    sides = f"1,3,{size},{size}" if planar else f"1,{size},{size},3"
    kind = "u8" if contract.input.dtype == "uint8" else "f32"
    with TemporaryDirectory() as workspace:
        # It writes its results beside its input.
        graph = Path(workspace) / "net.onnx"
        graph.write_bytes(source.read_bytes())
        command = [str(_pnnx()), str(graph), recipe.flag, f"inputshape=[{sides}]{kind}"]
        try:
            ran = subprocess.run(command, cwd=workspace, capture_output=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{source}: pnnx took more than {_SECONDS} s") from error
        written = [graph.with_name(f"net.ncnn.{kind}") for kind in ("param", "bin")]
        if ran.returncode or not all(file.exists() for file in written):
            lines = (ran.stderr or ran.stdout).decode(errors="replace").strip().splitlines()
            raise ModelError(f"{source}: pnnx cannot convert it ({lines[-1] if lines else f'exit {ran.returncode}'})")
        param, weights = (file.read_bytes() for file in written)
    lines = param.decode().splitlines()
    kept = [f"Noop{line.removeprefix(_CASTS)}" if line.startswith(_CASTS) else line for line in lines]
    unknown = {line.split()[0] for line in kept[2:] if "." in line.split()[0]}
    if unknown:
        raise ModelError(f"{source}: ncnn has no {', '.join(sorted(unknown))}")
    _pack(path, {"model.param": "\n".join([*kept, ""]).encode(), "model.bin": weights})


def _pnnx() -> Path:
    # Its Python package imports torch; the program beside it needs nothing.
    found = importlib.util.find_spec("pnnx")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("pnnx", "ncnn-export")
    return Path(found.submodule_search_locations[0]) / "pnnx"


def _pack(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)  # of 1970 and nobody: equal files make equal archives
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def _stamp(path: Path, contract: Contract) -> None:
    with tarfile.open(path) as archive:
        members = {about.name: archive.extractfile(about).read() for about in archive}  # type: ignore[union-attr]
    _pack(path, members | {f"{KEY}.json": contract.to_json().encode()})
    seal(path)


def _check(
    path: Path,
    parent: Contract,
    precision: str,
    held_out: HeldOut,
    expected: NDArray[np.float32],
    strangers: Strangers | None,
) -> NcnnFile:
    """Stamps a file, measures the stamped file itself, and stamps what was found into it."""
    recipe = RECIPES[precision]
    width = 2 if precision == "fp16" else 4
    cost = {name: replace(item, bytes=item.bytes * width // 4) for name, item in parent.cost.items()}
    operators = {"int8": 0, "float": sum(parent.operators.values()), "other": 0}
    versions = {package: importlib.metadata.version(package) for package in ("pnnx", "ncnn")}
    stamped = replace(
        parent, precision=precision, recipe=recipe.name, golden=None, thresholds={}, operators=operators, cost=cost,
        versions=versions, accuracy={key: value for key, value in parent.accuracy.items() if key == "training"},
    )  # fmt: skip
    _stamp(path, stamped)
    model = load(path)
    found = model.embed(held_out.faces)
    cosines = (found * expected).sum(axis=1)
    mean, worst = float(cosines.mean()), float(np.percentile(cosines, 1))
    drop = accuracy_drop(expected, found, held_out.pairs, held_out.same)
    low, high = wilson(drop.accuracy, drop.pairs)
    figures = {"value": drop.accuracy, "low": low, "high": high, "cosine_mean": mean, "cosine_p1": worst}
    figures |= {"drop_points": drop.points, "drop_low": drop.low, "drop_high": drop.high}
    accuracy = stamped.accuracy | {"verification": {"pairs": drop.pairs} | {k: round(v, 5) for k, v in figures.items()}}
    thresholds: dict[str, Any] = {}
    if strangers is not None:
        thresholds, accuracy["thresholds"] = strangers.thresholds(model.embed(strangers.faces))
    answers = model.embed(probe_images(parent.input.size))
    rounded = tuple(tuple(round(float(value), 6) for value in row) for row in answers)
    golden = Golden(probes=PROBES, embeddings=rounded, min_cosine=recipe.min_golden)
    _stamp(path, replace(stamped, golden=golden, accuracy=accuracy, thresholds=thresholds))
    return NcnnFile(path=path, contract=read_contract(path), cosine_mean=mean, cosine_p1=worst, drop=drop)


def _refusal(file: NcnnFile, max_drop: float) -> str | None:
    least = RECIPES[file.contract.precision].min_cosine
    if not file.cosine_p1 >= least:
        return f"{file.path.name}: cosine to its parent {file.cosine_p1:.6f}, at least {least} is needed"
    if file.drop.points > max_drop:
        lost = f"loses {file.drop.points:.3f} points on {file.drop.pairs} pairs"
        return f"{file.path.name}: {lost}, at most {max_drop} are allowed"
    return None
