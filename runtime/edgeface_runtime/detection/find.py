"""Opens a detector by name, and finds the faces of a photo that may be cut tightly around one or lie on its side."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import described, number
from edgeface_runtime.detection.blazeface import BlazeFace
from edgeface_runtime.detection.mtcnn import Mtcnn
from edgeface_runtime.detection.pixels import reduced, require_rgb
from edgeface_runtime.detection.yunet import Yunet
from edgeface_runtime.detection.yunet_onet import YunetOnet
from edgeface_runtime.engines import Engine, open_engine
from edgeface_runtime.errors import UsageError
from edgeface_runtime.faces import Detector, Face
from edgeface_runtime.images import Pixels

NETS = Path(__file__).parent / "nets"
DETECTORS = ("yunet", "blazeface", "mtcnn")
"""The default first."""
_OLD_NAMES = {"fast": "blazeface"}
ENGINES = {
    "litert": ("tflite", ("ai_edge_litert", "tflite_runtime")),
    "onnxruntime": ("onnx", ("onnxruntime",)),
}
"""Engine → ending of the shipped nets' files that it reads, and the packages of which one must be installed."""


def load_detector(
    name: str | Path = DETECTORS[0], *, threads: int = 1, engine: str = "auto", min_face: float | None = None
) -> Detector:
    """A face detector, ready to use.

    Args:
        name: ``"yunet"``, ``"blazeface"``, ``"mtcnn"``, or the path of a YuNet file in ONNX.
        threads: how many threads one call may use, 1 to 1,024.
        engine: ``"litert"``, ``"onnxruntime"``, or ``"auto"`` for the first of these that is installed. A YuNet
            file is opened by the engine that reads it.
        min_face: smallest face to look for, in pixels of the photo, at least 12; the detector's own (40, for
            ``"mtcnn"`` 20) where None. Half of it takes up to four times as long.

    Raises:
        UsageError: no such detector, file or engine, the engine is not installed, ``threads`` is below 1 or above
            1,024, or ``min_face`` below 12 or for a YuNet file, which has none.
        ModelError: the engine does not take the file.
    """
    if not isinstance(name, (str, Path)):
        raise UsageError(f"the detector is {described(name)}; give {' or '.join(DETECTORS)}, or a YuNet .onnx file")
    suffix, name = _suffix(engine), detector_name(name)

    def net(stem: str) -> Engine:
        return open_engine(NETS / f"{stem}.{suffix}", threads=threads)

    detector: BlazeFace | YunetOnet | Mtcnn
    if name == "blazeface":
        detector = BlazeFace(near=net("blazeface_short_range"), wide=net("blazeface_full_range"), onet=net("onet"))
    elif name == "yunet":
        detector = YunetOnet(yunet=net("yunet"), onet=net("onet"))
    elif name == "mtcnn":
        detector = Mtcnn(pnet=net("pnet"), rnet=net("rnet"), onet=net("onet"))
    elif not Path(name).is_file():
        raise UsageError(f"no detector {str(name)!r}; choose {' or '.join(DETECTORS)}, or name a YuNet .onnx file")
    elif min_face is not None:
        raise UsageError(f"{name}: a YuNet file sees photos at one size; min_face is for {', '.join(DETECTORS)}")
    else:
        return Yunet(net=open_engine(name, threads=threads))
    return detector if min_face is None else replace(detector, min_face=number("min_face", min_face))


def detector_name(name: str | Path) -> str | Path:
    """What a detector is called, where ``name`` may be a former name of it."""
    return _OLD_NAMES.get(str(name), name)


def name_of(detector: Detector) -> str:
    """What a gallery remembers of a detector: the name that opens it; of a file or an app's own what it is."""
    kinds = {YunetOnet: "yunet", BlazeFace: "blazeface", Mtcnn: "mtcnn", Yunet: "a YuNet file"}
    return next((name for kind, name in kinds.items() if isinstance(detector, kind)), type(detector).__name__)


def _suffix(engine: str) -> str:
    """``"onnx"`` or ``"tflite"``: the format that the engine reads."""
    if engine != "auto":
        if engine not in ENGINES:
            raise UsageError(f"no engine {engine!r}; choose auto, {' or '.join(ENGINES)}")
        return ENGINES[engine][0]
    for suffix, packages in ENGINES.values():
        if any(importlib.util.find_spec(package) for package in packages):
            return suffix
    raise UsageError("no engine is installed; install one with: pip install onnxruntime")


MARGINS = (0.3, 0.6)
"""Black borders, as parts of the longer side, that are put around the photo in turn."""

TURNED = 0.9
"""Least score of the best face of a photo that is taken to lie on its side or head."""

DOUBT = (3, 16, 3)
"""So many times nearer to 1 than upright must that score be, turned by one, two and three right angles.

A face that is tilted, hidden or blurred may give a little more the wrong way up, mostly on its head. By a quarter: the
most that misses no more photos that lie on their side than 2 does. On the head: what makes fewest mistakes on faces
made hard where one photo in 1,000 is, and misses at most one in 100 more (LFW, CelebA, US Congress).
"""

GRID = 16
"""Landmarks lie on multiples of 1/GRID pixel.

Engines give the same landmarks to about 1e-4 px, which is enough to turn single bytes of the crop, and one byte moves
an int8 embedding by a cosine of 0.001; on a grid the crops of all engines are nearly always equal.
"""

_COARSE = 640  # a longer side of at most so many pixels is enough to look a second time


