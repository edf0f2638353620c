"""What a device runs: a photo in, a name out. Needs numpy, Pillow and one engine, nothing else."""

from edgeface_runtime.contract import Contract, EmbeddingSpec, InputSpec, read_contract
from edgeface_runtime.errors import (
    ContractError,
    EdgefaceError,
    ImageError,
    MissingExtraError,
    ModelError,
    UsageError,
)
from edgeface_runtime.faces import Detector, Face
from edgeface_runtime.model import Model, load

__all__ = [
    "Contract",
    "ContractError",
    "Detector",
    "EdgefaceError",
    "EmbeddingSpec",
    "Face",
    "ImageError",
    "InputSpec",
    "MissingExtraError",
    "Model",
    "ModelError",
    "UsageError",
    "load",
    "read_contract",
]
