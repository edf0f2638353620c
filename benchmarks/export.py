"""Exported files of each backbone against each other and an older build's: one thread, their calls taking turns.

    python -m benchmarks.export [BACKBONE …] [--calls 100] [--old CHECKOUT] [--ten CHECKPOINT]

Weights are random: they decide nothing about speed; the slopes of PReLU differ by channel, as trained ones do.
``shipped`` is the model that edgeface ships, beside fp32 files made of its weights. "plain" is the net as torch.onnx
writes it, PReLU as one operator. ÷ fp32 is by the fastest fp32 file of the engine and the build.

With --ten: processor time and peak memory of ``edgeface export`` of all ten files of a checkpoint with AT&T's photos,
in a process of its own for each build, one after the other. Prints Markdown.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from edgeface.backbones import build_backbone
from edgeface.data.att import att_folder
from edgeface.training.checkpoints import load_checkpoint
from edgeface_export.formats import onnx_file, tflite_file
from edgeface_export.formats.protocols import StaticFormat
from edgeface_export.gate import compare_speed
from edgeface_export.quantize.static import calibrate
from edgeface_export.rewrite import Preprocess, embedder
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, load
from edgeface_runtime.model import find_model

Name = TypeVar("Name")
HERE = Path(__file__).parents[1]
SIZE = 112
SPEC = InputSpec(size=SIZE)
FACES = np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), np.uint8)
SHIPPED = "shipped"
MODEL = "mobilefacenet"
PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights")
WRITE = """
import sys
from pathlib import Path
import torch
from torch import nn
import benchmarks.export as build
plain = build.random_net
def random_net(backbone):
    net = plain(backbone)
    torch.manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, 0.2, 0.3)
    return net
build.random_net = random_net
torch.set_num_threads(1)
build.write_files(sys.argv[1], Path(sys.argv[2]))
"""
"""Makes a build write its files: of the same net, whatever slopes an older one starts with."""
NAMES = {
    "onnx fp32 affine": "affine.onnx",
    "onnx fp32 depthwise": "depthwise.onnx",
    "tflite fp32": "maximum.tflite",
    "onnx int8": "int8.depthwise.onnx",
    "tflite int8": "int8.maximum.tflite",
    "onnx plain": "plain.onnx",
}


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
    found = {name: folder / file for name, file in NAMES.items()}
    for name, module, form in (
        ("onnx fp32 affine", onnx_file, "affine"),
        ("onnx fp32 depthwise", onnx_file, "depthwise"),
        ("tflite fp32", tflite_file, "maximum"),
    ):
        module.write_float(embedder(random_net(backbone), SPEC, form), SIZE, found[name])
    for module, source in ((onnx_file, "onnx fp32 depthwise"), (tflite_file, "tflite fp32")):
        module.make_portable(int8_file(module, found[source], folder))
    net = nn.Sequential(Preprocess(SPEC), with_plain_prelu(random_net(backbone))).eval()
    onnx_file.write_float(net, SIZE, found["onnx plain"])
    return found


def shipped_files(build: Path, folder: Path) -> dict[str, Path]:
    """The int8 files that a build ships, and fp32 files of the model's weights as this build writes them."""
    found = {name: folder / NAMES[name] for name in ("onnx fp32 affine", "tflite fp32")}
    if not found["tflite fp32"].exists():
        checkpoint = load_checkpoint(HERE / "weights" / f"{MODEL}.safetensors")
        net = embedder(checkpoint.net, checkpoint.contract.input, "affine")
        onnx_file.write_float(net, SIZE, found["onnx fp32 affine"])
        tflite_file.write_float(net, SIZE, found["tflite fp32"])
    models = build / find_model(MODEL).parent.relative_to(HERE)
    return found | {f"{kind} int8": models / f"{MODEL}.int8.{kind}" for kind in ("onnx", "tflite")}


def files_of(build: Path, backbone: str, folder: Path) -> dict[str, Path]:
    """Name → file, as a build writes them."""
    if backbone == SHIPPED:
        return shipped_files(build, folder)
    place = folder / str(len(list(folder.iterdir())))
    place.mkdir()
    command = [sys.executable, "-c", WRITE, backbone, str(place)]
    subprocess.run(command, env=environment(build), cwd=build, check=True, stdout=subprocess.DEVNULL)
    return {name: place / file for name, file in NAMES.items()}


def environment(build: Path) -> dict[str, str]:
    roots = [str(build / part) for part in ("", "export", "devices", "runtime")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)}


def time_files(backbone: str, files: dict[Name, Path], calls: int) -> dict[Name, float]:
    """Name → median processor time of one face in ms."""
    contract = Contract(name="net", backbone=backbone, input=SPEC, embedding=EmbeddingSpec(length=128))
    times = compare_speed([load(path, contract=contract) for path in files.values()], calls=calls)
    return dict(zip(files, times, strict=True))


def rows(backbone: str, ms: dict[str, float]) -> Iterator[tuple[str, float, float]]:
    """Net and file, its processor time in ms, and that divided by the fastest fp32 file's of its engine."""
    for kind in ("tflite", "onnx"):
        fastest = min(time for name, time in ms.items() if name.startswith(f"{kind} fp32"))
        found = {"fp32": fastest} | {name: ms[f"{kind} {name}"] for name in ("int8", "plain") if f"{kind} {name}" in ms}
        for name, time in found.items():
            yield f"{backbone}, {kind} {name}", time, time / fastest


def export_ten(build: Path, checkpoint: Path, folder: Path) -> tuple[float, float]:
    """Processor seconds and peak memory in GB of ``edgeface export`` of all ten files."""
    words = [word for precision in PRECISIONS for word in ("--precision", precision)]
    command = [sys.executable, "-m", "edgeface", "export", str(checkpoint), "--data", str(att_folder()), *words]
    # Some of so few photos' files are refused: what is measured is the work.
    command += ["--max-drop", "100", "-o", str(folder)]
    process = subprocess.Popen(command, env=environment(build), cwd=build, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{build}: the export failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=[MODEL, SHIPPED, "resnet18", "vgg11"])
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--old", type=Path, help="checkout of an older build, whose files take turns with this one's")
    parser.add_argument("--ten", type=Path, help="checkpoint that both builds read, to export in every precision")
    options = parser.parse_args()
    torch.set_num_threads(1)
    builds = ({"before": options.old.resolve()} if options.old else {}) | {"this build": HERE}
    print("| net, file | " + " | ".join(f"{build}, ms | ÷ fp32" for build in builds) + " |")
    print("| --- |" + " ---: | ---: |" * len(builds))
    for backbone in options.backbones:
        with tempfile.TemporaryDirectory() as name:
            files = {
                (build, file): path
                for build, root in builds.items()
                for file, path in files_of(root, backbone, Path(name)).items()
            }
            ms = time_files(backbone, files, options.calls)
        of = [list(rows(backbone, {file: ms[at, file] for at, file in ms if at == build})) for build in builds]
        for row in zip(*of, strict=True):
            print(f"| {row[0][0]} | " + " | ".join(f"{time:.2f} | {ratio:.2f}" for _, time, ratio in row) + " |")
    if options.ten:
        print("\n| ten files | processor time, s | peak memory, GB |\n| --- | ---: | ---: |")
        for build, root in builds.items():
            with tempfile.TemporaryDirectory() as name:
                seconds, memory = export_ten(root, options.ten.resolve(), Path(name))
            print(f"| {build} | {seconds:.0f} | {memory:.2f} |")


if __name__ == "__main__":
    main()