def find_faces(image: Pixels, detector: Detector) -> tuple[list[Face], float]:
    """Faces in one (H, W, 3) uint8 RGB photo, and the border that it took to see the main one whole.

    MTCNN reads a face that the photo's edge cuts from a distorted window and puts its landmarks
    wrongly; with a border around the photo they are right. So the photo is looked at again with a
    border while no face is found or the main face's box reaches outside. ``BlazeFace`` looks past the
    edge by itself and needs the border only where it finds nothing.

    Where the best face is less sure than those of upright photos (``sure`` of the detector), or there is none, the
    photo's three quarter turns are looked at, and the surest look counts.

    Second looks are at the photo shrunk to at most 640 pixels, and for large faces alone where none was found: what
    they add are faces that fill the photo, and a photo without any must not cost many times one with a face.

    Returns:
        Faces in pixels of the photo, the most confident first, their landmarks on multiples of 1/16 pixel,
        and the border as a part of the longer side. A turned face's first landmark is the eye that is on the left
        once the face is upright.

    Raises:
        ImageError: ``image`` has another shape or dtype.
    """
    require_rgb(image)
    height, width = image.shape[:2]
    faces, margin = _all(image, detector), 0.0
    whole = isinstance(detector, (BlazeFace, YunetOnet)) or (
        faces and _inside(most_central(faces, height, width), height, width)
    )
    if faces and whole and _is_sure(faces, detector):
        return _on_grid(faces), margin
    block = -(-max(height, width) // _COARSE)
    small = reduced(image, (block, block))
    if not (faces and whole):
        for border in MARGINS if faces else MARGINS[-1:]:
            # With a border nothing is cut any more; a box that still reaches out does so rightly.
            if framed := _framed(small, border, detector) if faces else _large(small, border, detector):
                faces, margin = [_enlarged(face, block) for face in framed], border
                break
    if not (faces and _is_sure(faces, detector)):
        upright = faces[0].score if faces else -np.inf
        best = TURNED
        for turns, times in enumerate(DOUBT, 1):
            view = _turned(small, turns)
            # A photo that had to be shrunk took long enough for the thorough look not to count.
            found = detector.detect(view) if block > 1 else _large(view, 0.0, detector)
            if found and found[0].score > max(best, 1 - (1 - upright) / times):
                best, margin = found[0].score, 0.0
                faces = [_enlarged(_turned_back(face, turns, *small.shape[:2]), block) for face in found]
    return _on_grid(faces), margin


def most_central(faces: list[Face], height: int, width: int) -> Face:
    """The face with the largest area less twice its squared distance from the photo's centre."""

    def rank(face: Face) -> float:
        x0, y0, x1, y1 = map(float, face.box)
        return (x1 - x0) * (y1 - y0) - 2 * (((x0 + x1 - width) / 2) ** 2 + ((y0 + y1 - height) / 2) ** 2)

    return max(faces, key=rank)


def _inside(face: Face, height: int, width: int) -> bool:
    x0, y0, x1, y1 = map(float, face.box)
    return x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height


def _is_sure(faces: list[Face], detector: Detector) -> bool:
    return faces[0].score >= getattr(detector, "sure", 0.0)


def _all(image: Pixels, detector: Detector) -> list[Face]:
    """All faces; a detector of the app's own gets an array."""
    if isinstance(detector, (BlazeFace, YunetOnet, Mtcnn, Yunet)):
        return detector.detect(image)
    return detector.detect(np.asarray(image))


def _large(image: NDArray[np.uint8], margin: float, detector: Detector) -> list[Face]:
    """The faces that are large in the photo, seen with a border; all where the detector has no quicker way."""
    if isinstance(detector, (BlazeFace, YunetOnet, Mtcnn)):
        return detector.detect_large(image, margin)
    return _framed(image, margin, detector)


def _framed(image: NDArray[np.uint8], margin: float, detector: Detector) -> list[Face]:
    border = round(margin * max(image.shape[:2]))
    shift = np.float32(border)
    found = detector.detect(np.pad(image, ((border, border), (border, border), (0, 0))))
    return [Face(face.box - shift, face.score, face.landmarks - shift) for face in found]


def _turned(image: NDArray[np.uint8], turns: int) -> NDArray[np.uint8]:
    """Turned to the left by so many right angles; pixels are moved whole, which is faster than their channels."""
    pixels = np.ascontiguousarray(image).view("V3")[..., 0]
    return np.ascontiguousarray(np.rot90(pixels, turns)).view(np.uint8).reshape(-1, pixels.shape[turns % 2 - 1], 3)


def _turned_back(face: Face, turns: int, height: int, width: int) -> Face:
    """A face of ``np.rot90(image, turns)`` in the coordinates of the (height, width) image."""
    corners, points = face.box.reshape(2, 2), face.landmarks
    for turn in range(turns, 0, -1):
        # What was the right edge became the upper one. Landmarks count from the middle of the first pixel.
        side = np.float32(width if turn % 2 else height)
        corners = np.stack([side - corners[:, 1], corners[:, 0]], axis=1)
        points = np.stack([side - 1 - points[:, 1], points[:, 0]], axis=1)
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    return Face(box, face.score, points)


def _enlarged(face: Face, block: int) -> Face:
    """A face of the photo shrunk by a whole factor, in the photo."""
    if block == 1:
        return face
    # Landmarks count from the middle of a pixel, which in a block lies so far from that of its first one.
    points = face.landmarks * np.float32(block) + np.float32((block - 1) / 2)
    return Face(face.box * np.float32(block), face.score, points)


def _on_grid(faces: list[Face]) -> list[Face]:
    return [Face(face.box, face.score, np.floor(face.landmarks * GRID + np.float32(0.5)) / GRID) for face in faces]
