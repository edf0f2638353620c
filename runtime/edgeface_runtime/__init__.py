"""What a device runs: a photo in, a name out. Needs numpy, Pillow and one engine, nothing else."""

import importlib
import typing

from edgeface_runtime.contract import Contract, EmbeddingSpec, InputSpec, read_contract
from edgeface_runtime.errors import (
    ContractError,
    EdgefaceError,
    EnrolmentError,
    GalleryError,
    ImageError,
    MissingExtraError,
    ModelError,
    UsageError,
)
from edgeface_runtime.faces import Detector, Face
from edgeface_runtime.model import Model, load

if typing.TYPE_CHECKING:
    from edgeface_runtime.gallery import Candidate, Gallery, Photo
    from edgeface_runtime.recognizer import FaceRecognizer, Identity, Match

__all__ = [
    "Candidate",
    "Contract",
    "ContractError",
    "Detector",
    "EdgefaceError",
    "EmbeddingSpec",
    "EnrolmentError",
    "Face",
    "FaceRecognizer",
    "Gallery",
    "GalleryError",
    "Identity",
    "ImageError",
    "InputSpec",
    "Match",
    "MissingExtraError",
    "Model",
    "ModelError",
    "Photo",
    "UsageError",
    "load",
    "read_contract",
]

# Pillow and sqlite3 are read only when they are needed: a model alone opens without them.
_LATER = {
    "Candidate": "gallery",
    "Gallery": "gallery",
    "Photo": "gallery",
    "FaceRecognizer": "recognizer",
    "Identity": "recognizer",
    "Match": "recognizer",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    return value
