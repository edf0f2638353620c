"""One photo in, its aligned faces out: what each worker of ``data prepare`` does."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgeface.data.duplicates import fingerprint
from edgeface.data.readers import Skipped, SourcePhoto
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import detector_name, find_faces, load_detector, most_central
from edgeface_runtime.errors import ImageError, UsageError
from edgeface_runtime.faces import Detector, Face
from edgeface_runtime.images import Pixels, open_photo, shown
from edgeface_runtime.quality import face_crop, face_size, pose, sharpness

MIN_SIDE = 16
"""Photos with a shorter side, in pixels, hold no face worth keeping."""


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """What decides the crops of a photo."""

    detector: str = "yunet"
    size: int = 112
    """Side of the crops in pixels."""
    faces: str = "largest"
    """``largest``: the largest central face of a photo; ``all``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detector", str(detector_name(self.detector)))
        if self.faces not in ("largest", "all"):
            raise UsageError(f"--faces {self.faces}: choose largest or all")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One aligned face, ready to be written. Numbers are rounded, so that a journal repeats them exactly."""

    path: str
    """Where the crop goes, relative to the prepared folder."""
    identity: str
    source: str
    box: tuple[float, ...]
    landmarks: tuple[float, ...]
    score: float
    sharpness: float
    size: float
    yaw: float
    pitch: float
    roll: float
    margin: float
    """The border with which the face was found."""
    sha256: str
    """Of the crop's file."""
    hash: int
    details: bytes
    png: bytes


@dataclass(frozen=True)
class Task:
    """Some photos of a source, each with the stem of its crops' paths; the unit of work and of resuming."""

    photos: tuple[SourcePhoto, ...]
    stems: tuple[str, ...]
    settings: CropSettings


def crop_task(task: Task) -> tuple[list[Crop], list[Skipped]]:
    """Crops of a task's photos, and the photos without any with their reasons. Depends on nothing else."""
    detector = _detector(task.settings.detector)
    crops: list[Crop] = []
    skipped: list[Skipped] = []
    with warnings.catch_warnings():
        # Pillow warns about odd metadata in photos that it reads all the same.
        warnings.simplefilter("ignore")
        for photo, stem in zip(task.photos, task.stems, strict=True):
            found = crop_photo(photo, stem, detector, task.settings)
            if isinstance(found, Skipped):
                skipped.append(found)
            else:
                crops += found
    return crops, skipped


def crop_photo(photo: SourcePhoto, stem: str, detector: Detector, settings: CropSettings) -> list[Crop] | Skipped:
    """The photo's faces, or why there is none."""
    try:
        pixels = open_photo(photo.path)
    except ImageError as error:
        detail = str(error).removeprefix(f"{shown(photo.path)}: ")
        return Skipped(photo.source, "unreadable", detail, photo.identity)
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        return Skipped(photo.source, "too small", f"{width}x{height} pixels", photo.identity)
    faces, margin = find_faces(pixels, detector)
    if not faces:
        return Skipped(photo.source, "no face", f"none found in {width}x{height} pixels", photo.identity)
    if settings.faces == "largest":
        faces = [most_central(faces, height, width)]
    crops = []
    for number, face in enumerate(faces, 1):
        path = f"faces/{stem}.png" if settings.faces == "largest" else f"faces/{stem}@{number}.png"
        try:
            crops.append(_crop(pixels, face, path, photo, margin, settings.size))
        except ImageError as error:
            return Skipped(photo.source, "not aligned", str(error), photo.identity)
    return crops


def _crop(pixels: Pixels, face: Face, path: str, photo: SourcePhoto, margin: float, size: int) -> Crop:
    aligned = align(pixels, face.landmarks, size)
    file = io.BytesIO()
    Image.fromarray(aligned).save(file, "PNG", compress_level=4)
    png = file.getvalue()
    angles = pose(face.landmarks)
    bits, details = fingerprint(aligned)
    return Crop(
        path=path,
        identity=photo.identity,
        source=photo.source,
        box=tuple(round(float(value), 2) for value in face.box),
        landmarks=tuple(round(float(value), 2) for value in face.landmarks.reshape(-1)),
        score=round(float(face.score), 4),
        sharpness=round(sharpness(face_crop(pixels, face)), 2),
        size=round(face_size(face), 1),
        yaw=round(angles.yaw, 1),
        pitch=round(angles.pitch, 1),
        roll=round(angles.roll, 1),
        margin=margin,
        sha256=hashlib.sha256(png).hexdigest(),
        hash=bits,
        details=details,
        png=png,
    )


_loaded = threading.local()


def _detector(name: str) -> Detector:
    """One detector for each thread of a worker, kept between tasks: opening its nets takes longer than a photo."""
    cached: dict[str, Detector] = _loaded.__dict__.setdefault("detectors", {})
    if name not in cached:
        cached[name] = load_detector(name, threads=1)
    return cached[name]


def detector_sha256(name: str) -> str | None:
    """Digest of a detector's file that the user named; None for those that come with edgeface."""
    path = Path(name)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
