"""A recognizer: a model file, or one that comes with edgeface by its name, opened and fed as its contract says."""

from __future__ import annotations

import difflib
import functools
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import Color, described, is_bgr, path_of
from edgeface_runtime.contract import Contract, InputSpec, is_intact, read_contract
from edgeface_runtime.engines import Engine, first_line, is_installed, open_engine
from edgeface_runtime.errors import ImageError, ModelError
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.metadata import file_format, tar_members

PROBES = "edgeface-waves-1"
"""Name of the rule by which ``probe_images`` are made."""
_COUNT = 4
_CHUNK = 32
_BATCH = "it takes one face at a time, which its shape does not say: say batch = 1 under [input] in its contract"


@dataclass(frozen=True, eq=False)
class Model:
    """An opened recognizer. ``embed`` may be called from several threads."""

    path: Path
    contract: Contract
    engine: Engine

    def __repr__(self) -> str:
        contract, side = self.contract, self.contract.input.size
        shape = f"{side} × {side} px → {contract.embedding.length} floats"
        return f"<Model {contract.name} {contract.precision}: {shape}, {self.engine.name}, {self.path.name}>"

    def embed(self, faces: NDArray[np.uint8], *, color: Color = "rgb") -> NDArray[np.float32]:
        """Unit embeddings of aligned faces.

        Args:
            faces: (N, size, size, 3) uint8, size as in the contract.
            color: the order of their channels, ``"rgb"`` or ``"bgr"``.

        Returns:
            (N, D) float32, each row of length 1.

        Raises:
            ImageError: another shape or dtype.
            UsageError: no such ``color``.
            ModelError: the graph takes or gives something else than the contract says.
        """
        spec = self.contract.input
        expected = (spec.size, spec.size, 3)
        if not isinstance(faces, np.ndarray):
            raise ImageError(f"faces are {described(faces)}; they must be an array (N, {spec.size}, {spec.size}, 3)")
        if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != expected:
            raise ImageError(
                f"faces are {faces.dtype} {faces.shape}; {self.path.name} takes uint8 (N, {spec.size}, {spec.size}, 3)"
            )
        if is_bgr(color):
            faces = faces[..., ::-1]
        length = self.contract.embedding.length
        fixed = self.engine.input_shape[0] or spec.batch
        if fixed is None and self.contract.recipe.startswith("dynamic"):
            fixed = 1  # onnxruntime takes one range over the whole batch: a face would depend on its company
        rows = np.empty((len(faces), length), np.float32)
        for start in range(0, len(faces), fixed or _CHUNK):
            chunk = faces[start : start + (fixed or _CHUNK)]
            # A graph with a fixed batch gets its last chunk filled up; the surplus rows are dropped.
            missing = (fixed or len(chunk)) - len(chunk)
            batch = np.concatenate([chunk, np.zeros((missing, *expected), np.uint8)]) if missing else chunk
            outputs = self._rows(as_input(batch, spec))
            rows[start : start + len(chunk)] = outputs[: len(chunk)]
        if not np.isfinite(rows).all():
            raise ModelError(f"{self.path}: gave embeddings that are not finite numbers")
        return unit_rows(rows)

    def _rows(self, batch: NDArray[np.uint8 | np.float32]) -> NDArray[np.float32]:
        """(N, D) the graph's embeddings of its own input, as they are."""
        spec = self.contract.embedding
        try:
            outputs = [
                item.reshape(item.shape[:2]) if item.ndim > 2 and set(item.shape[2:]) == {1} else item
                for item in self.engine.run(batch)
            ]
        except Exception as error:  # each engine raises types of its own for a graph that does not fit
            why = first_line(error) if self._fits(batch) else _BATCH
            raise ModelError(f"{self.path}: {self.engine.name} cannot run it: {why}") from error
        expected, name = (len(batch), spec.length), "gave"
        if len(outputs) > 1:
            name = f"output {spec.output} of {len(outputs)} is"
        if spec.output >= len(outputs):
            raise ModelError(f"{self.path}: has {len(outputs)} outputs; its contract takes number {spec.output}")
        rows = outputs[spec.output]
        if rows.shape != expected:
            fits = [place for place, item in enumerate(outputs) if item.shape == expected]
            hint = f"; output {fits[0]} is that: say output = {fits[0]} under [embedding]" if fits else ""
            hint = hint or ("" if self._fits(batch) else f"; {_BATCH}")
            raise ModelError(f"{self.path}: {name} {rows.shape}, its contract says {expected}{hint}")
        if not np.issubdtype(rows.dtype, np.floating):
            raise ModelError(f"{self.path}: gives {rows.dtype} without a scale, which are no numbers to compare")
        return rows

    def _fits(self, batch: NDArray[np.uint8 | np.float32]) -> bool:
        """False where a face alone gets an embedding and the batch does not."""
        try:
            return len(batch) == 1 or self._rows(batch[:1]).size == 0
        except ModelError:  # it is not the batch
            return True

    def golden_cosine(self) -> float | None:
        """The least cosine between the golden embeddings and this machine's; None without golden vectors."""
        golden = self.contract.golden
        if golden is None:
            return None
        if golden.probes != PROBES:
            raise ModelError(f"{self.path}: golden probes {golden.probes!r} are not known here: update edgeface")
        # In float32 equal rows may come to 0.9999995: unit rows are not of length 1 to the last digit.
        expected = np.array(golden.embeddings, np.float64)
        found = self.embed(probe_images(self.contract.input.size)).astype(np.float64)
        if expected.shape != found.shape:
            raise ModelError(f"{self.path}: holds {len(expected)} golden vectors, its probes are {len(found)}")
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        return float(((found * expected).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)).min())


