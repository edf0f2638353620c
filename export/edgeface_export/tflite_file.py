"""TFLite files: litert-torch, then its quantizer. Each writer takes an fp32 file, calibration faces, a path."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
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


def write_fp16(source: Path, _: NDArray[Any], path: Path) -> None:
    """float16 weights, turned back into float in the graph: half the size, float arithmetic."""
    from ai_edge_quantizer import qtyping

    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    with _quiet():
        from ai_edge_quantizer import quantizer

        job = quantizer.Quantizer(str(source))
        job.update_quantization_recipe(".*", "*", config, algorithm_key="float_casting")
        _write(job, path)


def write_int8(source: Path, faces: NDArray[Any], path: Path) -> None:
    """Static int8 of an fp32 file, ``static_wi8_ai8``: per channel, ranges from ``faces``.

    The file still takes uint8 pixels and gives float embeddings; the preprocessing stays float,
    and so does a global depthwise convolution, which is faster in float.
    """
    with _quiet():
        from ai_edge_quantizer import quantizer, recipe

        job = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
        for scope, operator in ((".*", "INPUT"), (".*", "OUTPUT"), ("Preprocess|GlobalDepthwise", "*")):
            job.update_quantization_recipe(scope, operator, algorithm_key="no_quantize")
        argument = _input_name(source)
        ranges = job.calibrate({"serving_default": [{argument: face[None]} for face in faces]}, num_threads=2)
        _write(job, path, ranges)


def write_dynamic(source: Path, _: NDArray[Any], path: Path) -> None:
    """Dynamic int8: weights per channel, each activation's range measured at run time."""
    _by_recipe("dynamic_wi8_afp32", source, path)


def write_weights(source: Path, _: NDArray[Any], path: Path) -> None:
    """Weights as int8 per channel, turned back into float in the graph."""
    _by_recipe("weight_only_wi8_afp32", source, path)


WRITERS: dict[str, Callable[[Path, NDArray[Any], Path], None]] = {
    "fp16": write_fp16,
    "int8": write_int8,
    "int8-dynamic": write_dynamic,
    "int8-weights": write_weights,
}


def _by_recipe(name: str, source: Path, path: Path) -> None:
    with _quiet():
        from ai_edge_quantizer import quantizer, recipe

        _write(quantizer.Quantizer(str(source), getattr(recipe, name)()), path)


def _write(job: Any, path: Path, ranges: Any = None) -> None:
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
    """int8, float and other operators; one that takes int8 weights as they are computes in int8."""
    schema, model = _read(path)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    graph = model.subgraphs[0]
    kinds: Counter[str] = Counter()
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        is_int8 = any(tensor.type == schema.TensorType.INT8 for tensor in tensors)
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
