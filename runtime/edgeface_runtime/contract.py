"""The contract that travels inside each exported model file (docs/contract.md).

Whoever opens the file needs nothing else: what to feed it, what comes out, how it was made, how
accurate it is, and how to prove that it still computes what it computed when it was made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeface_runtime import checks, metadata
from edgeface_runtime.checks import path_of
from edgeface_runtime.errors import ContractError

SCHEMA = 1
_UNSEALED = "0" * 64
_SEAL = re.compile(rb'"file_sha256":"([0-9a-f]{64})"')


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What one image of the batch looks like to the graph."""

    size: int = 112
    """Height and width in pixels."""
    layout: str = "NHWC"
    """``NHWC`` or ``NCHW``."""
    dtype: str = "uint8"
    """``uint8``: pixels as they are. ``float32``: pixels normalised by the caller."""
    colour: str = "RGB"
    """``RGB`` or ``BGR``."""
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """Per channel, in pixel units (0 to 255): normalised = (pixel - mean) / std."""
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """Per channel, in pixel units."""
    batch: int | None = None
    """Faces that the graph takes at once where its shape does not say so; None where it does."""

    @property
    def color(self) -> str:
        """``colour``, as most programs spell it."""
        return self.colour

    def __post_init__(self) -> None:
        _require(self.layout in ("NHWC", "NCHW"), f"input.layout is {self.layout!r}, not NHWC or NCHW")
        _require(self.dtype in ("uint8", "float32"), f"input.dtype is {self.dtype!r}, not uint8 or float32")
        _require(self.colour in ("RGB", "BGR"), f"input.colour is {self.colour!r}, not RGB or BGR")
        _require(0 < self.size <= 4096, f"input.size is {self.size}, not 1 to 4096 pixels")
        _require(self.batch is None or 0 < self.batch <= 4096, f"input.batch is {self.batch}, not 1 to 4096")
        _require(all(value > 0 for value in self.std), "input.std holds a value that is not positive")


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """What comes out for one face."""

    length: int
    """Number of floats."""
    normalised: bool = False
    """True when the graph itself gives unit vectors. The runtime normalises in either case."""
    output: int = 0
    """Which of the graph's outputs it is, from 0."""

    def __post_init__(self) -> None:
        _require(0 < self.length <= 65_536, f"embedding.length is {reprlib.repr(self.length)}, not 1 to 65536")
        _require(self.output >= 0, f"embedding.output is {self.output}")

    @property
    def normalized(self) -> bool:
        """``normalised``, as most programs spell it."""
        return self.normalised


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What this very file answered to fixed probe images when it was made (``model.probe_images``)."""

    probes: str
    """Name of the rule that makes the probe images, computable in any language."""
    embeddings: tuple[tuple[float, ...], ...]
    """Unit embeddings of the probes, in order."""
    min_cosine: float
    """The least cosine that another processor's arithmetic may give."""


@dataclass(frozen=True, kw_only=True)
class HardFaces:
    """What tells faces that are hard to recognize (covered, painted, turned away) by their unit embeddings.

    Each is D weights and a bias. A face is hard to recognize where both functions are below 0.
    """

    agreement: tuple[float, ...]
    """The score expected with the person's other photos, less the least that is expected of 97 % of photos."""
    no_face: tuple[float, ...]
    """The logit that the crop shows no face, less the least of 99.5 % of crops beside a face."""
    photos: int
    """Fitted on so many, and as many again with the face covered,"""
    people: int
    """of so many people."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of an ensemble, a file of the archive."""

    file: str
    """Its name there."""
    name: str
    """As its own contract calls it."""
    weight: float
    """Its share of a score, above 0; all of an ensemble are 1 together."""
    sha256: str
    """Of the file."""


