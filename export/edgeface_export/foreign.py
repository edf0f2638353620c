"""An embedder of other origin in, checked files with contracts out; its graph is changed only where that is exact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeface_export.build import Export, export_parent
from edgeface_export.one_file import Parent
from edgeface_export.onnx_file import OPSET
from edgeface_export.recipes import RECIPES, Recipe
from edgeface_export.tflite_file import operators
from edgeface_runtime import Contract, ModelError, UsageError, load
from edgeface_runtime.metadata import file_format

LEAST_OPSET = 13
"""Before it, weights cannot have a scale for each channel."""
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "tflite": ()}
"""Format → what writes the files."""


def export_file(
    source: Path,
    contract: Contract,
    folder: Path,
    *,
    formats: Iterable[str] = (),
    precisions: Iterable[str] = (),
    **options: Any,
) -> Export:
    """Checks and stamps somebody else's embedder; an ONNX file is quantized too. It keeps its input and its batch.

    Args:
        source: an ONNX file with its weights inside, or a TFLite file.
        contract: what to feed it and what it gives.
        folder: where the files go; made if absent.
        formats: the source's own, which is the default.
        precisions: of ``RECIPES``, by default fp32 and int8. Of a TFLite file: fp32 alone, a copy with its contract.
        options: of ``build.export_parent``.

    Raises:
        UsageError: another format or precision asked for, a name that no file can have, or the source would be
            written over.
        ModelError: no model file, one that does not fit the contract, or one without anything to quantize.
    """
    if not contract.name or Path(contract.name).name != contract.name:
        raise UsageError(f"the contract's name {contract.name!r} cannot begin the name of a file")
    if any(source.resolve() == (folder / f"{contract.name}.{recipe.suffix}").resolve() for recipe in RECIPES):
        raise UsageError(f"{source}: would be written over; name another folder, or another name in the contract")
    model = load(source, contract=contract)
    kind = file_format(source.read_bytes())
    assert kind is not None  # it has been opened
    if set(formats) - {kind}:
        raise UsageError(f"{source}: of a file of other origin no other format is made; ask for --format {kind}")
    precisions = list(precisions) or (["fp32", "int8"] if kind == "onnx" else ["fp32"])
    if kind == "tflite":
        _require_float(source, precisions)
    elif not any(node.op_type in ("Conv", "Gemm", "MatMul") for node in onnx.load(source).graph.node):
        raise ModelError(f"{source}: holds no convolution and no matrix product to quantize")

    def write_float(recipe: Recipe, path: Path) -> None:
        if kind == "onnx":
            onnx.save(rewrite_prelu(_recent(source), recipe.prelu), path)
        else:
            path.write_bytes(source.read_bytes())

    stamped = replace(contract, parent_sha256=hashlib.sha256(source.read_bytes()).hexdigest())
    parent = Parent(write_float, model.embed, lambda _: {}, PACKAGES)
    return export_parent(parent, stamped, folder, formats=[kind], precisions=precisions, **options)


def _require_float(source: Path, precisions: list[str]) -> None:
    if precisions != ["fp32"]:
        raise UsageError(f"{source}: a TFLite file of other origin only gets its contract; ask for --precision fp32")
    if quantized := operators(source)["int8"].total():
        raise ModelError(f"{source}: {quantized} of its operators compute in int8; only float files can be taken in")


def _recent(source: Path) -> onnx.ModelProto:
    """The model at an opset that quantizers take, every node named: they tell nodes apart by name."""
    model = onnx.load(source)
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < LEAST_OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def rewrite_prelu(model: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """Writes each PRelu of constant slope in a form that onnxruntime has fast kernels for; exact (rewrite.py).

    Slopes above 1 take relu(x) − a·relu(−x). A slope for each channel is needed for ``depthwise``; others
    take a·x + relu((1 − a)·x).

    Args:
        model: changed in place.
        form: ``affine`` or ``depthwise``.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    # Old files list their constants as inputs too; one that is no longer there would be asked of the caller.
    inputs = [item for item in graph.input if item.name not in constants]
    constants |= {
        node.output[0]: item.t
        for node in graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.name == "value"
    }
    nodes = []
    for index, node in enumerate(graph.node):
        slopes = constants.get(node.input[1]) if node.op_type == "PRelu" else None
        if slopes is None or slopes.data_type != onnx.TensorProto.FLOAT:
            nodes.append(node)
            continue
        steps, tensors = _pieces(node, onnx.numpy_helper.to_array(slopes), form, f"prelu_{index}")
        nodes += steps
        graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in tensors.items())
    used = {name for node in nodes for name in node.input}
    weights = [item for item in graph.initializer if item.name in used]
    for field, kept in ((graph.node, nodes), (graph.input, inputs), (graph.initializer, weights)):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(copies)
    return model


def _pieces(
    node: onnx.NodeProto, slopes: NDArray[np.float32], form: str, stem: str
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.float32]]]:
    x, y = node.input[0], node.output[0]
    a, b = f"{stem}_a", f"{stem}_b"

    def make(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return onnx.helper.make_node(kind, inputs, [output], output, **attributes)

    if (slopes > 1).any():
        steps = [
            make("Relu", [x], f"{stem}_up"),
            make("Neg", [x], f"{stem}_neg"),
            make("Relu", [f"{stem}_neg"], f"{stem}_down"),
            make("Mul", [f"{stem}_down", a], f"{stem}_scaled"),
            make("Sub", [f"{stem}_up", f"{stem}_scaled"], y),
        ]
        return steps, {a: slopes}
    if form == "depthwise" and slopes.ndim == 3 and slopes.size == slopes.shape[0] > 1:
        channels, weights = len(slopes), slopes.reshape(-1, 1, 1, 1)
        products = [make("Conv", [x, name], f"{name}_x", group=channels, kernel_shape=[1, 1]) for name in (a, b)]
    else:
        weights = slopes
        products = [make("Mul", [x, name], f"{name}_x") for name in (a, b)]
    steps = [*products, make("Relu", [f"{b}_x"], f"{stem}_up"), make("Add", [f"{a}_x", f"{stem}_up"], y)]
    return steps, {a: weights, b: 1 - weights}
