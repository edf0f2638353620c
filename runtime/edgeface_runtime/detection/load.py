"""Opens a face detector by name, with the nets that ship in this package, or from a YuNet file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgeface_runtime.detection.blazeface import BlazeFace
from edgeface_runtime.detection.mtcnn import Mtcnn
from edgeface_runtime.detection.yunet import Yunet
from edgeface_runtime.engines import Engine, open_engine
from edgeface_runtime.errors import UsageError
from edgeface_runtime.faces import Detector

NETS = Path(__file__).parent / "nets"
DETECTORS = ("blazeface", "mtcnn")
_OLD_NAMES = {"fast": "blazeface"}
ENGINES = {
    "onnxruntime": ("onnx", ("onnxruntime",)),
    "litert": ("tflite", ("ai_edge_litert", "tflite_runtime")),
}
"""Engine → ending of the shipped nets' files that it reads, and the packages of which one must be installed."""


def load_detector(name: str | Path = "blazeface", *, threads: int = 1, engine: str = "auto") -> Detector:
    """A face detector, ready to use.

    Args:
        name: ``"blazeface"``, ``"mtcnn"``, or the path of a YuNet file in ONNX.
        threads: how many threads one call may use, at least 1.
        engine: ``"onnxruntime"``, ``"litert"``, or ``"auto"`` for the first of these that is installed. A YuNet
            file is opened by the engine that reads it.

    Raises:
        UsageError: no such detector, file or engine, the engine is not installed, or ``threads`` is below 1.
        ModelError: the engine does not take the file.
    """
    suffix, name = _suffix(engine), detector_name(name)

    def net(stem: str) -> Engine:
        return open_engine(NETS / f"{stem}.{suffix}", threads=threads)

    if name == "blazeface":
        return BlazeFace(near=net("blazeface_short_range"), wide=net("blazeface_full_range"), onet=net("onet"))
    if name == "mtcnn":
        return Mtcnn(pnet=net("pnet"), rnet=net("rnet"), onet=net("onet"))
    if not Path(name).is_file():
        raise UsageError(f"no detector {str(name)!r}; choose {' or '.join(DETECTORS)}, or name a YuNet .onnx file")
    return Yunet(net=open_engine(name, threads=threads))


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
