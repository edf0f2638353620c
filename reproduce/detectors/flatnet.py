"""Writes small convolutional nets as TFLite files, operator by operator.

For nets whose operators must stay as they are: an input of any size, PRELU in one kernel, weights kept as
16-bit floats. A tracing converter fixes the sizes and takes PReLU apart.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


def schema() -> Any:
    """The TFLite schema's generated module, from ai-edge-litert."""
    return importlib.import_module("ai_edge_litert.schema_py_generated")


def builtin_name(code: Any) -> str:
    """An operator code's name, such as ``"CONV_2D"``."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names: dict[int, str] = {
        value: name for name, value in vars(schema().BuiltinOperator).items() if isinstance(value, int)
    }
    return names[number]


@dataclass
class FlatNet:
    """A chain of operators under construction; ``at`` is the newest tensor, NHWC or (N, features).

    Args of the constructor: the input's NCHW shape, where a ``None`` side may have any size; ``half`` to keep
    the weights (not biases, not slopes) as 16-bit floats.
    """

    input_shape: tuple[int | None, ...]
    half: bool = False
    at: int = 0
    shape: list[int] = field(default_factory=list)
    _tensors: list[Any] = field(default_factory=list)
    _buffers: list[Any] = field(default_factory=list)
    _operators: list[Any] = field(default_factory=list)
    _codes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._buffers.append(schema().BufferT())
        # Any size will do for the sides that are open: the engine sets them before each call.
        self.at = self._tensor("input", [side or 64 for side in self.input_shape])
        self._tensors[self.at].shapeSignature = [-1 if side is None else side for side in self.input_shape]
        n, c, h, w = self._tensors[self.at].shape
        self._then("TRANSPOSE", [self._constant(np.array([0, 2, 3, 1], np.int32))], [n, h, w, c])

    def conv(self, weight_OIHW: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """A convolution without padding, stride 1."""
        options = schema().Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema().Padding.VALID, 1, 1
        n, h, w, _ = self.shape
        outputs, _, high, wide = weight_OIHW.shape
        constants = [self._weights(weight_OIHW.transpose(0, 2, 3, 1)), self._constant(bias)]
        self._then("CONV_2D", constants, [n, h - high + 1, w - wide + 1, outputs], options)

    def prelu(self, slopes: NDArray[np.float32]) -> None:
        """PReLU with one slope a channel."""
        self._then("PRELU", [self._constant(slopes.reshape((1,) * (len(self.shape) - 2) + (-1,)))], self.shape)

    def pool(self, side: int) -> None:
        """Maximum over side × side, stride 2; a last incomplete window counts (PyTorch's ``ceil_mode``)."""
        options = schema().Pool2DOptionsT()
        n, h, w, c = self.shape
        # SAME pads at the end exactly where ceil_mode has an incomplete window: side 2, or 3 on an even length.
        options.padding = schema().Padding.SAME if side == 2 or h % 2 == 0 else schema().Padding.VALID
        options.filterHeight = options.filterWidth = side
        options.strideH = options.strideW = 2
        self._then("MAX_POOL_2D", [], [n, -(-(h - side) // 2) + 1, -(-(w - side) // 2) + 1, c], options)

    def flatten(self) -> None:
        """(N, H, W, C) to (N, H·W·C)."""
        n, *rest = self.shape
        features = int(np.prod(rest))
        self._then("RESHAPE", [self._constant(np.array([-1, features], np.int32))], [n, features])

    def dense(self, weight_OI: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """A fully connected layer."""
        options = schema().FullyConnectedOptionsT()
        constants = [self._weights(weight_OI), self._constant(bias)]
        self._then("FULLY_CONNECTED", constants, [self.shape[0], len(bias)], options)

    def to_bytes(self, description: str) -> bytes:
        """The file's bytes; the newest tensor is the output."""
        tf = schema()
        model, graph = tf.ModelT(), tf.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self._tensors, self._operators, [0], [self.at]
        model.version, model.description = 3, description
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self._buffers, []
        for name in self._codes:
            code = tf.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = getattr(tf.BuiltinOperator, name)
            code.version = 3 if name == "DEQUANTIZE" else 1  # 3 is the first to take 16-bit floats
            model.operatorCodes.append(code)
        builder = importlib.import_module("flatbuffers").Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _then(self, name: str, constants: list[int], shape: list[int], options: Any = None) -> None:
        output = self._tensor(f"{name.lower()}_{len(self._operators)}", shape)
        self._operator(name, [self.at, *constants], output, options)
        self.at, self.shape = output, list(shape)

    def _operator(self, name: str, inputs: list[int], output: int, options: Any = None) -> None:
        if name not in self._codes:
            self._codes.append(name)
        operator = schema().OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._codes.index(name), inputs, [output]
        if options is not None:
            operator.builtinOptions = options
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema().BuiltinOptions, kind)
        self._operators.append(operator)

    def _tensor(self, name: str, shape: list[int], kind: str = "FLOAT32", data: bytes | None = None) -> int:
        tensor = schema().TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), getattr(schema().TensorType, kind)
        if data is not None:
            buffer = schema().BufferT()
            buffer.data = np.frombuffer(data, np.uint8)
            self._buffers.append(buffer)
            tensor.buffer = len(self._buffers) - 1
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _constant(self, value: NDArray[Any]) -> int:
        name = f"constant_{len(self._tensors)}"
        return self._tensor(name, list(value.shape), value.dtype.name.upper(), np.ascontiguousarray(value).tobytes())

    def _weights(self, value: NDArray[np.float32]) -> int:
        if not self.half:
            return self._constant(value)
        stored = self._constant(value.astype(np.float16))
        output = self._tensor(f"weights_{len(self._tensors)}", list(value.shape))
        self._operator("DEQUANTIZE", [stored], output)
        return output
