#!/bin/sh
# OpenCV 5.0.0.93, cv2.dnn.readNetFromONNX(…, engine): which engine runs a net that is read from memory.
#
# One would guess: the one that is asked for, ENGINE_CLASSIC or ENGINE_NEW, whether the net comes from a file or from memory.
# What happens: from a file, yes. From memory the argument is taken and has no effect: ENGINE_CLASSIC gives the bits of
# ENGINE_NEW. The two round int8 sums differently, so that one and the same net and picture give other numbers.
# Who meets it: whoever needs the classic engine (some int8 nets lose accuracy in the new one) and keeps models in memory,
# encrypted, packed or downloaded.
#
# Needs python3 (3.11 or newer) with pip.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 onnx==1.23.2 numpy==2.4.6

cat > "$folder/look.py" <<'PY'
import sys

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

path = sys.argv[1]
rng = np.random.default_rng(0)
nodes, constants = [], []


def constant(name, value):
    constants.append(numpy_helper.from_array(value, name))
    return name


def node(kind, inputs, output, **attributes):
    nodes.append(helper.make_node(kind, inputs, [output], **attributes))
    return output


def rounded(name, given):  # to uint8 and back
    ends = [constant(f"{name}_scale", np.float32(0.02)), constant(f"{name}_zero", np.uint8(120))]
    return node("DequantizeLinear", [node("QuantizeLinear", [given, *ends], f"{name}_uint8"), *ends], name)


made, channels = rounded("a", "x"), 3
for layer in range(4):
    weights = [
        constant(f"w{layer}", rng.integers(-127, 128, (8, channels, 3, 3)).astype(np.int8)),
        constant(f"s{layer}", (rng.uniform(0.004, 0.012, 8) * 3 / channels).astype(np.float32)),
        constant(f"z{layer}", np.zeros(8, np.int8)),
    ]
    kernel = node("DequantizeLinear", weights, f"k{layer}", axis=0)
    made, channels = rounded(f"a{layer}", node("Conv", [made, kernel], f"c{layer}", pads=[1] * 4)), 8
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n, 64, 64]) for name, n in (("x", 3), (made, 8))]
graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)

picture = rng.normal(size=(1, 3, 64, 64)).astype(np.float32)
for place, source in (("file", path), ("memory", np.fromfile(path, np.uint8))):
    answers = []
    for engine in (cv2.dnn.ENGINE_CLASSIC, cv2.dnn.ENGINE_NEW):
        net = cv2.dnn.readNetFromONNX(source, engine)
        net.setInput(picture)
        answers.append(net.forward().copy())
    classic, new = answers
    print(f"from {place:7} ENGINE_CLASSIC and ENGINE_NEW: {'the same bits' if (classic == new).all() else 'other numbers'}")
PY
seen=$("$folder/venv/bin/python" "$folder/look.py" "$folder/net.onnx" 2>/dev/null)
echo "$seen"
expected='from file    ENGINE_CLASSIC and ENGINE_NEW: other numbers
from memory  ENGINE_CLASSIC and ENGINE_NEW: the same bits'
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
