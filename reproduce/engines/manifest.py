"""Reads engines.toml: which engines, which versions, what they need."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

MANIFEST = Path(__file__).parent / "engines.toml"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One version of one engine."""

    name: str
    version: str
    reads: tuple[str, ...]
    """``onnx``, ``tflite``, ``ncnn``."""
    probe: str
    pip: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    mind: str = ""
    """What a user should know of it."""
    is_reference: bool = False
    """Others' answers for its formats are held against this one's, bit by bit."""

    @property
    def slug(self) -> str:
        """A folder's name: ``onnxruntime-1.32.0``."""
        kept = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in self.name.lower())
        return f"{'-'.join(filter(None, kept.split('-')))}-{self.version}"

    @property
    def environment(self) -> str:
        """Name of the folder with its packages; engines with the same packages share it."""
        wanted = json.dumps([self.pip, self.npm]).encode()
        first = (self.pip or self.npm)[0].replace("/", "-").strip("@")
        return f"{first}-{hashlib.sha256(wanted).hexdigest()[:8]}"


def load_manifest(path: Path = MANIFEST) -> list[Engine]:
    """Every version of every engine, in the file's order.

    Raises:
        ValueError: a key that is not known, a package without its pin, or a format with two references.
    """
    engines = []
    for row in tomllib.loads(path.read_text("utf-8"))["engine"]:
        versions, reference = row.pop("versions"), row.pop("reference", None)
        if unknown := row.keys() - {"name", "reads", "probe", "pip", "npm", "mind"}:
            raise ValueError(f"{path}: {row['name']} has unknown keys: {', '.join(sorted(unknown))}")
        if reference not in (None, *versions):
            raise ValueError(f"{path}: {row['name']} {reference} is a reference and no version")
        for version in versions:
            packages = {
                kind: tuple(item.format(version=version) for item in row.get(kind, ())) for kind in ("pip", "npm")
            }
            for package in (*packages["pip"], *packages["npm"]):
                if "==" not in package and "@" not in package[1:]:
                    raise ValueError(f"{path}: {package} of {row['name']} has no version")
            engines.append(
                Engine(
                    **{**row, **packages, "reads": tuple(row["reads"])},
                    version=version,
                    is_reference=version == reference,
                )
            )
    referred = [kind for engine in engines if engine.is_reference for kind in engine.reads]
    if len(set(referred)) != len(referred):
        raise ValueError(f"{path}: a format has two references")
    return engines
