"""Makes a float TFLite net of ``FlatNet`` int8: ranges from samples, weights one scale a channel.

The quantizers at hand do not know DEPTH_TO_SPACE, without which YuNet would take photos of one size only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reproduce.detectors.flatnet import builtin_name, packed, quantization, schema

_SAME_RANGE = ("MAX_POOL_2D", "CONCATENATION", "DEPTH_TO_SPACE")
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D")


def int8(data: bytes, samples: Iterable[NDArray[np.int8]]) -> bytes:
    """The net in int8 where its outputs are float still: what writes an output stays as it is.

    Args:
        data: the float file, with int8 pixels as its input.
        samples: inputs of the net, of any size that it takes; ranges are the least and the largest value seen.
    """
    tf = schema()
    model = tf.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    names = [builtin_name(model.operatorCodes[op.opcodeIndex]) for op in graph.operators]
    ranges = _ranges(data, [int(op.outputs[0]) for op in graph.operators], samples)
    codes = {name: op.opcodeIndex for name, op in zip(names, graph.operators, strict=True)}
    operators: list[Any] = []
    pixels: dict[int, int] = {}

    def values(tensor: Any) -> NDArray[np.float32]:
        return np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).reshape(tensor.shape)

    def store(tensor: Any, kind: str, steps: NDArray[Any], parameters: Any) -> None:
        model.buffers[tensor.buffer].data = np.frombuffer(steps.tobytes(), np.uint8)
        tensor.type, tensor.quantization = getattr(tf.TensorType, kind), parameters

    for op, name in zip(graph.operators, names, strict=True):
        source, output = int(op.inputs[0]), int(op.outputs[0])
        target = graph.tensors[output]
        if name == "DEQUANTIZE":  # of the pixels, which are int8 already
            pixels[output] = source
            continue
        source = pixels.get(source, source)
        op.inputs = [source, *op.inputs[1:]]
        if output in graph.outputs:
            copied = tf.TensorT()
            copied.name, copied.shape, copied.type = (
                f"float_{source}",
                graph.tensors[source].shape,
                tf.TensorType.FLOAT32,
            )
            graph.tensors.append(copied)
            widened = tf.OperatorT()
            widened.opcodeIndex, widened.inputs, widened.outputs = (
                codes["DEQUANTIZE"],
                [source],
                [len(graph.tensors) - 1],
            )
            op.inputs = [len(graph.tensors) - 1, *op.inputs[1:]]
            operators += [widened, op]
            continue
        target.type = tf.TensorType.INT8
        if name in _SAME_RANGE:
            target.quantization = graph.tensors[source].quantization
        else:
            low, high = ranges[output]
            scale = (high - low) / 255
            target.quantization = quantization(scale, round(-128 - low / scale))
        if name in _WEIGHTED:
            weight, bias = (graph.tensors[int(i)] for i in op.inputs[1:])
            axis = 3 if name == "DEPTHWISE_CONV_2D" else 0
            exact, offset = values(weight), values(bias)
            scales = np.maximum(np.abs(exact).max(axis=tuple(i for i in range(4) if i != axis)), 1e-8) / 127
            steps = np.rint(exact / (scales if axis == 3 else scales[:, None, None, None]))
            whole = scales * graph.tensors[source].quantization.scale[0]
            store(weight, "INT8", np.clip(steps, -127, 127).astype(np.int8), quantization(scales, 0, axis))
            store(bias, "INT32", np.rint(offset / whole).astype(np.int32), quantization(whole, 0))
        operators.append(op)
    graph.operators = operators
    for code in model.operatorCodes:
        code.version = max(code.version, 3 if builtin_name(code) in _WEIGHTED else 2)  # the first to know int8
    return packed(model)


def _ranges(data: bytes, tensors: list[int], samples: Iterable[NDArray[np.int8]]) -> dict[int, tuple[float, float]]:
    """Least and largest value of each tensor, with 0 in between."""
    module = importlib.import_module("ai_edge_litert.interpreter")
    interpreter = module.Interpreter(
        model_content=data,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    found = dict.fromkeys(tensors, (0.0, 0.0))
    entry = interpreter.get_input_details()[0]["index"]
    for sample in samples:
        interpreter.resize_tensor_input(entry, sample.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry, sample)
        interpreter.invoke()
        for tensor in tensors:
            seen = interpreter.get_tensor(tensor)
            low, high = found[tensor]
            found[tensor] = min(low, float(seen.min())), max(high, float(seen.max()))
    return found
