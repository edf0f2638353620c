"""Opens a face detector by name, with the nets that ship in this package, or from a YuNet file."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from edgeface_runtime.checks import number
from edgeface_runtime.detection.blazeface import BlazeFace
from edgeface_runtime.detection.mtcnn import Mtcnn
from edgeface_runtime.detection.yunet import Yunet
from edgeface_runtime.detection.yunet_onet import YunetOnet
from edgeface_runtime.engines import Engine, open_engine
from edgeface_runtime.errors import UsageError
from edgeface_runtime.faces import Detector

NETS = Path(__file__).parent / "nets"
DETECTORS = ("blazeface", "mtcnn", "yunet")
_OLD_NAMES = {"fast": "blazeface"}
ENGINES = {
    "onnxruntime": ("onnx", ("onnxruntime",)),
    "litert": ("tflite", ("ai_edge_litert", "tflite_runtime")),
}
"""Engine → ending of the shipped nets' files that it reads, and the packages of which one must be installed."""


def load_detector(
    name: str | Path = "blazeface", *, threads: int = 1, engine: str = "auto", min_face: float | None = None
) -> Detector:
    """A face detector, ready to use.

    Args:
        name: ``"blazeface"``, ``"yunet"``, ``"mtcnn"``, or the path of a YuNet file in ONNX.
        threads: how many threads one call may use, at least 1.
        engine: ``"onnxruntime"``, ``"litert"``, or ``"auto"`` for the first of these that is installed. A YuNet
            file is opened by the engine that reads it.
        min_face: smallest face to look for, in pixels of the photo, at least 12; the detector's own (40, for
            ``"mtcnn"`` 20) where None. Half of it takes up to four times as long.

    Raises:
        UsageError: no such detector, file or engine, the engine is not installed, ``threads`` is below 1, or
            ``min_face`` below 12 or for a YuNet file, which has none.
        ModelError: the engine does not take the file.
    """
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
