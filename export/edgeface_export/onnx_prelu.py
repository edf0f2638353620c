"""PRelu in third-party ONNX graphs: found where a converter spread it out, written as onnxruntime runs it fastest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray


def fold_prelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Makes one PRelu of each that TensorFlow's converters wrote as five operators; exact.

    relu(x) + c·relu(−x) has slope −c, relu(x) + c·(x − |x|) slope 2·c, for a constant c in any number of factors.

    Args:
        model: changed in place.
    """
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    constants |= {
        node.output[0]: onnx.numpy_helper.to_array(item.t)
        for node in graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.name == "value"
    }

    def kind(name: str) -> str:
        return made[name].op_type if name in made else ""

    def scaled(name: str) -> tuple[str, NDArray[np.float32]]:
        """What a tensor is a constant multiple of, and the constant."""
        factor = np.ones((), np.float32)
        while kind(name) in ("Mul", "Neg"):
            given = list(made[name].input)
            fixed = [item for item in given if item in constants]
            if kind(name) == "Mul" and len(fixed) != 1:
                break
            factor = np.asarray(factor * (constants[fixed[0]] if fixed else -1), np.float32)
            name = next(item for item in given if item not in constants)
        return name, factor

    def slope(x: str, name: str) -> NDArray[np.float32] | None:
        core, factor = scaled(name)
        if kind(core) == "Relu":
            below, sign = scaled(made[core].input[0])
            return -factor if below == x and sign.size == 1 and sign.item() == -1 else None
        if kind(core) == "Sub" and made[core].input[0] == x and kind(made[core].input[1]) == "Abs":
            return 2 * factor if made[made[core].input[1]].input[0] == x else None
        return None

    for node in graph.node:
        if node.op_type not in ("Add", "Sub") or len(node.input) != 2:
            continue
        sides = [tuple(node.input), tuple(reversed(node.input))][: 2 if node.op_type == "Add" else 1]
        for above, below in sides:
            x = made[above].input[0] if kind(above) == "Relu" else ""
            found = slope(x, below) if x else None
            if found is None:
                continue
            slopes = found if node.op_type == "Add" else -found
            slopes = slopes.reshape(slopes.shape[1:]) if slopes.ndim == 4 and len(slopes) == 1 else slopes
            graph.initializer.append(onnx.numpy_helper.from_array(slopes, f"{node.output[0]}_slope"))
            node.op_type = "PRelu"
            node.input[:] = [x, f"{node.output[0]}_slope"]
            break
    _drop_unused(graph)
    return model


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes that give nothing to the outputs."""
    while True:
        used = {name for node in graph.node for name in node.input} | {item.name for item in graph.output}
        spare = [node for node in graph.node if not used & set(node.output)]
        if not spare:
            return
        for node in spare:
            graph.node.remove(node)


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

    def make(kind: str, inputs: list[str], output: str, **attributes: int | Sequence[int]) -> onnx.NodeProto:
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
