"""Third-party embedders as source models; a graph is changed only where that is exact."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import onnx

from edgeface_export.formats import onnx_file, tflite_file
from edgeface_export.onnx_prelu import fold_prelu, rewrite_prelu
from edgeface_export.options import Recipe
from edgeface_export.source_model import SourceModel
from edgeface_runtime import Contract, ModelError, load
from edgeface_runtime.metadata import file_format

_QUANTIZED = {"QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm"}
_QUANTIZED |= {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"}
MIN_OPSET = 13
"""Before it, weights cannot have a scale for each channel."""


def third_party_model(path: Path, contract: Contract) -> SourceModel:
    """An embedder that somebody else made. It keeps its input and its batch.

    Args:
        path: an ONNX file, which is quantized too, its weights inside or beside it; or a float TFLite file or one of
            either format that is quantized already, which only get their contract.
        contract: what to feed it and what it gives.

    Raises:
        UsageError: the contract's name cannot be a file's.
        ModelError: no model file, one that does not fit the contract, or one without anything to quantize.
    """
    model = load(path, contract=contract)
    with path.open("rb") as file:
        kind = file_format(file.read(512))
    is_onnx = kind == "onnx"
    graph = onnx.load(path) if is_onnx else None
    operators = {node.op_type for node in graph.graph.node} if graph else set()
    is_quantized = bool(_QUANTIZED & operators) if graph else bool(tflite_file.operators(path)["int8"].total())
    if graph and not is_quantized and not operators & set(onnx_file.WEIGHTED):
        raise ModelError(f"{path}: holds no convolution and no matrix product to quantize")

    def float_file(recipe: Recipe, folder: Path) -> Path:
        written = folder / f"{recipe.prelu}.{kind}"
        if written.exists():  # recipes share it
            return written
        if graph is None:
            tflite_file.keep_output(path, contract.embedding.output, written)
        else:
            onnx.save(
                _plain(graph if is_quantized else rewrite_prelu(fold_prelu(_recent(graph)), recipe.prelu), contract),
                written,
            )
        return written

    precisions = ("int8",) if is_quantized else ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights")
    limits = "a third-party model stays in its format"
    if is_quantized:
        limits = f"{limits}; it is quantized already, and is taken as it is"
    elif not is_onnx:
        precisions, limits = ("fp32",), f"{limits}, and a TFLite file only gets its contract"
    return SourceModel(
        contract=replace(
            contract,
            parent_sha256=_digest(path, graph),
            embedding=replace(contract.embedding, output=0),
        ),
        formats=(kind,),
        precisions=precisions,
        default_precisions=precisions if len(precisions) == 1 else ("fp32", "int8"),
        limits=limits,
        given="" if not is_quantized else "dynamic_as_given" if "DynamicQuantizeLinear" in operators else "as_given",
        path=path,
        float_file=float_file,
        embed=model.embed,
        cost=lambda _: {},
        packages={"onnx": ("onnx", "onnxruntime"), "tflite": ()},
    )


def _digest(path: Path, graph: onnx.ModelProto | None) -> str:
    """SHA-256 of the file, and of the weights where they lie beside it."""
    digest = hashlib.sha256(path.read_bytes())
    if graph is not None:
        weights = {item.name: item.raw_data for item in graph.graph.initializer}
        for item in onnx.load(path, load_external_data=False).graph.initializer:
            if item.data_location == onnx.TensorProto.EXTERNAL:
                digest.update(weights[item.name])
    return digest.hexdigest()


def _plain(given: onnx.ModelProto, contract: Contract) -> onnx.ModelProto:
    """The model with one output (N, D), the embedding, and its batch in its shapes, as readers expect them."""
    model = onnx.ModelProto()
    model.CopyFrom(given)
    graph, length = model.graph, contract.embedding.length
    kept = graph.output[contract.embedding.output]
    shape = [side.dim_value or None for side in kept.type.tensor_type.shape.dim]
    name, batch = kept.name, contract.input.batch
    if len(shape) != 2:  # N×D×1×1, or not said
        graph.node.append(onnx.helper.make_node("Flatten", [name], [f"{name}_row"], f"{name}_row"))
        name = f"{name}_row"
    if batch:
        entry = next(item for item in graph.input if item.name not in {held.name for held in graph.initializer})
        entry.type.tensor_type.shape.dim[0].dim_value = batch
    sides = [batch or (shape[0] if shape else None), length]
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(name, kept.type.tensor_type.elem_type, sides))
    return model


def _recent(given: onnx.ModelProto) -> onnx.ModelProto:
    """The model at an opset that quantizers take, every node named: they tell nodes apart by name."""
    model = onnx.ModelProto()
    model.CopyFrom(given)
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        model = onnx.version_converter.convert_version(model, onnx_file.OPSET)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model
