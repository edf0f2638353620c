"""TFLite files: litert-torch, then its quantizer. Each writer takes an fp32 file and a path."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface_export.formats.protocols import Inputs, Writer
from edgeface_export.formats.tflite_graph import (
    add_constant,
    constant,
    named_operators,
    packed,
    read_graph,
    replace_constant,
    schema,
)
from edgeface_export.formats.tflite_graph import keep_output as keep_output
from edgeface_export.formats.tflite_graph import make_portable as make_portable
from edgeface_export.formats.tflite_graph import write_contract as write_contract
from edgeface_export.quantize.ranges import BIAS_LIMIT, Range, refuse_clipped, rounded
from edgeface_runtime import Contract
from edgeface_runtime.engines import muted_stderr

if TYPE_CHECKING:
    from ai_edge_quantizer.quantizer import Quantizer

_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"}
_CHANNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
"""Convolution → the axis of its weights that its channels lie on."""
_AXES = _CHANNELS | {"FULLY_CONNECTED": 0}
_FLOAT = "Preprocess|GlobalDepthwise"
"""Scopes that stay float: defining the input's scale, and slower in int8 (rewrite.py)."""
_MOVERS = {"QUANTIZE", "DEQUANTIZE", "CAST", "TRANSPOSE", "RESHAPE", "SHAPE", "STRIDED_SLICE", "PACK"}


def write_float(module: nn.Module, size: int, path: Path) -> None:
    """fp32 TFLite: (1, S, S, 3) uint8 → (1, D) float; an interpreter may resize its input to any batch."""
    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with quiet():
        import litert_torch

        litert_torch.convert(module, (example,)).export(str(path))
    _free_batch(path)


def write_fp16(source: Path, path: Path) -> None:
    """float16 weights, turned back into float in the graph: half the size, float arithmetic."""
    from ai_edge_quantizer import qtyping

    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    with quiet():
        from ai_edge_quantizer import quantizer

        job = quantizer.Quantizer(str(source))
        job.update_quantization_recipe(".*", "*", config, algorithm_key="float_casting")
        _write(job, path)


def prepare(source: Path, _: Path) -> Path:
    """The float file is fit for the static quantizer as it is."""
    return source


def layers(prepared: Path) -> dict[str, tuple[str, ...]]:
    """Name → scopes of operators: a convolution or matrix product and what follows it up to the next one."""
    found: dict[str, tuple[str, ...]] = {}
    for _, name, outputs in named_operators(read_graph(prepared)):
        scope = "".join(f"{output};" for output in outputs)
        if name in _WEIGHTED and not re.search(_FLOAT, scope):
            found[outputs[0]] = ()
        if found:
            found[next(reversed(found))] += (scope,)
    return found


def observe(prepared: Path, inputs: Inputs) -> Iterator[dict[str, NDArray[np.float32]]]:
    """For each of the (N, S, S, 3) inputs every tensor of numbers that an operator gives; int8 ones in their units."""
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        # It warns that this takes memory; so it does.
        warnings.simplefilter("ignore", UserWarning)
        with muted_stderr():
            interpreter = Interpreter(model_path=str(prepared), num_threads=1, experimental_preserve_all_tensors=True)
            interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]["index"]
    given = {output for _, _, outputs in named_operators(read_graph(prepared)) for output in outputs}
    places = {
        item["name"]: item
        for item in interpreter.get_tensor_details()
        if item["name"] in given and item["dtype"] in (np.float32, np.int8)
    }
    for face in inputs:
        interpreter.set_tensor(entry, face[None])
        interpreter.invoke()
        yield {
            name: _real(interpreter.get_tensor(item["index"]), *item["quantization"]) for name, item in places.items()
        }


def _real(values: NDArray[np.float32 | np.int8], scale: float, zero: int) -> NDArray[np.float32]:
    if values.dtype == np.int8:
        values = ((values.astype(np.float32) - zero) * scale).astype(np.float32)
    return np.asarray(values, np.float32)


