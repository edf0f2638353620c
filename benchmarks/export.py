"""Exported files of each backbone against each other: one thread, their calls taking turns.

    python -m benchmarks.export [BACKBONE …] [--calls 100]

Weights are random: they decide nothing about speed. Prints one JSON document: median processor time of one
face in milliseconds for each file, and the ratios that matter. "plain" is the net as torch.onnx writes it,
PReLU as one operator.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeface.backbones import build_backbone
from edgeface_export.formats import onnx_file, tflite_file
from edgeface_export.formats.protocols import StaticFormat
from edgeface_export.gate import compare_speed
from edgeface_export.quantize.static import calibrate
from edgeface_export.torch_model import Preprocess, embedder
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, load

SIZE = 112
SPEC = InputSpec(size=SIZE)
FACES = np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), np.uint8)


def random_net(backbone: str) -> nn.Module:
    torch.manual_seed(0)
    net = build_backbone(backbone, embedding=128, size=SIZE).eval()
    for layer in net.modules():
        if isinstance(layer, nn.PReLU):  # equal slopes, as they start, would be folded into less
            nn.init.uniform_(layer.weight, 0.2, 0.3)
    return net


def with_plain_prelu(net: nn.Module) -> nn.Module:
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.PReLU):
            plain = nn.PReLU(layer.num_parameters)
            plain.weight = layer.weight
            net.set_submodule(name, plain)
    return net


def int8_file(module: StaticFormat, source: Path, folder: Path) -> Path:
    return calibrate(module, source, FACES, folder).write(folder / f"int8.{source.stem}{source.suffix}", "mse")


def write_files(backbone: str, folder: Path) -> dict[str, Path]:
    """Name → file."""
    found = {}
    for name, module, form in (
        ("onnx fp32 affine", onnx_file, "affine"),
        ("onnx fp32 depthwise", onnx_file, "depthwise"),
        ("tflite fp32", tflite_file, "maximum"),
    ):
        found[name] = folder / f"{form}.{name.split()[0]}"
        module.write_float(embedder(random_net(backbone), SPEC, form), SIZE, found[name])
    found["onnx int8"] = int8_file(onnx_file, found["onnx fp32 depthwise"], folder)
    found["tflite int8"] = int8_file(tflite_file, found["tflite fp32"], folder)
    found["onnx plain"] = folder / "plain.onnx"
    net = nn.Sequential(Preprocess(SPEC), with_plain_prelu(random_net(backbone))).eval()
    onnx_file.write_float(net, SIZE, found["onnx plain"])
    return found


def time_files(backbone: str, files: dict[str, Path], calls: int) -> dict[str, float]:
    """Name → median processor time of one face in ms."""
    contract = Contract(name="net", backbone=backbone, input=SPEC, embedding=EmbeddingSpec(length=128))
    times = compare_speed([load(path, contract=contract) for path in files.values()], calls=calls)
    return dict(zip(files, times, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=["mobilefacenet", "resnet18", "vgg11"])
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for backbone in options.backbones:
        with tempfile.TemporaryDirectory() as folder:
            ms = time_files(backbone, write_files(backbone, Path(folder)), options.calls)
        fastest = min(ms["onnx fp32 affine"], ms["onnx fp32 depthwise"])
        ratios = {
            "tflite int8 / fp32": ms["tflite int8"] / ms["tflite fp32"],
            "onnx int8 / fastest fp32": ms["onnx int8"] / fastest,
            "onnx int8 / plain": ms["onnx int8"] / ms["onnx plain"],
            "onnx fp32 / plain": fastest / ms["onnx plain"],
        }
        rows.append({"backbone": backbone, "cpu_ms": ms, "ratios": ratios})
    print(json.dumps({"calls": options.calls, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
