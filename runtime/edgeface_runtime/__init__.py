"""What a device runs: a photo in, a name out. Needs numpy, Pillow and one engine, nothing else."""

import importlib
import os
import typing

from edgeface_runtime.errors import (
    ContractError,
    EdgefaceError,
    EdgefaceWarning,
    EnrollmentError,
    GalleryError,
    ImageError,
    MissingExtraError,
    ModelError,
    NoFaceError,
    UsageError,
)
from edgeface_runtime.errors import renamed as _renamed

if typing.TYPE_CHECKING:
    from edgeface_runtime.checks import Color
    from edgeface_runtime.contract import (
        Contract,
        EmbeddingSpec,
        Golden,
        HardFaces,
        InputSpec,
        Member,
        OperatorCost,
        read_contract,
    )
    from edgeface_runtime.detection.find import load_detector
    from edgeface_runtime.engines import Engine
    from edgeface_runtime.faces import Detector, Face
    from edgeface_runtime.gallery.check import (
        GalleryCheck,
        Look,
        UnknownCheck,
        UnknownPhoto,
        check_gallery,
        check_unknown,
        look_again,
    )
    from edgeface_runtime.gallery.database import Binding
    from edgeface_runtime.gallery.enrollment import Enrollment, Photo, Refusal
    from edgeface_runtime.gallery.findings import GalleryFinding, PersonCheck
    from edgeface_runtime.gallery.gallery import Gallery
    from edgeface_runtime.gallery.search import Candidate, Precision
    from edgeface_runtime.gallery.transfer import Merge, import_gallery
    from edgeface_runtime.images import DecodedPhoto, ImageLike, open_photo, open_rgb
    from edgeface_runtime.model import Model, load
    from edgeface_runtime.protocols import FaceEncoder, Searchable
    from edgeface_runtime.rates import Rate, rate_over_people
    from edgeface_runtime.recognizer import Box, FaceRecognizer, Identity, Match
    from edgeface_runtime.streams.frames import Frame, in_turn
    from edgeface_runtime.streams.people import Event, FrameResult, Person, TrackingConfig
    from edgeface_runtime.streams.sources import Source, open_source
    from edgeface_runtime.streams.watch import watch
    from edgeface_runtime.thresholds import Threshold

__version__ = "0.2.0"

__all__ = [
    "Binding",
    "Box",
    "Candidate",
    "Color",
    "Contract",
    "ContractError",
    "DecodedPhoto",
    "Detector",
    "EdgefaceError",
    "EdgefaceWarning",
    "EmbeddingSpec",
    "Engine",
    "Enrollment",
    "EnrollmentError",
    "Event",
    "Face",
    "FaceEncoder",
    "FaceRecognizer",
    "Frame",
    "FrameResult",
    "Gallery",
    "GalleryCheck",
    "GalleryError",
    "GalleryFinding",
    "Golden",
    "HardFaces",
    "Identity",
    "ImageError",
    "ImageLike",
    "InputSpec",
    "Look",
    "Match",
    "Member",
    "Merge",
    "MissingExtraError",
    "Model",
    "ModelError",
    "NoFaceError",
    "OperatorCost",
    "Person",
    "PersonCheck",
    "Photo",
    "Precision",
    "Rate",
    "Refusal",
    "Searchable",
    "Source",
    "Threshold",
    "TrackingConfig",
    "UnknownCheck",
    "UnknownPhoto",
    "UsageError",
    "check_gallery",
    "check_unknown",
    "import_gallery",
    "in_turn",
    "load",
    "load_detector",
    "look_again",
    "open_photo",
    "open_rgb",
    "open_source",
    "rate_over_people",
    "read_contract",
    "watch",
]

# onnxruntime reads it once, when it is imported; without it some versions write files and call the network.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Read only when they are asked for: numpy takes most of the time, and a model alone opens without Pillow and sqlite3.
_LATER = {
    "Color": "checks",
    "Contract": "contract",
    "EmbeddingSpec": "contract",
    "Golden": "contract",
    "HardFaces": "contract",
    "InputSpec": "contract",
    "Member": "contract",
    "OperatorCost": "contract",
    "read_contract": "contract",
    "load_detector": "detection.find",
    "Engine": "engines",
    "Detector": "faces",
    "Face": "faces",
    "Gallery": "gallery.gallery",
    "GalleryCheck": "gallery.check",
    "Look": "gallery.check",
    "UnknownCheck": "gallery.check",
    "UnknownPhoto": "gallery.check",
    "check_gallery": "gallery.check",
    "check_unknown": "gallery.check",
    "look_again": "gallery.check",
    "GalleryFinding": "gallery.findings",
    "PersonCheck": "gallery.findings",
    "Rate": "rates",
    "rate_over_people": "rates",
    "Enrollment": "gallery.enrollment",
    "Photo": "gallery.enrollment",
    "Refusal": "gallery.enrollment",
    "Binding": "gallery.database",
    "Merge": "gallery.transfer",
    "import_gallery": "gallery.transfer",
    "DecodedPhoto": "images",
    "ImageLike": "images",
    "open_photo": "images",
    "open_rgb": "images",
    "Model": "model",
    "load": "model",
    "FaceEncoder": "protocols",
    "Searchable": "protocols",
    "Box": "recognizer",
    "FaceRecognizer": "recognizer",
    "Identity": "recognizer",
    "Match": "recognizer",
    "Candidate": "gallery.search",
    "Precision": "gallery.search",
    "Frame": "streams.frames",
    "Source": "streams.sources",
    "in_turn": "streams.frames",
    "open_source": "streams.sources",
    "Event": "streams.people",
    "FrameResult": "streams.people",
    "TrackingConfig": "streams.people",
    "Person": "streams.people",
    "watch": "streams.watch",
    "Threshold": "thresholds",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        return _renamed(__name__, name)
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
