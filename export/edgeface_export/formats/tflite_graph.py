"""The graph of a TFLite file as objects (tensorflow/lite/schema/schema.fbs): read, changed, written again."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.metadata import KEY

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT, TensorT

_OLD_CODES = 127
"""The most that the byte holds which operators were named by before there were more of them."""


def schema() -> ModuleType:
    """The classes of the objects; LiteRT's package has them."""
    return importlib.import_module("ai_edge_litert.schema_py_generated")


def read_graph(path: Path) -> ModelT:
    """The model with all its buffers, those too that lie behind the flatbuffer."""
    data = path.read_bytes()
    model = schema().ModelT.InitFromPackedBuf(data, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            # Packed again, they would point into nothing.
            buffer.offset = buffer.size = 0
    return model


def packed(model: ModelT) -> bytes:
    """A model as the bytes of a file."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def named_operators(model: ModelT) -> list[tuple[OperatorT, str, list[str]]]:
    """Each operator, its kind and the names of the tensors that it gives, in order."""
    names = {value: name for name, value in vars(schema().BuiltinOperator).items() if isinstance(value, int)}
    graph = model.subgraphs[0]
    codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    return [
        (operator, codes[operator.opcodeIndex], [graph.tensors[index].name.decode() for index in operator.outputs])
        for operator in graph.operators
    ]


def constant(model: ModelT, tensor: TensorT) -> NDArray[np.float32]:
    """The values of a float constant."""
    return np.array(model.buffers[tensor.buffer].data, np.uint8).view(np.float32).reshape(tensor.shape)


def add_constant(model: ModelT, like: TensorT, values: NDArray[np.float32]) -> int:
    """Appends a constant like another tensor, and gives its place."""
    added, buffer = copy.deepcopy(like), schema().BufferT()
    buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensors = model.subgraphs[0].tensors
    added.buffer, added.name = len(model.buffers) - 1, like.name + f"_{len(tensors)}".encode()
    tensors.append(added)
    return len(tensors) - 1


def replace_constant(model: ModelT, tensor: TensorT, values: NDArray[np.int8 | np.int32 | np.float32]) -> None:
    """Gives a constant other values, in a buffer of its own."""
    model.buffers.append(schema().BufferT())
    model.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
    tensor.buffer = len(model.buffers) - 1


def write_contract(path: Path, text: str) -> None:
    """Stores the contract as the metadata buffer ``edgeface``, replacing one that is there."""
    model = read_graph(path)
    model.metadata = model.metadata or []
    entry = next((item for item in model.metadata if item.name == KEY.encode()), None)
    if entry is None:
        entry = schema().MetadataT()
        entry.name, entry.buffer = KEY, len(model.buffers)
        model.metadata.append(entry)
        model.buffers.append(schema().BufferT())
    # The buffer before it is replaced, not left behind: the digest belongs to the one contract in the file.
    model.buffers[entry.buffer].data = np.frombuffer(text.encode(), np.uint8)
    path.write_bytes(packed(model))


def keep_output(source: Path, place: int, path: Path) -> None:
    """Writes a file whose one output is the source's output ``place``."""
    model = read_graph(source)
    graph = model.subgraphs[0]
    kept = graph.outputs[place]
    graph.outputs = np.array([kept], np.int32)
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == 0:
            signature.outputs = [entry for entry in signature.outputs if entry.tensorIndex == kept]
    path.write_bytes(packed(model))


def make_portable(path: Path) -> None:
    """Rewrites a finished file so that more engines than LiteRT read it; LiteRT computes the same bits.

    - Operators have their number in the old field too, which OpenVINO reads alone.
    - Bytes become numbers by DEQUANTIZE of scale 1, which TensorFlow Lite Micro has, in place of CAST, which it has not
      for bytes.
    - Tensors that no operator uses, left by the quantizer, are gone.
    """
    model = read_graph(path)
    _dequantize_pixels(model)
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode = min(max(code.builtinCode, code.deprecatedBuiltinCode), _OLD_CODES)
    _drop_unused(model)
    path.write_bytes(packed(model))


def _dequantize_pixels(model: ModelT) -> None:
    kinds, graph = schema(), model.subgraphs[0]
    for operator, name, _ in named_operators(model):
        source, target = (graph.tensors[index[0]] for index in (operator.inputs, operator.outputs))
        types = (kinds.TensorType.UINT8, kinds.TensorType.FLOAT32)
        if name != "CAST" or operator.inputs[0] not in graph.inputs or (source.type, target.type) != types:
            continue
        source.quantization = kinds.QuantizationParametersT()
        source.quantization.scale, source.quantization.zeroPoint = np.ones(1, np.float32), np.zeros(1, np.int64)
        operator.opcodeIndex = _code(model, kinds.BuiltinOperator.DEQUANTIZE)
        operator.builtinOptionsType = kinds.BuiltinOptions.DequantizeOptions
        operator.builtinOptions = kinds.DequantizeOptionsT()


def _code(model: ModelT, number: int) -> int:
    """The place of an operator in the model's list of kinds; appended where it is absent."""
    codes = model.operatorCodes
    for place, code in enumerate(codes):
        if code.builtinCode == number:
            return place
    codes.append(schema().OperatorCodeT())
    codes[-1].builtinCode, codes[-1].version = number, 1
    return len(codes) - 1


def _drop_unused(model: ModelT) -> None:
    """Tensors, operator kinds and buffers that nothing in the model names; what stays is counted anew."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    kept = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[place] for place in kept]
    for operator in operators:
        operator.opcodeIndex = kept.index(operator.opcodeIndex)
    for number, graph in enumerate(model.subgraphs):
        lists = [(graph, "inputs"), (graph, "outputs")]
        lists += [(item, name) for item in graph.operators for name in ("inputs", "outputs", "intermediates")]
        given = [(item, name, getattr(item, name)) for item, name in lists if getattr(item, name) is not None]
        used = sorted({int(place) for _, _, places in given for place in places if place >= 0})
        moved = {place: index for index, place in enumerate(used)} | {-1: -1}
        for item, name, places in given:
            setattr(item, name, np.array([moved[int(place)] for place in places], np.int32))
        for signature in model.signatureDefs or []:
            if signature.subgraphIndex == number:
                for entry in (*signature.inputs, *signature.outputs):
                    entry.tensorIndex = moved[entry.tensorIndex]
        graph.tensors = [graph.tensors[place] for place in used]
    holders = [tensor for graph in model.subgraphs for tensor in graph.tensors] + list(model.metadata or [])
    # By custom, buffer 0 is the empty one.
    places = sorted({0} | {holder.buffer for holder in holders} | set(map(int, model.metadataBuffer or [])))
    model.buffers = [model.buffers[place] for place in places]
    for holder in holders:
        holder.buffer = places.index(holder.buffer)
    if model.metadataBuffer is not None:
        model.metadataBuffer = [places.index(int(place)) for place in model.metadataBuffer]
