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


def packed(model: Any) -> bytes:
    """A TFLite model of the schema's object API as a file's bytes."""
    builder = importlib.import_module("flatbuffers").Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def quantization(scale: Any, zero: Any, axis: int = 0) -> Any:
    """Quantization parameters: value = scale · (q − zero), one of each or one a channel along ``axis``."""
    parameters = schema().QuantizationParametersT()
    parameters.scale = np.atleast_1d(np.asarray(scale, np.float32))
    parameters.zeroPoint = np.broadcast_to(np.asarray(zero, np.int64), parameters.scale.shape)
    parameters.quantizedDimension = axis
    return parameters


@dataclass
class FlatNet:
    """A chain of operators under construction; ``at`` is the newest tensor, NHWC or (N, features).

    Args of the constructor: the input's NCHW shape, where a ``None`` side may have any size; ``half`` to keep
    the weights (not biases, not slopes) as 16-bit floats; ``pixels``, the scale and zero point of int8 pixels that
    come in (N, H, W, C), in place of floats (N, C, H, W).
    """

    input_shape: tuple[int | None, ...]
    half: bool = False
    pixels: tuple[float, int] | None = None
    at: int = 0
    shape: list[int] = field(default_factory=list)
    _tensors: list[Any] = field(default_factory=list)
    _buffers: list[Any] = field(default_factory=list)
    _operators: list[Any] = field(default_factory=list)
    _codes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._buffers.append(schema().BufferT())
        # Any size will do for the sides that are open: the engine sets them before each call. But XNNPACK keeps memory
        # for as many photos as the file names: 24 MB for 64 in O-Net, 3 for one.
        n, c, h, w = (side or (64 if axis else 1) for axis, side in enumerate(self.input_shape))
        signature = [-1 if side is None else side for side in self.input_shape]
        if self.pixels is None:
            self.at = self._tensor("input", [n, c, h, w])
            self._tensors[self.at].shapeSignature = signature
            self._then("TRANSPOSE", [self._constant(np.array([0, 2, 3, 1], np.int32))], [n, h, w, c])
        else:
            self.at = self._tensor("input", [n, h, w, c], "INT8")
            self._tensors[self.at].shapeSignature = [signature[i] for i in (0, 2, 3, 1)]
            self._tensors[self.at].quantization = quantization(*self.pixels)
            self._then("DEQUANTIZE", [], [n, h, w, c])

    def conv(
        self,
        weight_OIHW: NDArray[np.float32],
        bias: NDArray[np.float32],
        *,
        stride: int = 1,
        same: bool = False,
        relu: bool = False,
    ) -> None:
        """A convolution, without padding or with TFLite's SAME."""
        outputs, _, high, wide = weight_OIHW.shape
        constants = [self._weights(weight_OIHW.transpose(0, 2, 3, 1)), self._constant(bias)]
        self._convolved("CONV_2D", schema().Conv2DOptionsT(), constants, (high, wide, outputs), stride, same, relu)

    def depthwise(self, weight_OIHW: NDArray[np.float32], bias: NDArray[np.float32], *, relu: bool = False) -> None:
        """A depthwise convolution, stride 1, padded so that the size stays; weights (C, 1, H, W)."""
        outputs, _, high, wide = weight_OIHW.shape
        constants = [self._weights(weight_OIHW.transpose(1, 2, 3, 0)), self._constant(bias)]
        options = schema().DepthwiseConv2DOptionsT()
        options.depthMultiplier = 1
        self._convolved("DEPTHWISE_CONV_2D", options, constants, (high, wide, outputs), 1, True, relu)

    def _convolved(
        self,
        name: str,
        options: Any,
        constants: list[int],
        kernel: tuple[int, int, int],
        stride: int,
        same: bool,
        relu: bool,
    ) -> None:
        kinds = schema().ActivationFunctionType
        options.padding = schema().Padding.SAME if same else schema().Padding.VALID
        options.strideH = options.strideW = stride
        options.fusedActivationFunction = kinds.RELU if relu else kinds.NONE
        n, *sides, _ = self.shape
        lost = (0, 0) if same else (kernel[0] - 1, kernel[1] - 1)
        high, wide = (-(-(side - less) // stride) for side, less in zip(sides, lost, strict=True))
        self._then(name, constants, [n, high, wide, kernel[2]], options)

    def add(self, other: int) -> None:
        """The newest tensor plus another of its shape."""
        self._then("ADD", [other], self.shape, schema().AddOptionsT())

    def enlarge(self) -> None:
        """Each pixel made four, at every size of the input: RESIZE_NEAREST_NEIGHBOR would name one size."""
        n, h, w, c = self.shape
        joined = schema().ConcatenationOptionsT()
        joined.axis = 3
        self._then("CONCATENATION", [self.at] * 3, [n, h, w, 4 * c], joined)
        options = schema().DepthToSpaceOptionsT()
        options.blockSize = 2
        self._then("DEPTH_TO_SPACE", [], [n, 2 * h, 2 * w, c], options)

    def go_to(self, tensor: int) -> None:
        """Goes on from an earlier tensor."""
        self.at, self.shape = tensor, list(self._tensors[tensor].shape)

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

    def to_bytes(self, description: str, outputs: list[int] | None = None) -> bytes:
        """The file's bytes; the newest tensor is the output where none is named."""
        tf = schema()
        model, graph = tf.ModelT(), tf.SubGraphT()
        graph.tensors, graph.operators, graph.inputs = self._tensors, self._operators, [0]
        graph.outputs = [self.at] if outputs is None else outputs
        model.version, model.description = 3, description
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self._buffers, []
        for name in self._codes:
            code = tf.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = getattr(tf.BuiltinOperator, name)
            code.version = 3 if name == "DEQUANTIZE" else 1  # 3 is the first to take 16-bit floats
            model.operatorCodes.append(code)
        return packed(model)

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
