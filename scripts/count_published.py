"""Counts the instructions of the nets in the public tables on emulated cores, for docs/estimates.md.

python scripts/count_published.py [--output FILE] [--net NAME]

The default file is devices/edgeface_devices/estimate/facts/counts.csv; --net counts some anew and leaves the others.

Needs `edgeface devices emulator`. The nets have random weights: what an instruction computes does not change how many
there are. They are exported as any net is, so uint8 pixels go in and preprocessing is counted.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from edgeface_devices.boards.profiles import find_profile
from edgeface_devices.emulate.core import emulate
from edgeface_devices.estimate.evidence import FOLDER, read_facts
from edgeface_export.faces import EvaluationSet, ExportFaces
from edgeface_export.options import ExportOptions
from edgeface_export.pipeline import export
from edgeface_export.source_model import torch_source
from edgeface_export.torchvision_repair import repair
from edgeface_runtime import Contract, InputSpec
from edgeface_runtime.contract import EmbeddingSpec

CLASSES = 1000
BOARDS = ("rpi-3b-plus", "rpi-4b", "rpi-5")
# Output channels and stride of the 13 separable blocks (A. G. Howard et al., MobileNets, arXiv:1704.04861, table 1).
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def mobilenet() -> nn.Module:
    """MobileNet V1: (N, 3, 224, 224) → (N, 1000)."""

    def block(inner: int, outer: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
        conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outer), nn.ReLU6()]

    layers, width = block(3, 32, 3, 2, 1), 32
    for outer, stride in _V1:
        layers += block(width, width, 3, stride, width) + block(width, outer, 1, 1, 1)
        width = outer
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def plain_pools(net: nn.Module) -> nn.Module:
    """The net with max pooling that rounds down and pads with zeros, what it pools being positive.

    TFLite has no pooling that rounds up, and the converter pads with the least float, which int8 cannot hold.
    """
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                pool = nn.MaxPool2d(child.kernel_size, child.stride)
                module.add_module(name, nn.Sequential(nn.ZeroPad2d(child.padding), pool) if child.padding else pool)
    return net


@dataclass(frozen=True)
class Counted:
    """A net of the public tables, and what is counted of it."""

    build: Callable[[], nn.Module]
    kinds: Mapping[str, Sequence[tuple[str, str]]]
    """Board → (format, precision) of its published rows."""
    size: int = 224


XNNPACK_FLOAT, XNNPACK_INT8, ONNX_INT8 = ("tflite", "fp32"), ("tflite", "int8"), ("onnx", "int8")


def nets() -> dict[str, Counted]:
    """Name in rows.csv → the net, and what its published rows ask to count."""
    repair()
    from torchvision import models

    both = dict.fromkeys(("rpi-3b-plus", "rpi-4b"), (XNNPACK_FLOAT, XNNPACK_INT8))
    float_only = dict.fromkeys(both, (XNNPACK_FLOAT,))
    on_pi5 = {"rpi-5": (XNNPACK_INT8,)}
    return {
        "mobilenet": Counted(mobilenet, both),
        "mobilenet_v2": Counted(models.mobilenet_v2, both | on_pi5),
        "mobilenet_v3": Counted(models.mobilenet_v3_large, float_only),
        "mobilenet_v3_small": Counted(models.mobilenet_v3_small, float_only),
        "squeezenet1_1": Counted(lambda: plain_pools(models.squeezenet1_1()), on_pi5),
        "squeezenet1_0": Counted(lambda: plain_pools(models.squeezenet1_0()), on_pi5),
        "resnet18": Counted(lambda: plain_pools(models.resnet18()), on_pi5),
        "shufflenet_v2": Counted(lambda: plain_pools(models.shufflenet_v2_x1_0()), on_pi5),
        "googlenet": Counted(
            lambda: plain_pools(models.googlenet(aux_logits=False, init_weights=False, transform_input=False)), on_pi5
        ),
        "resnet50": Counted(lambda: plain_pools(models.resnet50()), on_pi5),
        "wide_resnet50_2": Counted(lambda: plain_pools(models.wide_resnet50_2()), on_pi5),
        "inception_v3": Counted(
            lambda: models.inception_v3(aux_logits=False, init_weights=False, transform_input=False),
            {"rpi-5": (ONNX_INT8,)},
            size=299,
        ),
    }


def write(name: str, net: Counted, kinds: Collection[tuple[str, str]], folder: Path) -> dict[tuple[str, str], Path]:
    """(format, precision) → the file, by the project's own export; its gate is open, for there is nobody to tell."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (5, net.size, net.size, 3), np.uint8)
    contract = Contract(
        name=name, backbone=name, input=InputSpec(size=net.size), embedding=EmbeddingSpec(length=CLASSES)
    )
    evaluation = EvaluationSet(faces[3:], np.array([[0, 0], [0, 1]]), np.array([True, False]))
    model = torch_source(net.build().eval(), contract)
    found = {}
    for kind in {kind for kind, _ in kinds}:
        options = ExportOptions(
            formats=[kind],
            precisions=sorted({precision for other, precision in kinds if other == kind}),
            calibrator="minmax",
            max_drop=100.0,
            min_cosine=-1.0,
        )
        result = export(model, ExportFaces(calibration=faces[:3], evaluation=evaluation), folder, options)
        assert result.passed, result.reason
        found |= {(kind, file.precision): file.path for file in result.files}
    return found


def count(path: Path, board: str, name: str, size: int) -> dict[str, object]:
    """One row: instructions of one call with one thread on the board's core."""
    face = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    profile = find_profile(board)
    (row,) = emulate([path], profile, faces=face).rows
    assert row.contract is not None
    assert row.instructions is not None
    macs = sum(cost.macs for cost in row.contract.cost.values())
    source = f"scripts/count_published.py, {row.engine} {row.engine_version}"
    source += f", torchvision {version('torchvision')}, litert-torch {version('litert-torch')}"
    kind = "int8" if row.precision == "int8" else "float"
    found = {"core": profile.core, "engine": row.engine, "precision": kind, "net": name}
    return found | {"macs": round(macs / 1e6, 3)} | dict(row.instructions) | {"source": source}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER / "counts.csv")
    parser.add_argument("--net", action="append", help="only these, added to what the file has")
    asked = parser.parse_args()
    rows = read_facts("counts.csv") if asked.net else []
    rows = [row for row in rows if row["net"] not in asked.net]
    with TemporaryDirectory() as folder:
        for name, net in nets().items():
            if asked.net and name not in asked.net:
                continue
            print(name, file=sys.stderr)
            files = write(name, net, {kind for kinds in net.kinds.values() for kind in kinds}, Path(folder))
            rows += [count(files[kind], board, name, net.size) for board in BOARDS for kind in net.kinds.get(board, ())]
    with asked.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
