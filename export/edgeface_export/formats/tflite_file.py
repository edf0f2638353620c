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
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface_export.formats.protocols import Inputs, Writer
from edgeface_export.quantize.ranges import Range, rounded
from edgeface_runtime import Contract
from edgeface_runtime.engines import muted_stderr
from edgeface_runtime.metadata import KEY

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, TensorT
    from ai_edge_quantizer.quantizer import Quantizer

_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"}
_CHANNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
"""Convolution → the axis of its weights that its channels lie on."""
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
    for name, outputs in _operators(prepared):
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
    given = {output for _, outputs in _operators(prepared) for output in outputs}
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

    schema, model = _read(prepared)
    graph, twins = model.subgraphs[0], dict[str, str]()
    for operator, (name, outputs) in zip(list(graph.operators), _operators(prepared), strict=True):
        if name not in _CHANNELS or re.search(_FLOAT, "".join(f"{output};" for output in outputs)):
            continue
        weights, bias = (_values(model, graph.tensors[index]) for index in operator.inputs[1:3])
        twin, output = copy.deepcopy(operator), copy.deepcopy(graph.tensors[operator.outputs[0]])
        twin.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.NONE
        constants = (rounded(weights, _CHANNELS[name]) - weights, np.zeros_like(bias))
        likes = (graph.tensors[index] for index in operator.inputs[1:3])
        places = [_add(schema, model, like, values) for like, values in zip(likes, constants, strict=True)]
        twin.inputs = np.array([operator.inputs[0], *places], np.int32)
        output.name, output.buffer = f"{outputs[0]}_rounding", 0
        graph.tensors.append(output)
        twin.outputs = np.array([len(graph.tensors) - 1], np.int32)
        graph.operators.append(twin)
        graph.outputs = np.append(graph.outputs, twin.outputs[0])
        twins[output.name] = outputs[0]
    with muted_stderr():
        interpreter = Interpreter(model_content=_packed(prepared.read_bytes(), model), num_threads=1)
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
    schema, model = _read(prepared)
    graph = model.subgraphs[0]
    for operator, (_, outputs) in zip(graph.operators, _operators(prepared), strict=True):
        if (shift := shifts.get(outputs[0])) is not None:
            bias = graph.tensors[operator.inputs[2]]
            place = _add(schema, model, bias, _values(model, bias) - shift)
            operator.inputs = np.array([*operator.inputs[:2], place], np.int32)
    path.write_bytes(_packed(prepared.read_bytes(), model))


def _values(model: ModelT, tensor: TensorT) -> NDArray[np.float32]:
    return np.array(model.buffers[tensor.buffer].data, np.uint8).view(np.float32).reshape(tensor.shape)


def _add(schema: ModuleType, model: ModelT, like: TensorT, values: NDArray[np.float32]) -> int:
    """Appends a constant like another tensor, and gives its place."""
    added, buffer = copy.deepcopy(like), schema.BufferT()
    buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensors = model.subgraphs[0].tensors
    added.buffer, added.name = len(model.buffers) - 1, like.name + f"_{len(tensors)}".encode()
    tensors.append(added)
    return len(tensors) - 1


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


def write_dynamic(source: Path, path: Path) -> None:
    """Dynamic int8: weights per channel, each activation's range measured at run time."""
    _by_recipe("dynamic_wi8_afp32", source, path)


def write_weights(source: Path, path: Path) -> None:
    """Weights as int8 per channel, turned back into float in the graph."""
    _by_recipe("weight_only_wi8_afp32", source, path)


WRITERS: dict[str, Writer] = {
    "fp32": shutil.copyfile,
    "fp16": write_fp16,
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
    schema, model = _read(path)
    graph = model.subgraphs[0]
    for operator, (name, _) in zip(graph.operators, _operators(path), strict=True):
        if name == "RESHAPE":
            target = model.buffers[graph.tensors[operator.inputs[1]].buffer]
            sides = np.array(target.data, np.uint8).view(np.int32).copy()
            sides[0] = -1
            target.data = sides.view(np.uint8)
            operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.NONE, None
    _pack(path, model)


def write_contract(path: Path, text: str) -> None:
    """Stores the contract as the metadata buffer ``edgeface``, replacing one that is there."""
    schema, model = _read(path)
    model.metadata = model.metadata or []
    entry = next((item for item in model.metadata if item.name == KEY.encode()), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = KEY, len(model.buffers)
        model.metadata.append(entry)
        model.buffers.append(schema.BufferT())
    # The buffer before it is replaced, not left behind: the digest belongs to the one contract in the file.
    model.buffers[entry.buffer].data = np.frombuffer(text.encode(), np.uint8)
    _pack(path, model)


def _pack(path: Path, model: ModelT) -> None:
    """Writes a model over the file that it was read from."""
    path.write_bytes(_packed(path.read_bytes(), model))


def _packed(data: bytes, model: ModelT) -> bytes:
    """A model as the bytes of a file; ``data`` is what it was read from."""
    import flatbuffers

    for buffer in model.buffers:
        # Large buffers lie behind the flatbuffer; packed again, they would point into nothing.
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operators(path: Path, source: Contract | None = None) -> dict[str, Counter[str]]:
    """``int8``, ``float``, ``other`` → operators by name; one that takes int8 weights as they are computes in int8."""
    schema, model = _read(path)
    graph = model.subgraphs[0]
    found: dict[str, Counter[str]] = {"int8": Counter(), "float": Counter(), "other": Counter()}
    for operator, (name, _) in zip(graph.operators, _operators(path), strict=True):
        tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        is_int8 = any(tensor.type == schema.TensorType.INT8 for tensor in tensors)
        found["other" if name in _MOVERS else "int8" if is_int8 else "float"][name] += 1
    return found


def _operators(path: Path) -> list[tuple[str, list[str]]]:
    """Each operator's name and the tensors that it gives, in order."""
    schema, model = _read(path)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    graph, codes = model.subgraphs[0], model.operatorCodes
    numbers = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in codes]
    return [
        (names[numbers[operator.opcodeIndex]], [graph.tensors[index].name.decode() for index in operator.outputs])
        for operator in graph.operators
    ]


def _read(path: Path) -> tuple[ModuleType, ModelT]:
    from ai_edge_litert import schema_py_generated as schema

    return schema, schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


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
