"""YuNet from OpenCV Zoo's file, operator by operator: any size of photo, whole pixels, three maps of sixteen channels.

The four heads of each stride become one: convolutions of one input side by side are one convolution.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reproduce.detectors.flatnet import FlatNet

_Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
_KINDS, _LEVELS = (0, 2, 1, 3), 3  # the file has cls, bbox, obj, kps; the maps cls, obj, bbox, kps


def yunet_net(path: str | Path) -> bytes:
    """The TFLite bytes: (1, H + 1, W + 1, 3) int8 in, RGB less 128, H and W multiples of 32.

    The first row and column are the padding of the first convolution. Three outputs, (1, H/8, W/8, 16) and so on for
    strides 16 and 32: logit of the class, logit of the object, centre x, y and log of width and height in cells, five
    points x, y in cells.

    Args:
        path: OpenCV Zoo's ``face_detection_yunet_2026may.onnx`` (MIT).
    """
    layers = iter(_layers(path))
    net = FlatNet((1, 3, None, None), pixels=(1.0, -128))

    def unit(*, relu: bool = True) -> None:
        net.conv(*next(layers))
        net.depthwise(*next(layers), relu=relu)

    weight, bias = next(layers)
    net.conv(np.ascontiguousarray(weight[:, ::-1]), bias, stride=2, relu=True)  # it was trained on BGR
    unit()
    net.pool(2)
    for _ in range(4):
        unit()
    net.pool(2)
    kept = []
    for level in range(_LEVELS):
        unit()
        unit()
        kept.append(net.at)
        if level < _LEVELS - 1:
            net.pool(2)
    necks: list[int] = []
    for level in reversed(range(_LEVELS)):
        if necks:
            net.enlarge()
            net.add(kept[level])
        unit()
        necks.insert(0, net.at)
    heads = list(layers)
    outputs = []
    for level, neck in enumerate(necks):
        net.go_to(neck)
        for part in (0, 1):
            weights, biases = zip(*(heads[2 * (_LEVELS * kind + level) + part] for kind in _KINDS), strict=True)
            (net.depthwise if part else net.conv)(np.concatenate(weights), np.concatenate(biases))
        outputs.append(net.at)
    return net.to_bytes("YuNet of OpenCV Zoo (MIT)", outputs)


def _layers(path: str | Path) -> list[_Layer]:
    """Weights (O, I, H, W) and biases of the file's convolutions, in order."""
    onnx = importlib.import_module("onnx")
    graph = onnx.load(str(path)).graph
    values = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    return [(values[node.input[1]], values[node.input[2]]) for node in graph.node if node.op_type == "Conv"]