def load(path: str | Path | None = None, *, threads: int = 1, contract: Contract | None = None) -> Model:
    """Opens an exported ONNX, TFLite or ncnn file, or an ensemble of them.

    Args:
        path: the model file, or the name of a shipped model; None for the default one (``edgeface models``).
        threads: how many threads one call may use.
        contract: for a file of other origin that carries none.

    Raises:
        ModelError: there is no such file or name, the file is no model, is damaged, or does not fit its contract.
        UsageError: its engine is not installed.
    """
    path = find_model(path)
    if contract is None:
        contract = read_contract(path)
        if not is_intact(path):
            raise ModelError(f"{path}: changed since it was exported (its digest differs); export or copy it again")
    if contract.members:
        return Model(path, contract, _Ensemble(path, contract, threads))
    engine = open_engine(path, threads=threads)
    size = contract.input.size
    expected = (size, size, 3) if contract.input.layout == "NHWC" else (3, size, size)
    if engine.input_shape[1:] != expected:
        raise ModelError(f"{path}: takes {engine.input_shape}, its contract says (N, {', '.join(map(str, expected))})")
    return Model(path, contract, engine)


class _Ensemble:
    """Several models as an engine: their unit embeddings side by side, each times the root of its weight.

    The cosine of two faces is then the weighted mean of the members' cosines.
    """

    name = "ensemble"

    def __init__(self, path: Path, contract: Contract, threads: int) -> None:
        data, size = path.read_bytes(), contract.input.size
        try:
            held = tar_members(data) if file_format(data) == "ensemble" else {}
        except ValueError as error:
            raise ModelError(f"{path}: not a whole ensemble: {error}") from error
        self._members: list[tuple[float, Model]] = []
        with temporary_folder() as folder:
            for place, member in enumerate(contract.members):
                file, content = Path(folder) / str(place), held.get(member.file)
                if content is None:
                    raise ModelError(f"{path}: its contract lists {member.file}, which it does not hold")
                if hashlib.sha256(content).hexdigest() != member.sha256 or file_format(content) == "ensemble":
                    raise ModelError(f"{path}: {member.file} in it is not the model that its contract lists")
                file.write_bytes(content)
                try:
                    model = load(file, threads=threads)
                except ModelError as error:
                    raise ModelError(str(error).replace(str(file), f"{path}: {member.file}")) from error
                if model.contract.input.size != size:
                    raise ModelError(f"{path}: {member.file} takes faces of {model.contract.input.size} px, not {size}")
                self._members.append((math.sqrt(member.weight), model))
        engines = [f"{model.engine.name} {model.engine.version}" for _, model in self._members]
        self.version = ", ".join(dict.fromkeys(engines))
        self.input_shape: tuple[int | None, ...] = (None, size, size, 3)

    def run(self, *inputs: NDArray[np.generic]) -> list[NDArray[np.float32]]:
        """(N, D) of (N, size, size, 3) uint8 RGB faces."""
        faces = inputs[0].astype(np.uint8, copy=False)
        return [np.concatenate([np.float32(root) * model.embed(faces) for root, model in self._members], axis=1)]


def as_input(faces: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8 | np.float32]:
    """(N, size, size, 3) uint8 RGB as the array that the graph takes: colour order, normalisation, layout."""
    if spec.colour == "BGR":
        faces = faces[..., ::-1]
    values: NDArray[np.uint8 | np.float32] = faces
    if spec.dtype == "float32":
        mean, std = (np.array(each, np.float32) for each in (spec.mean, spec.std))
        values = (faces.astype(np.float32) - mean) / std
    if spec.layout == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values)


def both_ways(
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]], faces: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """(N, D) the direction of the sum of each face's unit embedding and its mirror image's: twice the work."""
    return unit_rows(embed(faces) + embed(np.ascontiguousarray(faces[:, :, ::-1])))


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float32] = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return units


def probe_images(size: int) -> NDArray[np.uint8]:
    """(4, size, size, 3) uint8 RGB probe images of the rule ``edgeface-waves-1``, of golden vectors.

    It takes integer arithmetic alone, so that a page in JavaScript or an app in Kotlin can make them, feed them and
    compare, with no photo of anybody shipped.

    With k the image, y the row, x the column, c the channel, all from 0, and integer division:
    ``u = (x * (k + 2) * 256) / size``, ``v = (y * (k + 1) * 256) / size`` and
    ``pixel = (tri(u + 64 * c) + tri(v + 32 * k)) / 2`` with the triangle wave
    ``tri(t) = 255 - |255 - (t mod 511)|``.
    """
    k, y, x, c = np.ogrid[:_COUNT, :size, :size, :3]
    u = x * (k + 2) * 256 // size + 64 * c
    v = y * (k + 1) * 256 // size + 32 * k
    waves = (_triangle(u) + _triangle(v)) // 2
    return waves.astype(np.uint8)


