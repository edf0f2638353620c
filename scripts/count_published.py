"""Counts the instructions of the nets in XNNPACK's table on emulated cores, for docs/estimates.md.

python scripts/count_published.py [--output FILE]  # default: devices/edgeface_devices/estimate/facts/counts.csv

Needs `edgeface devices emulator`. The nets have random weights: what an instruction computes does not change how many
there are. They are exported as any net is, so uint8 pixels go in and preprocessing is counted.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from edgeface_devices.boards.profiles import find_profile
from edgeface_devices.emulate.core import emulate
from edgeface_devices.estimate.evidence import FOLDER
from edgeface_export.faces import EvaluationSet, ExportFaces
from edgeface_export.options import ExportOptions
from edgeface_export.pipeline import export
from edgeface_export.source_model import torch_source
from edgeface_export.torchvision_repair import repair
from edgeface_runtime import Contract, InputSpec, read_contract
from edgeface_runtime.contract import EmbeddingSpec

SIZE, CLASSES = 224, 1000
BOARDS = ("rpi-3b-plus", "rpi-4b")
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


def nets() -> dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]]:
    """Name in rows.csv → what builds the net, and the precisions that XNNPACK's table has."""
    repair()
    from torchvision.models import mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small

    return {
        "mobilenet": (mobilenet, ("fp32", "int8")),
        "mobilenet_v2": (mobilenet_v2, ("fp32", "int8")),
        "mobilenet_v3": (mobilenet_v3_large, ("fp32",)),
        "mobilenet_v3_small": (mobilenet_v3_small, ("fp32",)),
    }


def write(name: str, build: Callable[[], nn.Module], precisions: tuple[str, ...], folder: Path) -> list[Path]:
    """The TFLite files of one net, by the project's own export; its gate is open, for there is nothing to recognise."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    contract = Contract(name=name, backbone=name, input=InputSpec(size=SIZE), embedding=EmbeddingSpec(length=CLASSES))
    evaluation = EvaluationSet(faces[3:], np.array([[0, 0], [0, 1]]), np.array([True, False]))
    options = ExportOptions(formats=["tflite"], precisions=precisions, max_drop=100.0, min_cosine=-1.0)
    model = torch_source(build().eval(), contract)
    result = export(model, ExportFaces(calibration=faces[:3], evaluation=evaluation), folder, options)
    assert result.passed, result.reason
    return [file.path for file in result.files]


def count(paths: list[Path], board: str) -> list[dict[str, object]]:
    """One row a file: instructions of one call with one thread on the board's core."""
    face = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    profile = find_profile(board)
    rows = []
    for row in emulate(paths, profile, faces=face).rows:
        contract = read_contract(row.path)
        macs = sum(cost.macs for cost in contract.cost.values())
        source = f"scripts/count_published.py, ai-edge-litert {row.facts['engine_version']}"
        source += f", torchvision {version('torchvision')}, litert-torch {version('litert-torch')}"
        kind = "int8" if contract.precision == "int8" else "float"
        found = {"core": profile.core, "engine": row.facts["engine"], "precision": kind, "net": contract.name}
        rows.append(found | {"macs": round(macs / 1e6, 3)} | row.facts["instructions"] | {"source": source})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER / "counts.csv")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        paths = []
        for name, (build, precisions) in nets().items():
            print(name, file=sys.stderr)
            paths += write(name, build, precisions, Path(folder))
        rows = [row for board in BOARDS for row in count(paths, board)]
    with asked.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
