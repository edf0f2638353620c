"""An ONNX embedder of other origin in, checked ONNX files out; its graph is changed only where that is exact."""

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
from edgeface_runtime import Contract, ModelError, UsageError, load
from edgeface_runtime.metadata import file_format

LEAST_OPSET = 13
"""Before it, weights cannot have a scale for each channel."""


def export_onnx(
    source: Path, contract: Contract, folder: Path, *, formats: Iterable[str] = ("onnx",), **options: Any
) -> Export:
    """Quantizes, gates and stamps somebody else's ONNX embedder; it keeps its input and its batch.

    Args:
        source: an ONNX file with its weights inside.
        contract: what to feed it and what it gives.
        folder: where the files go; made if absent.
        formats: ``onnx`` alone.
        options: of ``build.export_parent``.

    Raises:
        UsageError: TFLite asked for, a name that no file can have, or the source would be written over.
        ModelError: no ONNX file, one that does not fit the contract, or one without anything to quantize.
    """
    if set(formats) != {"onnx"}:
        raise UsageError(f"{source}: no TFLite is made of an ONNX file of other origin; ask for --format onnx")
    if not contract.name or Path(contract.name).name != contract.name:
        raise UsageError(f"the contract's name {contract.name!r} cannot begin the name of a file")
    if any(source.resolve() == (folder / f"{contract.name}.{recipe.suffix}").resolve() for recipe in RECIPES):
        raise UsageError(f"{source}: would be written over; name another folder, or another name in the contract")
    model = load(source, contract=contract)
    if file_format(source.read_bytes()) != "onnx":
        raise UsageError(f"{source}: only ONNX files of other origin can be exported; a TFLite file is used as it is")
    if not any(node.op_type in ("Conv", "Gemm", "MatMul") for node in onnx.load(source).graph.node):
        raise ModelError(f"{source}: holds no convolution and no matrix product to quantize")

    def write_float(recipe: Recipe, path: Path) -> None:
        onnx.save(rewrite_prelu(_recent(source), recipe.prelu), path)

    stamped = replace(contract, parent_sha256=hashlib.sha256(source.read_bytes()).hexdigest())
    return export_parent(Parent(write_float, model.embed, lambda _: {}), stamped, folder, formats=["onnx"], **options)


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
