#!/bin/sh
# ai-edge-quantizer 0.10.0 with LiteRT 2.3.0 (Python package ai-edge-litert): a layer that gives zeros for every calibration input.
#
# One would guess: zeros are what 8 bits hold exactly, whatever the scale, so such a layer is the easiest of all.
# What happens: its range of nothing becomes a scale of 4e-12. The file is written without a word, and XNNPACK, which
# LiteRT uses unless told, refuses the convolution before it: "failed to create XNNPACK runtime". The whole file does
# not open.
# Who meets it: whoever quantizes a net in which all channels of a small layer lie below a ReLU: squeeze-and-excitation
# with a few channels inside, a net pruned hard. A range of any width for such a tensor is a way out.
#
# Needs python3.11 with pip, on x86-64.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    ai-edge-quantizer==0.10.0 ai-edge-litert==2.3.0 numpy==2.4.6 flatbuffers==25.12.19

cat > "$folder/look.py" <<'PY'
import sys

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe


def float_file(bias: float, path: str) -> None:
    """x (1, 1, 1, 8) → 1×1 convolution to 4 channels with ReLU → 1×1 convolution to 2 channels."""
    rng = np.random.default_rng(0)
    model, graph = schema.ModelT(), schema.SubGraphT()
    shapes = {"x": [1, 1, 1, 8], "w1": [4, 1, 1, 8], "b1": [4], "h": [1, 1, 1, 4], "w2": [2, 1, 1, 4], "b2": [2], "y": [1, 1, 1, 2]}
    values = {"w1": rng.normal(size=(4, 8)), "b1": np.full(4, bias), "w2": rng.normal(size=(2, 4)), "b2": np.ones(2)}
    model.version, model.buffers, graph.tensors = 3, [schema.BufferT()], []
    for name, shape in shapes.items():
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, schema.TensorType.FLOAT32, 0
        if name in values:
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(values[name].astype(np.float32).tobytes(), np.uint8)
            tensor.buffer = len(model.buffers) - 1
        graph.tensors.append(tensor)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version, model.operatorCodes, graph.operators = 1, [code], []
    for inputs, output, activation in (([0, 1, 2], 3, "RELU"), ([3, 4, 5], 6, "NONE")):
        operator, options = schema.OperatorT(), schema.Conv2DOptionsT()
        options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = 1
        options.fusedActivationFunction = getattr(schema.ActivationFunctionType, activation)
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
        graph.operators.append(operator)
    graph.inputs, graph.outputs, graph.name = [0], [6], "main"
    signature, entry, result = schema.SignatureDefT(), schema.TensorMapT(), schema.TensorMapT()
    entry.name, entry.tensorIndex, result.name, result.tensorIndex = "x", 0, "y", 6
    signature.inputs, signature.outputs, signature.signatureKey, signature.subgraphIndex = [entry], [result], "serving_default", 0
    model.subgraphs, model.signatureDefs = [graph], [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    open(path, "wb").write(bytes(builder.Output()))


def told(bias: float) -> str:
    path = f"{sys.argv[1]}/net.tflite"
    float_file(bias, path)
    job = quantizer.Quantizer(path, recipe.static_wi8_ai8())
    rng = np.random.default_rng(1)
    faces = [{"x": rng.uniform(0, 1, (1, 1, 1, 8)).astype(np.float32)} for _ in range(8)]
    job.quantize(job.calibrate({"serving_default": faces})).export_model(f"{path}.int8", overwrite=True)
    try:
        interpreter = Interpreter(f"{path}.int8")
        interpreter.allocate_tensors()
    except RuntimeError as error:
        return "refused: " + str(error)[:32]
    return "opens"


print("RESULT a layer that lives   ", told(1.0))
print("RESULT a layer of zeros     ", told(-99.0))
PY
seen=$("$folder/venv/bin/python" "$folder/look.py" "$folder" 2>/dev/null | grep -o 'RESULT.*')
echo "$seen"
expected='RESULT a layer that lives    opens
RESULT a layer of zeros      refused: failed to create XNNPACK runtime'
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
