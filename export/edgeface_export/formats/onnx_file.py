"""ONNX files: torch.onnx, then onnxruntime's converters. Each writer takes an fp32 file and a path."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface_export.formats.protocols import Inputs, Writer
from edgeface_export.quantize.ranges import Range, channel_scales, refuse_clipped, rounded
from edgeface_runtime import Contract
from edgeface_runtime.engines import onnx_options, onnxruntime
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.metadata import KEY

ort, quantization = onnxruntime(), onnxruntime("quantization")
calibrate = onnxruntime("quantization.calibrate")
OPSET = 17
_MOVERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Transpose", "Reshape", "Flatten"}
_MOVERS |= {"Shape", "Slice", "Concat", "Identity", "Squeeze", "Unsqueeze"}
WEIGHTED = ("Conv", "Gemm", "MatMul")
_QUANTIZED = {"QGemm", "QAttention", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
_QUANTIZED |= {"NhwcMaxPool"}  # onnxruntime has it for int8 and uint8 alone


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


def write_fp16(source: Path, path: Path) -> None:
    """float16 weights and activations, by onnxruntime's own converter; inputs and outputs stay as they are."""
    convert = onnxruntime("transformers.float16").convert_float_to_float16
    onnx.save(convert(onnx.load(source), keep_io_types=True), path)


def prepare(source: Path, folder: Path) -> Path:
    """The float file with shapes inferred and constants folded, as the static quantizer wants it.

    Folding makes equal weights one constant. Each layer gets its own again: onnxruntime does not open an int8 file
    that shares them where it has to take its exact kernels (``edgeface_runtime.engines``).
    """
    prepared = folder / f"{source.stem}.prepared.onnx"
    with _muted():
        onnxruntime("quantization.shape_inference").quant_pre_process(source, prepared, skip_symbolic_shape=True)
    model = onnx.load(prepared)
    constants = {item.name: item for item in model.graph.initializer}
    seen: set[str] = set()
    for node in model.graph.node:
        if node.op_type in WEIGHTED and (name := node.input[1]) in constants:
            if name in seen:
                node.input[1] = f"{node.name}_{name}"
                model.graph.initializer.append(onnx.TensorProto())
                model.graph.initializer[-1].CopyFrom(constants[name])
                model.graph.initializer[-1].name = node.input[1]
            seen.add(name)
    onnx.save(model, prepared)
    return prepared


def layers(prepared: Path) -> dict[str, tuple[str, ...]]:
    """Name → nodes: a convolution or matrix product and what follows it up to the next one.

    The 1×1 depthwise convolutions that PReLU is written as belong to the layer before them.
    """
    found: dict[str, tuple[str, ...]] = {}
    for node in _after_preprocessing(onnx.load(prepared)):
        if not found or (node.op_type in WEIGHTED and not _is_slope(node)):
            found[node.name] = ()
        found[next(reversed(found))] += (node.name,)
    return found


def observe(prepared: Path, inputs: Inputs) -> Iterator[dict[str, NDArray[np.float32]]]:
    """For each of the (N, …) inputs every float tensor of the graph: its input, and what each node gives."""
    model = onnx.load(prepared)
    graph = model.graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*graph.value_info, *graph.output)}
    names = [name for node in graph.node for name in node.output if kinds.get(name) == onnx.TensorProto.FLOAT]
    del graph.output[:]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnx_options(1)
    # No rewriting: the same values on every machine.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 1
    for start in range(0, len(inputs) - batch + 1, batch):
        fed = inputs[start : start + batch]
        given = {} if fed.dtype == np.uint8 else {entry.name: np.asarray(fed, np.float32)}
        yield given | dict(zip(names, session.run(names, {entry.name: fed}), strict=True))


