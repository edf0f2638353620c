"""Writes overflow.onnx of the runtime, which its engines.py asks whether int8 kernels overflow here.

python -m scripts.overflow_probe
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FILE = Path(__file__).parent.parent / "runtime/edgeface_runtime/overflow.onnx"
CHANNELS = 16
"""In and out: enough for the blocked kernels."""
SCALE = CHANNELS * 255 * 127 / 200
"""Of the convolution's answer: 200 where it is right, 101 where each sum of two products stops at 32,767."""


def build() -> onnx.ModelProto:
    """A 1×1 convolution and a matrix product, each of the largest unsigned by the largest signed bytes."""
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "scale": np.float32(SCALE),
        "kernel_zero": np.int8(0),
        "kernel": np.full((CHANNELS, CHANNELS, 1, 1), 127, np.int8),
        "matrix": np.full((CHANNELS, CHANNELS), 127, np.int8),
    }
    convolution = ["map", "one", "zero", "kernel", "one", "kernel_zero", "scale", "zero"]
    nodes = [
        helper.make_node("QLinearConv", convolution, ["convolved"]),
        helper.make_node("MatMulInteger", ["rows", "matrix"], ["multiplied"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("map", TensorProto.UINT8, (1, CHANNELS, 4, 4)),
            ("rows", TensorProto.UINT8, (4, CHANNELS)),
            ("convolved", TensorProto.UINT8, (1, CHANNELS, 4, 4)),
            ("multiplied", TensorProto.INT32, (4, CHANNELS)),
        )
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "overflow", ends[:2], ends[2:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="edgeface")


if __name__ == "__main__":
    FILE.write_bytes(build().SerializeToString())