def rounding_shifts(prepared: Path, inputs: Inputs) -> dict[str, NDArray[np.float32]]:
    """Layer → (C,) what its channels gain on average over the (N, …) inputs when its weights alone are rounded.

    Each convolution gets a twin beside it, of what rounding adds to the weights.
    """
    from ai_edge_litert.interpreter import Interpreter

    model = read_graph(prepared)
    graph, twins = model.subgraphs[0], dict[str, str]()
    for operator, name, outputs in named_operators(model):
        if name not in _CHANNELS or re.search(_FLOAT, "".join(f"{output};" for output in outputs)):
            continue
        weights, bias = (constant(model, graph.tensors[index]) for index in operator.inputs[1:3])
        twin, output = copy.deepcopy(operator), copy.deepcopy(graph.tensors[operator.outputs[0]])
        twin.builtinOptions.fusedActivationFunction = schema().ActivationFunctionType.NONE
        constants = (rounded(weights, _CHANNELS[name]) - weights, np.zeros_like(bias))
        likes = (graph.tensors[index] for index in operator.inputs[1:3])
        places = [add_constant(model, like, values) for like, values in zip(likes, constants, strict=True)]
        twin.inputs = np.array([operator.inputs[0], *places], np.int32)
        output.name, output.buffer = f"{outputs[0]}_rounding", 0
        graph.tensors.append(output)
        twin.outputs = np.array([len(graph.tensors) - 1], np.int32)
        graph.operators.append(twin)
        graph.outputs = np.append(graph.outputs, twin.outputs[0])
        twins[output.name] = outputs[0]
    with muted_stderr():
        interpreter = Interpreter(model_content=packed(model), num_threads=1)
        interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]["index"]
    means = {twins[item["name"]]: item["index"] for item in interpreter.get_output_details() if item["name"] in twins}
    sums = dict.fromkeys(means, np.float32(0))
    for face in inputs:
        interpreter.set_tensor(entry, face[None])
        interpreter.invoke()
        for layer, place in means.items():
            sums[layer] = sums[layer] + interpreter.get_tensor(place).mean(axis=(0, 1, 2))
    return {layer: np.asarray(total / len(inputs)) for layer, total in sums.items()}