def _triangle(t: NDArray[np.int64]) -> NDArray[np.int64]:
    wave: NDArray[np.int64] = 255 - np.abs(255 - t % 511)
    return wave


FOLDER = Path(__file__).parent / "models"
DEFAULT = "mobilefacenet"
"""What is taken where no model is named."""
FORMATS = ("tflite", "onnx")
"""In order of preference: int8 is faster in LiteRT (docs/export.md)."""
_OLDER = re.compile(r"(.+)-[0-9]+(?:\.[0-9]+)*")


@dataclass(frozen=True, eq=False)
class Shipped:
    """One model file of the package."""

    file: Path

    @functools.cached_property
    def contract(self) -> Contract:
        """What the file carries; read when it is first asked for."""
        return read_contract(self.file)

    @property
    def name(self) -> str:
        """``mobilefacenet`` of ``mobilefacenet.int8.tflite``."""
        return self.file.name.split(".int8.")[0]

    @property
    def newest(self) -> str | None:
        """``mobilefacenet`` of ``mobilefacenet-0.2``: of an older version, the name of the newest; else None."""
        match = _OLDER.fullmatch(self.name)
        return match[1] if match else None

    @property
    def is_default(self) -> bool:
        """True where this file is opened when no model is named."""
        return self.file == find_model(None)

    def as_json(self) -> dict[str, object]:
        """Stable keys, for ``edgeface models --json``; ``sha256`` is the file's, ``bytes`` an older ``size_bytes``."""
        contract, data = self.contract, self.file.read_bytes()
        return {
            "name": self.name,
            "file": self.file.name,
            "path": str(self.file),
            "default": self.is_default,
            "older_version_of": self.newest,
            "backbone": contract.backbone,
            "format": file_format(data),
            "precision": contract.precision,
            "embedding": contract.embedding.length,
            "size_bytes": len(data),
            "bytes": len(data),
            "macs": sum(cost.macs for cost in contract.cost.values()),
            "accuracy": contract.accuracy,
            "licence": contract.licence,
            "sha256": hashlib.sha256(data).hexdigest(),
        }


def shipped() -> list[Shipped]:
    """The package's model files, the default first and older versions last."""
    return sorted(
        (Shipped(file) for file in FOLDER.glob("*.int8.*") if file.suffix[1:] in FORMATS),
        key=lambda one: (bool(one.newest), one.name != DEFAULT, one.name, FORMATS.index(one.file.suffix[1:])),
    )


def find_model(model: str | Path | None = None) -> Path:
    """The file that is meant.

    Args:
        model: a path; or the name of a shipped model (``mobilefacenet``: its file for the engine that is installed,
            LiteRT first), or of one of its files (``mobilefacenet.int8.onnx``, ``mobilefacenet.onnx``); of an older
            version likewise (``mobilefacenet-0.2``). None for the default, which no older version is.

    Raises:
        ModelError: neither a file nor a name.
        UsageError: ``model`` is no path.
    """
    path = path_of("model", DEFAULT if model is None else model)
    # A file of the user's own goes before a name, a folder does not: runs are often called like their net.
    if path.is_file() or path.parent != Path():
        return path
    files = {file.name: file for file in FOLDER.glob("*.int8.*")}
    wanted = [f"{path.name}.int8.{kind}" for kind in FORMATS]
    for name in (path.name, f"{path.stem}.int8{path.suffix}"):
        if name in files:
            return files[name]
    there = [files[name] for name in wanted if name in files]
    if there:
        return next((file for file in there if is_installed(file)), there[0])
    if path.exists():  # a folder: a training run
        return path
    names = list(dict.fromkeys(one.name for one in shipped()))
    near = difflib.get_close_matches(path.name, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"shipped models: {', '.join(names)} (edgeface models)"
    raise ModelError(f"{path}: no such file, run folder or shipped model; {hint}")


def tried_model(model: str | Path | None = None) -> Path:
    """As ``find_model``; a file that is none of edgeface's own is run in a process of its own first, once.

    The command line opens models by it: a file on which an engine crashes costs a line, not the process.

    Raises:
        ModelError: neither a file nor a name; or a signal ended that process.
        UsageError: ``model`` is no path.
    """
    path = find_model(model)
    if path.is_file() and path.suffix != ".safetensors" and not is_shipped(path):
        from edgeface_runtime.trial import try_model

        try_model(path)
    return path


def is_shipped(path: Path) -> bool:
    """True for the package's files and for copies of them."""
    if path.parent == FOLDER:
        return True
    alike = [file for file in FOLDER.glob("*.int8.*") if file.stat().st_size == path.stat().st_size]
    return bool(alike) and path.read_bytes() in [file.read_bytes() for file in alike]
