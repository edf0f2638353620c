"""A worker's whole way: a photo's bytes to names, in parts that run one by one, and as one call of ``identify``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edgeface_devices.bench.scenes import scene
from edgeface_devices.bench.timing import sample
from edgeface_devices.way import FOLLOW, PARTS, WHOLE
from edgeface_runtime import FaceRecognizer, Gallery, Model
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.gallery.transfer import import_gallery
from edgeface_runtime.images import open_photo
from edgeface_runtime.model import unit_rows

GALLERY = 1000
"""Photos that are searched, one a person."""
_THRESHOLD = 0.5
_KEYS = ("EDGEFACE_GALLERY_KEY", "EDGEFACE_GALLERY_KEY_FILE")
Steps = dict[str, Callable[[], object]]


@contextlib.contextmanager
def steps(
    model: Model, name: str, *, detector: str, min_face: float | None, threads: int
) -> Iterator[tuple[Steps, int]]:
    """Name of a part → the part, on what those before it gave, in their order; and how many faces were found.

    Args:
        model: what embeds.
        name: a key of ``scenes.SCENES``.
        detector: as ``FaceRecognizer`` takes it.
        min_face: smallest face that it looks for, in pixels; None: its own.
        threads: of one call of the detector's nets.

    Raises:
        UsageError: no such detector, or ``min_face`` is none that it takes.
    """
    for key in _KEYS:
        os.environ.pop(key, None)
    photo, size = scene(name), model.contract.input.size
    recognizer = FaceRecognizer(model, detector, threads, min_face=min_face)
    with temporary_folder() as folder, _gallery(Path(folder), recognizer) as gallery:
        pixels = open_photo(photo)
        faces = find_faces(pixels, recognizer.detector)[0]
        crops = [align(pixels, face.landmarks, size) for face in faces]
        stack = np.stack(crops) if crops else np.empty((0, size, size, 3), np.uint8)
        embeddings = model.embed(stack)
        found: Steps = dict(
            zip(
                PARTS,
                (
                    lambda: open_photo(photo),
                    lambda: find_faces(pixels, recognizer.detector),
                    lambda: [align(pixels, face.landmarks, size) for face in faces],
                    lambda: model.embed(stack),
                    # identify asks no gallery about no face.
                    lambda: gallery.search(embeddings, 1) if faces else [],
                ),
                strict=True,
            )
        )
        found[WHOLE] = lambda: recognizer.identify(photo, gallery, threshold=_THRESHOLD)
        follow = getattr(recognizer.detector, "follow", None)
        if follow is not None:
            frame = np.asarray(pixels[:, :])
            found[FOLLOW] = lambda: [follow(frame, face) for face in faces]
        yield found, len(faces)


@contextlib.contextmanager
def _gallery(folder: Path, recognizer: FaceRecognizer) -> Iterator[Gallery]:
    """A gallery of random people."""
    length = recognizer.model.contract.embedding.length
    people = unit_rows(np.random.default_rng(0).normal(size=(GALLERY, length)).astype(np.float32))
    names = np.array([f"person {number}" for number in range(GALLERY)])
    np.savez(folder / "people.npz", names=names, embeddings=people)
    import_gallery(folder / "people.npz", folder / "people.db", recognizer.model)
    with Gallery(folder / "people.db", recognizer) as gallery:
        yield gallery


def timed(parts: Steps, calls: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall and processor milliseconds of each part, ``calls`` of each; parts and whole take turns, after one round."""
    clocks = (time.perf_counter_ns, time.process_time_ns)
    wall_ms: dict[str, list[float]] = {name: [] for name in parts}
    cpu_ms: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(calls + 1):
        for name, part in parts.items():
            (wall,), (cpu,) = sample(part, calls=1, clocks=clocks)
            if number:
                wall_ms[name].append(wall)
                cpu_ms[name].append(cpu)
    return wall_ms, cpu_ms