@dataclass(frozen=True, kw_only=True)
class OperatorCost:
    """Multiply-accumulates and bytes touched (weights and output activations) of one operator class."""

    count: int
    macs: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One model file's contract, schema 1. Units and meaning of each key: docs/contract.md."""

    schema: int = SCHEMA
    name: str
    """What a person calls the model."""
    backbone: str
    precision: str = "fp32"
    """``fp32``, ``fp16``, ``int8`` …"""
    recipe: str = "float"
    """How the precision was reached; the name decodes: ``static_wi8_ai8`` is static, int8 weights, int8 activations."""
    input: InputSpec = field(default_factory=InputSpec)
    embedding: EmbeddingSpec
    parent_sha256: str | None = None
    """Of the checkpoint that the file was made from."""
    data_sha256: str | None = None
    """Of the card of the training data."""
    photos_sha256: str | None = None
    """Of the pixels of the training data's photos, however they are named and split."""
    train_sha256: str | None = None
    """Of the pixels of those of them that trained."""
    calibration: dict[str, Any] | None = None
    """Size, seed and digest of the calibration faces of a quantized file."""
    accuracy: dict[str, Any] = field(default_factory=dict)
    """Measured on held-out photos; each figure with its photo or pair count."""
    thresholds: dict[str, Any] = field(default_factory=dict)
    """False-accept rate (as text, ``"0.001"``) → score threshold with interval, or null."""
    hard_faces: HardFaces | None = None
    """For ``gallery check``; None where it was not fitted."""
    members: tuple[Member, ...] = ()
    """Of an ensemble; empty in a file of one model."""
    golden: Golden | None = None
    operators: dict[str, int] = field(default_factory=dict)
    """``int8``, ``float``, ``other`` → number of operators in the graph."""
    cost: dict[str, OperatorCost] = field(default_factory=dict)
    licence: str = "unknown"
    """What the training photos allow."""
    versions: dict[str, str] = field(default_factory=dict)
    """Packages that made the file."""
    file_sha256: str = _UNSEALED
    """Of the file itself with these 64 digits read as zeros."""

    def __post_init__(self) -> None:
        _require_known(self.schema)
        rows = self.golden.embeddings if self.golden else ()
        _require(
            all(len(row) == self.embedding.length for row in rows),
            f"golden.embeddings holds a row that is not of {self.embedding.length} floats",
        )
        weights = [member.weight for member in self.members]
        _require(
            not weights or (min(weights) > 0 and abs(sum(weights) - 1) < 1e-6),
            f"members have weights {', '.join(f'{weight:g}' for weight in weights)}: not above 0, or not 1 together",
        )
        lines = (self.hard_faces.agreement, self.hard_faces.no_face) if self.hard_faces else ()
        _require(
            all(len(line) == self.embedding.length + 1 for line in lines),
            f"hard_faces holds a row that is not of {self.embedding.length} weights and a bias",
        )

    def __repr__(self) -> str:
        sizes = f"{self.input.size} × {self.input.size} px → {self.embedding.length} floats"
        return f"<Contract {self.name} {self.precision} ({self.recipe}): {sizes}>"

    @property
    def license(self) -> str:
        """``licence``, as most programs spell it."""
        return self.licence

    def to_json(self) -> str:
        """One line of JSON with sorted keys, so that equal contracts are equal bytes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Reads what ``to_json`` wrote; keys that this version does not know are passed over.

        Raises:
            ContractError: not JSON, a required key absent, or a value of the wrong type.
        """
        if len(text) > checks.MOST:
            raise ContractError(f"the contract is larger than {checks.MOST / 1e6:g} MB, which none is")
        try:
            return cls.from_document(checks.parse_json(text))
        except ValueError as error:
            raise ContractError(f"the contract is not JSON: {error}") from error

    @classmethod
    def from_document(cls, document: object) -> Contract:
        """As ``from_json``, of a parsed document.

        Raises:
            ContractError: a required key is absent, or a value is of the wrong type.
        """
        if not isinstance(document, dict):
            raise ContractError("the contract is not an object")
        _require_known(document.get("schema", SCHEMA))
        return checks.build(cls, document, "contract", fails=ContractError)


def read_contract(path: str | Path) -> Contract:
    """The contract inside an ONNX or TFLite file, read without any engine.

    Raises:
        ModelError: no model file, or cut short.
        ContractError: no contract in it, or not one that this version understands.
    """
    path = path_of("the model file", path)
    text = metadata.read_text(path)
    try:
        return Contract.from_json(text)
    except ContractError as error:
        raise ContractError(f"{path}: {error}") from error


def seal(path: Path) -> str:
    """Writes the file's digest into its own contract and returns it.

    The digest is SHA-256 over the whole file with the 64 hexadecimal digits of ``file_sha256`` read
    as zeros, so one changed byte anywhere shows.
    """
    data = path.read_bytes()
    digest, span = _digest(data)
    if span is None:
        raise ContractError(f"{path}: carries no contract to seal")
    path.write_bytes(data[: span[0]] + digest.encode() + data[span[1] :])
    return digest


def is_intact(path: Path) -> bool:
    """True when the file's digest equals the one that its contract states."""
    data = path.read_bytes()
    digest, span = _digest(data)
    return span is not None and data[span[0] : span[1]] == digest.encode()


def _digest(data: bytes) -> tuple[str, tuple[int, int] | None]:
    matches = list(_SEAL.finditer(data))
    if not matches:
        return hashlib.sha256(data).hexdigest(), None
    start, end = matches[-1].span(1)
    return hashlib.sha256(data[:start] + _UNSEALED.encode() + data[end:]).hexdigest(), (start, end)


def _require_known(schema: object) -> None:
    # Asked before anything else is read: a newer schema may have other keys.
    newer = isinstance(schema, int) and schema > SCHEMA
    _require(not newer, f"has schema {schema}, newer than this edgeface knows ({SCHEMA}): update edgeface")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)
