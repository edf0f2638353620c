"""The models that come with edgeface, under names that every command and ``load`` take where they take a file."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgeface_runtime.checks import path_of
from edgeface_runtime.contract import Contract, read_contract
from edgeface_runtime.engines import is_installed
from edgeface_runtime.errors import ModelError
from edgeface_runtime.metadata import file_format

FOLDER = Path(__file__).parent / "models"
DEFAULT = "mobilefacenet"
"""What is taken where no model is named."""
FORMATS = ("tflite", "onnx")
"""In order of preference: int8 is faster in LiteRT (docs/export.md)."""


@dataclass(frozen=True, eq=False)
class Shipped:
    """One model file of the package."""

    file: Path
    contract: Contract

    @property
    def name(self) -> str:
        """``mobilefacenet`` of ``mobilefacenet.int8.tflite``."""
        return self.file.name.split(".")[0]

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
    """The package's model files, the default first."""
    files = sorted(
        (file for file in FOLDER.glob("*.int8.*") if file.suffix[1:] in FORMATS),
        key=lambda file: (file.name.split(".")[0] != DEFAULT, file.name.split(".")[0], FORMATS.index(file.suffix[1:])),
    )
    return [Shipped(file, read_contract(file)) for file in files]


def find_model(model: str | Path | None = None) -> Path:
    """The file that is meant.

    Args:
        model: a path; or the name of a shipped model (``mobilefacenet``: its file for the engine that is installed,
            LiteRT first), or of one of its files (``mobilefacenet.int8.onnx``, ``mobilefacenet.onnx``);
            None for the default.

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
    names = sorted({name.split(".")[0] for name in files})
    near = difflib.get_close_matches(path.name, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"shipped models: {', '.join(names)} (edgeface models)"
    raise ModelError(f"{path}: no such file, run folder or shipped model; {hint}")
