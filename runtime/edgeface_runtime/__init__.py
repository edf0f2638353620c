"""What a device runs: a photo in, a name out. Needs numpy, Pillow and one engine, nothing else."""

import importlib
import typing

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

if typing.TYPE_CHECKING:
    from edgeface_runtime.contract import Contract, EmbeddingSpec, InputSpec, read_contract
    from edgeface_runtime.enrolment import Enrollment, Photo, Refusal
    from edgeface_runtime.faces import Detector, Face
    from edgeface_runtime.gallery import Gallery
    from edgeface_runtime.model import Model, load
    from edgeface_runtime.recognizer import FaceRecognizer, Identity, Match
    from edgeface_runtime.search import Candidate
    from edgeface_runtime.sources import Frame, Source, in_turn, open_source
    from edgeface_runtime.streams import Event, Moment, Pace, Person, watch

__all__ = [
    "Candidate",
    "Contract",
    "ContractError",
    "Detector",
    "EdgefaceError",
    "EmbeddingSpec",
    "Enrollment",
    "EnrolmentError",
    "Event",
    "Face",
    "FaceRecognizer",
    "Frame",
    "Gallery",
    "GalleryError",
    "Identity",
    "ImageError",
    "InputSpec",
    "Match",
    "MissingExtraError",
    "Model",
    "ModelError",
    "Moment",
    "Pace",
    "Person",
    "Photo",
    "Refusal",
    "Source",
    "UsageError",
    "in_turn",
    "load",
    "open_source",
    "read_contract",
    "watch",
]

# Read only when they are asked for: numpy takes most of the time, and a model alone opens without Pillow and sqlite3.
_LATER = {
    "Contract": "contract",
    "EmbeddingSpec": "contract",
    "InputSpec": "contract",
    "read_contract": "contract",
    "Detector": "faces",
    "Face": "faces",
    "Model": "model",
    "load": "model",
    "Candidate": "search",
    "Gallery": "gallery",
    "Enrollment": "enrolment",
    "Photo": "enrolment",
    "Refusal": "enrolment",
    "FaceRecognizer": "recognizer",
    "Identity": "recognizer",
    "Match": "recognizer",
    "Frame": "sources",
    "Source": "sources",
    "in_turn": "sources",
    "open_source": "sources",
    "Event": "streams",
    "Moment": "streams",
    "Pace": "streams",
    "Person": "streams",
    "watch": "streams",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    return value
