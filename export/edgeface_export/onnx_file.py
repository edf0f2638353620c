"""ONNX files: torch.onnx, then onnxruntime's converters. Each writer takes an fp32 file, calibration inputs, a path."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from edgeface_runtime.metadata import KEY

OPSET = 17
_MOVERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Transpose", "Reshape", "Flatten"}
_MOVERS |= {"Shape", "Slice", "Concat", "Identity", "Squeeze", "Unsqueeze"}
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_QUANTIZED = {"QGemm", "QAttention", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}


def write_float(module: nn.Module, size: int, path: Path) -> None:
    """fp32 ONNX with a free batch: ``faces`` (N, S, S, 3) uint8 → ``embedding`` (N, D) float."""
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        # The TorchScript exporter gives the same graph as the newer one in a tenth of the time.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module, (example,), path, input_names=["faces"], output_names=["embedding"], opset_version=OPSET,
            dynamic_axes={"faces": {0: "batch"}, "embedding": {0: "batch"}}, dynamo=False,
        )  # fmt: skip


def write_fp16(source: Path, _: NDArray[Any], path: Path) -> None:
    """float16 weights and activations, by onnxruntime's own converter; inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), path)


class _Inputs(CalibrationDataReader):
    def __init__(self, name: str, inputs: NDArray[Any], batch: int) -> None:
        self._name = name
        self._chunks = iter([inputs[start : start + batch] for start in range(0, len(inputs) - batch + 1, batch)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        chunk = next(self._chunks, None)
        return None if chunk is None else {self._name: chunk}


def write_int8(source: Path, inputs: NDArray[Any], path: Path) -> None:
    """Static int8 of an fp32 file: weights int8 per channel, activations uint8, ranges from ``inputs``.

    Preprocessing stays float: it touches 0.1 % of the numbers and defines the input's scale.
    """
    graph = onnx.load(source).graph
    first = next(index for index, node in enumerate(graph.node) if node.op_type in _WEIGHTED)
    preprocessing = [node.name for node in graph.node[:first]]
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    with _prepared(source) as prepared:
        quantize_static(
            prepared, path, _Inputs(graph.input[0].name, inputs, batch), quant_format=QuantFormat.QDQ,
            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_exclude=preprocessing,
        )  # fmt: skip


def write_dynamic(source: Path, _: NDArray[Any], path: Path) -> None:
    """Dynamic int8: each activation's range is measured at run time.

    onnxruntime's dynamic convolution has one scale for all channels. Depthwise layers do not bear that,
    and hold few weights: they stay float.
    """
    with _prepared(source) as prepared:
        grouped = [node.name for node in onnx.load(prepared).graph.node if _groups(node) > 1]
        quantize_dynamic(prepared, path, weight_type=QuantType.QUInt8, nodes_to_exclude=grouped)


def write_weights(source: Path, _: NDArray[Any], path: Path) -> None:
    """Weights as int8 with one symmetric scale a channel, turned back into float in the graph."""
    model = onnx.load(source)
    graph, make = model.graph, onnx.helper.make_node
    constants = {item.name: item for item in graph.initializer}
    added: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type not in _WEIGHTED or (name := node.input[1]) not in constants:
            continue
        node.input[1] = f"{name}_float"
        if name in added:
            continue
        axis = 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 1
        values = onnx.numpy_helper.to_array(constants[name])
        others = tuple(side for side in range(values.ndim) if side != axis)
        scale = np.maximum(np.abs(values).max(axis=others, keepdims=True), np.finfo(np.float32).tiny) / 127
        constants[name].CopyFrom(onnx.numpy_helper.from_array(np.round(values / scale).astype(np.int8), name))
        graph.initializer.append(onnx.numpy_helper.from_array(scale.reshape(-1), f"{name}_scale"))
        added[name] = make("DequantizeLinear", [name, f"{name}_scale"], [node.input[1]], node.input[1], axis=axis)
    nodes = [*added.values(), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


WRITERS: dict[str, Callable[[Path, NDArray[Any], Path], None]] = {
    "fp16": write_fp16,
    "int8": write_int8,
    "int8-dynamic": write_dynamic,
    "int8-weights": write_weights,
}


@contextmanager
def _prepared(source: Path) -> Iterator[Path]:
    """The file with shapes inferred and constants folded; the quantizer's warnings are muted meanwhile."""
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        logging.getLogger().disabled, before = True, logging.getLogger().disabled
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            yield prepared
        finally:
            logging.getLogger().disabled = before


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((item.i for item in node.attribute if item.name == name), default)


def _groups(node: onnx.NodeProto) -> int:
    return _attribute(node, "group", 1) if node.op_type == "Conv" else 1


def write_contract(path: Path, text: str) -> None:
    """Stores the contract under ``metadata_props``, replacing one that is there."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: text})
    path.write_bytes(model.SerializeToString(deterministic=True))


def count_operators(path: Path) -> dict[str, int]:
    """int8, float and other operators of the graph as onnxruntime runs it on this machine."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        nodes: list[Any] = list(onnx.load(options.optimized_model_filepath).graph.node)
    kinds = Counter(_kind(node.op_type) for node in nodes)
    return {"int8": kinds["int8"], "float": kinds["float"], "other": kinds["other"]}


def _kind(operator: str) -> str:
    if operator.startswith("QLinear") or operator in _QUANTIZED:
        return "int8"
    return "other" if operator in _MOVERS else "float"
