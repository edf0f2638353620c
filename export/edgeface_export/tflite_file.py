"""TFLite files: litert-torch, then its quantizer."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface_runtime.engines import muted_stderr
from edgeface_runtime.metadata import KEY

_MOVERS = {"QUANTIZE", "DEQUANTIZE", "CAST", "TRANSPOSE", "RESHAPE", "SHAPE", "STRIDED_SLICE", "PACK"}


def write_float(module: nn.Module, size: int, path: Path) -> None:
    """fp32 TFLite with batch 1: (1, S, S, 3) uint8 → (1, D) float."""
    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with _quiet():
        import litert_torch

        litert_torch.convert(module, (example,)).export(str(path))


def write_int8(source: Path, faces: NDArray[np.uint8], path: Path) -> None:
    """Static int8 of an fp32 file, ``static_wi8_ai8``: per channel, ranges from ``faces``.

    The file still takes uint8 pixels and gives float embeddings; the preprocessing stays float.
    """
    with _quiet():
        from ai_edge_quantizer import quantizer, recipe

        job = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
        for scope, operator in ((".*", "INPUT"), (".*", "OUTPUT"), ("Preprocess", "*")):
            job.update_quantization_recipe(scope, operator, algorithm_key="no_quantize")
        argument = _input_name(source)
        ranges = job.calibrate({"serving_default": [{argument: face[None]} for face in faces]}, num_threads=2)
        job.quantize(ranges, enable_progress_report=False).export_model(str(path), overwrite=True)


def write_contract(path: Path, text: str) -> None:
    """Stores the contract as the metadata buffer ``edgeface``, replacing one that is there."""
    import flatbuffers

    schema, model = _read(path)
    data = path.read_bytes()
    model.metadata = model.metadata or []
    entry = next((item for item in model.metadata if item.name == KEY.encode()), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = KEY, len(model.buffers)
        model.metadata.append(entry)
        model.buffers.append(schema.BufferT())
    for buffer in model.buffers:
        # Large buffers lie behind the flatbuffer; packed again, they would point into nothing.
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    # The buffer before it is replaced, not left behind: the digest belongs to the one contract in the file.
    model.buffers[entry.buffer].data = np.frombuffer(text.encode(), np.uint8)
    builder = flatbuffers.Builder(len(data) + len(text))
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def count_operators(path: Path) -> dict[str, int]:
    """int8, float and other operators by the type of what they give."""
    schema, model = _read(path)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    graph = model.subgraphs[0]
    kinds: Counter[str] = Counter()
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        is_int8 = graph.tensors[operator.outputs[0]].type == schema.TensorType.INT8
        kinds["other" if name in _MOVERS else "int8" if is_int8 else "float"] += 1
    return {"int8": kinds["int8"], "float": kinds["float"], "other": kinds["other"]}


def _read(path: Path) -> tuple[Any, Any]:
    from ai_edge_litert import schema_py_generated as schema

    return schema, schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def _input_name(path: Path) -> str:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner("serving_default")
    return str(next(iter(runner.get_input_details())))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter and its compiler narrate on every channel; what they raise still comes through."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), muted_stderr():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
