"""Rewrites model files so that more engines read them, and faster; weights, contract and every bit of the answers stay.

    python -m reproduce.portable_models                      # the shipped models
    python -m reproduce.portable_models runs/mine/*.int8.onnx

What an export writes is of that form already. A gallery names its model by the checkpoint that the file was made from
and by how it was made, so that it opens with the rewritten file as with the one before it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeface_export.formats import FORMATS, tflite_graph
from edgeface_runtime import ModelError, load
from edgeface_runtime.contract import read_contract, seal
from edgeface_runtime.metadata import file_format
from edgeface_runtime.model import probe_images, shipped


def rewrite(path: Path) -> tuple[int, int]:
    """Rewrites one file in place; its bytes before and after.

    Raises:
        ModelError: the rewritten file would answer the golden probes in other bits; the file is left as it was.
    """
    contract, kind = read_contract(path), FORMATS[file_format(path.read_bytes())]
    with TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / path.name
        shutil.copyfile(path, written)
        widen(written, contract.input.size)
        kind.make_portable(written)
        kind.write_contract(written, contract.to_json())
        seal(written)
        probes = probe_images(contract.input.size)
        if not np.array_equal(load(path).embed(probes), load(written).embed(probes)):
            raise ModelError(f"{path}: would answer in other bits; left as it is")
        sizes = path.stat().st_size, written.stat().st_size
        written.replace(path)
    return sizes


def widen(path: Path, size: int) -> None:
    """Writes the mean and the scale of each channel as a row of pixels: engines broadcast three numbers one by one.

    Args:
        path: of a file whose first two operators with constants are those of the preprocessing.
        size: pixels of a row.
    """

    def row(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.broadcast_to(values, (1, 1, size, 3)))

    if path.suffix == ".onnx":
        model = onnx.load(path)
        for item in model.graph.initializer:
            if list(item.dims) == [1, 1, 1, 3]:
                item.CopyFrom(onnx.numpy_helper.from_array(row(onnx.numpy_helper.to_array(item)), item.name))
        onnx.save(model, path)
        return
    model = tflite_graph.read_graph(path)
    for tensor in model.subgraphs[0].tensors:
        if list(tensor.shape) == [1, 1, 1, 3] and model.buffers[tensor.buffer].data is not None:
            values = row(tflite_graph.constant(model, tensor))
            tensor.shape = np.array(values.shape, np.int32)
            tflite_graph.replace_constant(model, tensor, values)
    path.write_bytes(tflite_graph.packed(model))


def main() -> int:
    """Prints what became of each file; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="files of an export; none: the shipped models")
    for path in parser.parse_args().files or [model.file for model in shipped()]:
        before, after = rewrite(path)
        print(f"{path.name}: {before:,} → {after:,} bytes, the same bits")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
