"""ONNX files: torch.onnx, then onnxruntime's static quantization."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from edgeface_runtime.metadata import KEY

OPSET = 17
_MOVERS = {"QuantizeLinear", "DequantizeLinear", "Cast", "Transpose", "Reshape", "Flatten", "Shape", "Slice", "Concat"}
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


class _Faces(CalibrationDataReader):
    def __init__(self, faces: NDArray[np.uint8]) -> None:
        self._chunks = iter([faces[start : start + 1] for start in range(len(faces))])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        chunk = next(self._chunks, None)
        return None if chunk is None else {"faces": chunk}


def write_int8(source: Path, faces: NDArray[np.uint8], path: Path) -> None:
    """Static int8 of an fp32 file: weights int8 per channel, activations uint8, ranges from ``faces``.

    Preprocessing stays float: it touches 0.1 % of the numbers and defines the input's scale.
    """
    graph = onnx.load(source).graph
    first = next(index for index, node in enumerate(graph.node) if node.op_type in ("Conv", "Gemm", "MatMul"))
    preprocessing = [node.name for node in graph.node[:first]]
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        logging.getLogger().disabled, before = True, logging.getLogger().disabled
        try:
            quantize_static(
                prepared, path, _Faces(faces), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=preprocessing,
            )  # fmt: skip
        finally:
            logging.getLogger().disabled = before


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