def shift_biases(prepared: Path, shifts: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    """Writes the float file with ``shifts`` taken from the biases of its layers; each gets a bias of its own."""
    model = read_graph(prepared)
    for operator, _, outputs in named_operators(model):
        if (shift := shifts.get(outputs[0])) is not None:
            bias = model.subgraphs[0].tensors[operator.inputs[2]]
            place = add_constant(model, bias, constant(model, bias) - shift)
            operator.inputs = np.array([*operator.inputs[:2], place], np.int32)
    path.write_bytes(packed(model))


def write_int8(prepared: Path, ranges: Mapping[str, Range], path: Path, excluded: Collection[str] = ()) -> None:
    """Static int8, ``static_wi8_ai8``: weights per channel, activations int8.

    The file still takes uint8 pixels and gives float embeddings; the preprocessing stays float,
    and so does a global depthwise convolution, which is faster in float.

    Args:
        prepared: a float file.
        ranges: tensor → its range.
        path: where to.
        excluded: scopes of operators that stay float.
    """
    exact = "|".join(re.escape(scope) for scope in excluded)
    scopes = [(".*", "INPUT"), (".*", "OUTPUT"), (_FLOAT, "*"), *([(f"^(?:{exact})$", "*")] if excluded else [])]
    known = {name: {"min": np.array([low]), "max": np.array([high])} for name, (low, high) in ranges.items()}
    with quiet():
        from ai_edge_quantizer import quantizer, recipe

        job = quantizer.Quantizer(str(prepared), recipe.static_wi8_ai8())
        for scope, operator in scopes:
            job.update_quantization_recipe(scope, operator, algorithm_key="no_quantize")
        _write(job, path, known)
    _lift_scales(prepared, path)


def _lift_scales(prepared: Path, path: Path) -> None:
    """Gives channels of nearly no weight a scale that their bias fits 32 bits with; the quantizer clips it silently.

    A bias has the scale of its channel's weights times that of the input.
    """
    source, model, int32 = read_graph(prepared), read_graph(path), schema().TensorType.INT32
    given = {outputs[0]: operator for operator, _, outputs in named_operators(source)}
    floats, tensors = source.subgraphs[0].tensors, model.subgraphs[0].tensors
    for operator, name, outputs in named_operators(model):
        if name not in _AXES or len(operator.inputs) < 3 or tensors[operator.inputs[2]].type != int32:
            continue
        weights, bias = (tensors[index] for index in operator.inputs[1:3])
        real, wanted = (constant(source, floats[index]) for index in given[outputs[0]].inputs[1:3])
        entry = np.float32(tensors[operator.inputs[0]].quantization.scale[0])
        scales = np.asarray(weights.quantization.scale, np.float32)
        lifted = np.maximum(scales, np.abs(wanted) / (entry * np.float32(BIAS_LIMIT)))
        if (lifted == scales).all():
            # Were it clipped all the same, the face would be another and nothing would say so.
            refuse_clipped(outputs[0], np.array(model.buffers[bias.buffer].data, np.uint8).view(np.int32))
            continue
        sides = [-1 if axis == _AXES[name] else 1 for axis in range(real.ndim)]
        numbers = np.clip(np.round(real / lifted.reshape(sides)), -127, 127).astype(np.int8)
        replace_constant(model, weights, numbers)
        replace_constant(model, bias, np.round(wanted / (entry * lifted)).astype(np.int32))
        weights.quantization.scale, bias.quantization.scale = lifted, lifted * entry
    path.write_bytes(packed(model))


def write_dynamic(source: Path, path: Path) -> None:
    """Dynamic int8: weights per channel, each activation's range measured at run time."""
    _by_recipe("dynamic_wi8_afp32", source, path)


def write_weights(source: Path, path: Path) -> None:
    """Weights as int8 per channel, turned back into float in the graph."""
    _by_recipe("weight_only_wi8_afp32", source, path)


WRITERS: dict[str, Writer] = {
    "fp32": shutil.copyfile,
    "fp16": write_fp16,
    "int8": shutil.copyfile,  # of a file that is quantized already
    "int8-dynamic": write_dynamic,
    "int8-weights": write_weights,
}


def _by_recipe(name: str, source: Path, path: Path) -> None:
    with quiet():
        from ai_edge_quantizer import quantizer, recipe

        _write(quantizer.Quantizer(str(source), getattr(recipe, name)()), path)


def _write(job: Quantizer, path: Path, ranges: dict[str, dict[str, NDArray[np.float64]]] | None = None) -> None:
    job.quantize(ranges, enable_progress_report=False).export_model(str(path), overwrite=True)


def _free_batch(path: Path) -> None:
    """Lets RESHAPE keep whatever batch comes in: all else follows the input's shape when that is resized.

    The converter itself traces no free batch: it stops at the first operator that broadcasts.
    """
    model = read_graph(path)
    for operator, name, _ in named_operators(model):
        if name == "RESHAPE":
            target = model.buffers[model.subgraphs[0].tensors[operator.inputs[1]].buffer]
            sides = np.array(target.data, np.uint8).view(np.int32).copy()
            sides[0] = -1
            target.data = sides.view(np.uint8)
            operator.builtinOptionsType, operator.builtinOptions = schema().BuiltinOptions.NONE, None
    path.write_bytes(packed(model))


def operators(path: Path, source: Contract | None = None) -> dict[str, Counter[str]]:
    """``int8``, ``float``, ``other`` → operators by name; one that takes int8 weights as they are computes in int8."""
    model = read_graph(path)
    tensors, int8 = model.subgraphs[0].tensors, schema().TensorType.INT8
    found: dict[str, Counter[str]] = {"int8": Counter(), "float": Counter(), "other": Counter()}
    for operator, name, _ in named_operators(model):
        is_int8 = any(tensors[index].type == int8 for index in (*operator.inputs, *operator.outputs) if index >= 0)
        found["other" if name in _MOVERS else "int8" if is_int8 else "float"][name] += 1
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The converter and its compiler narrate on every channel; what they raise still comes through."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), muted_stderr():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
