#!/bin/sh
# TensorFlow Lite Micro 0.dev20261023182759 (Python package tflite-micro): DEQUANTIZE of weights with a scale for each channel.
#
# One would guess: what the operator does in LiteRT, each channel by its own scale; or an error, where an interpreter for
# microcontrollers has no such kernel.
# What happens: the first channel's scale serves all of them. The file opens and runs, and every other channel is wrong
# by the ratio of the scales, without a word.
# Who meets it: whoever makes a file with int8 weights and float arithmetic ("weight-only" quantization, for small downloads)
# and runs it on a microcontroller too. Weights that stay int8 inside a convolution are right.
#
# Needs python3.11 with pip, on x86-64.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tflite-micro==0.dev20261023182759 ai-edge-litert==2.3.0 numpy==2.4.6

cat > "$folder/look.py" <<'PY'
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tflite_micro.python.tflite_micro import runtime

scales = [1.0, 10.0, 100.0]  # of three channels whose weights are all 1
tensors = [("x", [1, 1], "FLOAT32", 0), ("bytes", [3, 1], "INT8", 1), ("weights", [3, 1], "FLOAT32", 0), ("y", [1, 3], "FLOAT32", 0)]
model, graph = schema.ModelT(), schema.SubGraphT()
model.version, model.subgraphs, model.buffers, graph.tensors = 3, [graph], [schema.BufferT(), schema.BufferT()], []
model.buffers[1].data = np.ones(3, np.uint8)
for name, shape, kind, buffer in tensors:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, getattr(schema.TensorType, kind), buffer
    if kind == "INT8":
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = scales, [0] * 3
        tensor.quantization.quantizedDimension = 0
    graph.tensors.append(tensor)
model.operatorCodes, graph.operators = [], []
wiring = [("DEQUANTIZE", "DequantizeOptions", [1], [2]), ("FULLY_CONNECTED", "FullyConnectedOptions", [0, 2, -1], [3])]
for number, (kind, options, taken, given) in enumerate(wiring):
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = 5 if kind == "DEQUANTIZE" else 1
    operator.opcodeIndex, operator.inputs, operator.outputs = number, taken, given
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    operator.builtinOptions = getattr(schema, f"{options}T")()
    model.operatorCodes.append(code)
    graph.operators.append(operator)
graph.inputs, graph.outputs = [0], [3]
builder = flatbuffers.Builder(1024)
builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
data, one = bytes(builder.Output()), np.ones((1, 1), np.float32)

litert = Interpreter(model_content=data)
litert.allocate_tensors()
litert.set_tensor(litert.get_input_details()[0]["index"], one)
litert.invoke()
print("LiteRT               ", litert.get_tensor(litert.get_output_details()[0]["index"]).ravel().tolist())
micro = runtime.Interpreter.from_bytes(data, arena_size=1 << 16)
micro.set_input(one, 0)
micro.invoke()
print("TensorFlow Lite Micro", micro.get_output(0).ravel().tolist())
PY
seen=$("$folder/venv/bin/python" "$folder/look.py" 2>/dev/null)
echo "$seen"
expected='LiteRT                [1.0, 10.0, 100.0]
TensorFlow Lite Micro [1.0, 1.0, 1.0]'
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