def rounding_shifts(prepared: Path, inputs: Inputs) -> dict[str, NDArray[np.float32]]:
    """Layer → (C,) what its channels gain on average over the (N, …) inputs when its weights alone are rounded.

    Each convolution gets a twin beside it, of what rounding adds to the weights.
    """
    model = onnx.load(prepared)
    graph, make = model.graph, onnx.helper.make_node
    constants = {item.name: item for item in graph.initializer}
    twins: dict[str, str] = {}
    for node in list(_after_preprocessing(model)):
        if node.op_type != "Conv" or _is_slope(node) or node.input[1] not in constants:
            continue
        name = f"{node.name}_rounding"
        weights = onnx.numpy_helper.to_array(constants[node.input[1]])
        graph.initializer.append(onnx.numpy_helper.from_array(rounded(weights, 0) - weights, name))
        twin = make("Conv", [node.input[0], name], [f"{name}_all"], name)
        twin.attribute.extend(node.attribute)
        graph.node.extend([twin, make("GlobalAveragePool", [f"{name}_all"], [f"{name}_mean"])])
        twins[node.name] = f"{name}_mean"
    del graph.output[:]
    graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in twins.values()
    )
    session = ort.InferenceSession(model.SerializeToString(), onnx_options(1), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 1
    found = [
        session.run(list(twins.values()), {entry.name: inputs[start : start + batch]})
        for start in range(0, len(inputs) - batch + 1, batch)
    ]
    return {
        layer: np.concatenate(means).mean(axis=(0, 2, 3))
        for layer, means in zip(twins, zip(*found, strict=True), strict=True)
    }


def shift_biases(prepared: Path, shifts: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    """Writes the float file with ``shifts`` taken from the biases of its layers; each gets a bias of its own."""
    model = onnx.load(prepared)
    constants = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:
        if (shift := shifts.get(node.name)) is None:
            continue
        bias = onnx.numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else np.float32(0)
        name = f"{node.name}_bias"
        model.graph.initializer.append(onnx.numpy_helper.from_array((bias - shift).astype(np.float32), name))
        node.input[:] = [*node.input[:2], name]
    onnx.save(model, path)


def write_int8(prepared: Path, ranges: Mapping[str, Range], path: Path, excluded: Collection[str] = ()) -> None:
    """Static int8: weights int8 per channel, activations uint8.

    Preprocessing stays float: it touches 0.1 % of the numbers and defines the input's scale.

    Args:
        prepared: by ``prepare``.
        ranges: tensor → its range.
        path: where to.
        excluded: nodes that stay float.
    """
    model = onnx.load(prepared)
    inside = {node.name for node in _after_preprocessing(model)}
    outside = [node.name for node in model.graph.node if node.name not in inside]
    data = {
        name: calibrate.TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    with _muted(), temporary_folder() as folder:
        cache = Path(folder) / "ranges.json"
        calibrate.save_tensors_data(calibrate.TensorsData(quantization.CalibrationMethod.MinMax, data), cache)
        quantization.quantize_static(
            prepared, path, None, quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[*outside, *excluded], calibration_cache_path=cache,
        )  # fmt: skip
    for item in onnx.load(path).graph.initializer:
        if item.data_type == onnx.TensorProto.INT32:
            refuse_clipped(item.name, onnx.numpy_helper.to_array(item))


def _after_preprocessing(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    nodes = list(model.graph.node)
    first = next(index for index, node in enumerate(nodes) if node.op_type in WEIGHTED)
    return nodes[first:]


def _is_slope(node: onnx.NodeProto) -> bool:
    kernel = next((item.ints for item in node.attribute if item.name == "kernel_shape"), ())
    return _groups(node) > 1 and set(kernel) == {1}


def write_dynamic(source: Path, path: Path) -> None:
    """Dynamic int8: each activation's range is measured at run time.

    onnxruntime's dynamic convolution has one scale for all channels. Depthwise layers do not bear that,
    and hold few weights: they stay float.
    """
    with _muted(), temporary_folder() as folder:
        prepared = prepare(source, Path(folder))
        grouped = [node.name for node in onnx.load(prepared).graph.node if _groups(node) > 1]
        quantization.quantize_dynamic(
            prepared, path, weight_type=quantization.QuantType.QUInt8, nodes_to_exclude=grouped
        )


def write_weights(source: Path, path: Path) -> None:
    """Weights as int8 with one symmetric scale a channel, turned back into float in the graph."""
    model = onnx.load(source)
    graph, make = model.graph, onnx.helper.make_node
    constants = {item.name: item for item in graph.initializer}
    added: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type not in WEIGHTED or (name := node.input[1]) not in constants:
            continue
        node.input[1] = f"{name}_float"
        if name in added:
            continue
        axis = 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 1
        values = onnx.numpy_helper.to_array(constants[name])
        scale = channel_scales(values, axis)
        constants[name].CopyFrom(onnx.numpy_helper.from_array(np.round(values / scale).astype(np.int8), name))
        # The zero points, all 0, may be left out by ONNX, but not where onnxruntime takes its exact kernels.
        asked = {f"{name}_scale": scale.reshape(-1), f"{name}_zero": np.zeros(scale.size, np.int8)}
        graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in asked.items())
        added[name] = make("DequantizeLinear", [name, *asked], [node.input[1]], node.input[1], axis=axis)
    nodes = [*added.values(), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


WRITERS: dict[str, Writer] = {
    "fp32": shutil.copyfile,
    "fp16": write_fp16,
    "int8": shutil.copyfile,  # of a file that is quantized already
    "int8-dynamic": write_dynamic,
    "int8-weights": write_weights,
}


@contextmanager
def _muted() -> Iterator[None]:
    """What the quantizer logs is muted meanwhile, tracebacks of what it passes over too."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((item.i for item in node.attribute if item.name == name), default)


def _groups(node: onnx.NodeProto) -> int:
    return _attribute(node, "group", 1) if node.op_type == "Conv" else 1


def make_portable(path: Path) -> None:
    """Rewrites a finished file so that more engines than this onnxruntime read it; the numbers stay the same.

    Operator sets that no node is of shut out onnxruntime before 1.18; with the shapes between layers, which the
    quantizer leaves for a batch of its own, tract cannot be told another.
    """
    model = onnx.load(path)
    graph = model.graph
    if any(item.HasField("g") or item.graphs for node in graph.node for item in node.attribute):
        return  # inside a loop or a branch more may be named
    domains = {"", "ai.onnx"} | {node.domain for part in (graph, *model.functions) for node in part.node}
    names = {name for node in graph.node for name in node.input} | {item.name for item in graph.output}
    imports = [item for item in model.opset_import if item.domain in domains]
    weights = [item for item in graph.initializer if item.name in names]
    for field, kept in ((model.opset_import, imports), (graph.initializer, weights), (graph.value_info, [])):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(copies)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_contract(path: Path, text: str) -> None:
    """Stores the contract under ``metadata_props``, replacing one that is there."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: text})
    path.write_bytes(model.SerializeToString(deterministic=True))


def operators(path: Path, source: Contract | None = None) -> dict[str, Counter[str]]:
    """``int8``, ``float``, ``other`` → operators by name, of the graph as onnxruntime runs it on this machine."""
    with temporary_folder() as folder:
        options = onnx_options(1)
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        nodes = list(onnx.load(options.optimized_model_filepath).graph.node)
    found: dict[str, Counter[str]] = {"int8": Counter(), "float": Counter(), "other": Counter()}
    for node in nodes:
        found[_kind(node.op_type)][node.op_type] += 1
    return found


def _kind(operator: str) -> str:
    if operator.startswith("QLinear") or operator in _QUANTIZED:
        return "int8"
    return "other" if operator in _MOVERS else "float"
