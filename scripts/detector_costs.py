"""Counts the costs of the shipped detectors' nets, for estimates of the whole way from a photo to names.

python -m scripts.detector_costs [--check]

writes devices/edgeface_devices/estimate/facts/detectors.csv: for each net that a named detector opens its costs at one
input, from the ONNX file's own graph. Needs the extra `export`.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from math import prod
from pathlib import Path
from unittest.mock import patch

import onnx
from onnx import shape_inference

from edgeface_devices.estimate.evidence import FOLDER, Costs
from edgeface_runtime.detection import find
from edgeface_runtime.engines import Engine, open_engine

TARGET = FOLDER / "detectors.csv"
FREE_SIDE = 320
"""Pixels that stand for a side that the net leaves free; the estimate scales with the input's size."""


def opened(name: str) -> Iterator[tuple[str, Path]]:
    """(field of the detector, file of the net in it)."""
    files: dict[int, Path] = {}

    def remember(path: Path, *, threads: int = 1) -> Engine:
        engine = open_engine(path, threads=threads)
        files[id(engine)] = path
        return engine

    with patch.object(find, "open_engine", remember):
        detector = find.load_detector(name, engine="onnxruntime")
    for entry in fields(detector):  # type: ignore[arg-type]
        value = getattr(detector, entry.name)
        if id(value) in files:
            yield entry.name, files[id(value)]


def costs(path: Path) -> tuple[Costs, int]:
    """The net's costs, and the values of the input that they are for."""
    model = onnx.load(path)
    source = model.graph.input[0].type.tensor_type.shape.dim
    for place, side in enumerate(source):
        if not side.dim_value:
            side.dim_value = 1 if place == 0 else FREE_SIDE
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    known = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output, *graph.input)
    }
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    parameters = sum(map(prod, weights.values())) / 1e6
    known |= {name: list(shape) for name, shape in weights.items()}
    found = dict.fromkeys((entry.name for entry in fields(Costs)), 0.0)
    found["parameters"] = parameters
    for node in graph.node:
        if all(name in weights for name in node.input):
            weights[node.output[0]] = tuple(known[node.output[0]])  # as narrow as they are stored, and widened first
            continue
        size = prod(known.get(node.output[0], [0])) / 1e6
        if node.op_type == "Conv":
            shape = tuple(known[node.input[1]])
            found[_kind(node, shape)] += size * prod(shape[1:])
        elif node.op_type in ("Gemm", "MatMul") and node.input[1] in weights:
            found["linear"] += prod(weights[node.input[1]]) / 1e6
        found["activations"] += size
        found["layers"] += 1
    return Costs(**found), prod(side.dim_value for side in source)


def _kind(node: onnx.NodeProto, shape: tuple[int, ...]) -> str:
    groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
    return "depthwise" if groups > 1 else "pointwise" if shape[2:] == (1, 1) else "conv"


def text() -> str:
    """The file."""
    lines = []
    for name in find.DETECTORS:
        for part, path in opened(name):
            net, values = costs(path)
            numbers = {key: round(float(value), 4) for key, value in asdict(net).items()}
            lines.append({"detector": name, "part": part, "net": path.stem, "values": values} | numbers)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def main() -> int:
    new = text()
    old = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    if "--check" in sys.argv[1:]:
        return int(old != new)
    TARGET.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
