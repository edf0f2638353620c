"""Backbones beside each other: accuracy after a short training, what int8 leaves of it, size and processor time.

    python -m benchmarks.nets PHOTOS [BACKBONE …] [--side 64] [--people 60] [--epochs 6] [--seeds 1] [--calls 100]

``PHOTOS`` holds ``<person>/<aligned face>``. Each backbone is trained from random weights on the first people, towards
the embeddings that the shipped model gives of them, with one rate for all, and told on all pairs of photos of as many
others: the share of genuine pairs accepted where 1 %
of impostor pairs are (TAR at FMR 0.01), in float and as the int8 file of each engine, and the mean cosine of that
file's embeddings to the net's own. Processor time is of one face a call in one thread, the files of the first seed
taking turns. Prints Markdown; nan and none where a
net cannot become a file of an engine.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from edgeface.backbones import build_backbone
from edgeface.data.dataset import load_data
from edgeface.evaluation.verification import all_pairs, threshold_for_far
from edgeface.training.augment import augment, draw, normalize
from edgeface.training.config import TrainConfig, load_config
from edgeface.training.loop import clamp_slopes, make_optimizer
from edgeface.training.schedule import learning_rate
from edgeface_export.formats import STATIC_FORMATS
from edgeface_export.gate import compare_speed
from edgeface_export.options import RECIPES
from edgeface_export.quantize.static import calibrate
from edgeface_export.rewrite import cost_table, embedder, torch_embeddings
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, load

NETS = [
    "mobilefacenet-tiny", "timm:mobilenetv4_conv_small", "timm:edgenext_xx_small", "mobilefacenet-tiny:attention=se",
    "mobilefacenet-tiny:attention=eca", "mobilefacenet-tiny:attention=cbam",
]  # fmt: skip
LENGTH = 128
TEACHER = "mobilefacenet"
CALIBRATION = 64
FORMS = {recipe.format: recipe.prelu for recipe in RECIPES if recipe.precision == "int8" and recipe.prelu}
"""Format → the form of PReLU that its int8 files have."""


@dataclass(frozen=True, eq=False)
class People:
    """Faces and whose they are."""

    faces: NDArray[np.uint8]
    labels: NDArray[np.int64]
    targets: NDArray[np.float32]
    """(N, D) unit rows, the shipped model's embeddings."""


def of_people(photos: Path, side: int, people: int) -> tuple[People, People]:
    """Faces of the first people, to learn from, and of as many others."""
    data, whole, teacher = load_data(photos, size=side), load_data(photos), load(TEACHER)
    parts = (data.labels < people, (data.labels >= people) & (data.labels < 2 * people))
    first, others = (People(data.faces[rows], data.labels[rows], teacher.embed(whole.faces[rows])) for rows in parts)
    return first, others


def trained(backbone: str, people: People, config: TrainConfig) -> nn.Module:
    torch.manual_seed(config.system.seed)
    net = build_backbone(backbone, embedding=LENGTH, size=people.faces.shape[1])
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(net, config.optim)
    slopes = [module.weight for module in net.modules() if isinstance(module, nn.PReLU)]
    rng, batch = np.random.default_rng(config.system.seed), config.data.batch_size
    steps = len(people.faces) // batch
    for epoch in range(config.schedule.epochs):
        order = rng.permutation(len(people.faces))
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            progress = (epoch + step / steps) / config.schedule.epochs
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress, config) * group["share"]
            drawn = draw(batch, torch.Generator().manual_seed(int(rng.integers(1 << 31))))
            x = normalize(torch.from_numpy(people.faces[rows]), *config.model.pixel_statistics)
            x = augment(x, drawn, config.augment).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            (1 - F.cosine_similarity(net(x), torch.from_numpy(people.targets[rows])).mean()).backward()
            nn.utils.clip_grad_norm_(net.parameters(), config.optim.grad_clip_norm)
            optimizer.step()
            clamp_slopes(slopes)
    return net.eval()


def int8_file(kind: str, net: nn.Module, faces: NDArray[np.uint8], folder: Path) -> Path:
    folder.mkdir(parents=True)
    source, side = folder / f"float.{kind}", faces.shape[1]
    STATIC_FORMATS[kind].write_float(embedder(net, InputSpec(size=side), FORMS[kind]), side, source)
    path = calibrate(STATIC_FORMATS[kind], source, faces[:CALIBRATION], folder).write(folder / f"int8.{kind}", "mse")
    STATIC_FORMATS[kind].make_portable(path)
    return path


def acceptance(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """TAR at FMR 0.01, in percent."""
    pairs = all_pairs(embeddings, labels)
    return 100 * float((pairs.scores[pairs.same] >= threshold_for_far(pairs, 0.01)).mean())


def contract_of(backbone: str, side: int) -> Contract:
    return Contract(name="net", backbone=backbone, input=InputSpec(size=side), embedding=EmbeddingSpec(length=LENGTH))


def measured(backbone: str, config: TrainConfig, first: People, others: People, folder: Path) -> list[float]:
    """TAR of the net, then TAR and mean cosine of its int8 file for each format, which stays in the folder."""
    net, contract = trained(backbone, first, config), contract_of(backbone, first.faces.shape[1])
    expected = torch_embeddings(net, contract.input, others.faces)
    found = [acceptance(expected, others.labels)]
    for kind in STATIC_FORMATS:
        try:
            model = load(int8_file(kind, net, first.faces, folder / kind), contract=contract)
        except Exception as error:  # converters and engines raise types of their own
            print(f"{backbone}: no {kind} file: {str(error).splitlines()[-1]}", file=sys.stderr, flush=True)
            (folder / kind / f"int8.{kind}").unlink(missing_ok=True)
            found += [np.nan, np.nan]
            continue
        embeddings = model.embed(others.faces)
        found += [acceptance(embeddings, others.labels), float((embeddings * expected).sum(1).mean())]
    print(backbone, found, file=sys.stderr, flush=True)
    return found


def size_of(backbone: str, side: int) -> list[str]:
    """Million multiply-accumulates and million parameters."""
    net = build_backbone(backbone, embedding=LENGTH, size=side).eval()
    macs = sum(cost.macs for cost in cost_table(net, side).values())
    return [f"{macs / 1e6:.0f}", f"{sum(parameter.numel() for parameter in net.parameters()) / 1e6:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("backbones", nargs="*", default=NETS)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, kinds = load_config(epochs=options.epochs), list(STATIC_FORMATS)
    first, others = of_people(options.photos, options.side, options.people)
    print(f"{len(first.faces)} photos of {options.people} people, and {len(others.faces)} of others, {options.side} px")
    with tempfile.TemporaryDirectory() as name:
        cells = {backbone: size_of(backbone, options.side) for backbone in options.backbones}
        for number, backbone in enumerate(options.backbones):
            each = np.array(
                [
                    measured(
                        backbone,
                        replace(config, system=replace(config.system, seed=seed)),
                        first,
                        others,
                        Path(name) / f"{number}-{seed}",
                    )
                    for seed in range(options.seeds)
                ]
            )
            rates, spreads, cosines = each[:, [0, 1, 3]].mean(0), each[:, [0, 1, 3]].std(0), each[:, [2, 4]].mean(0)
            cells[backbone] += [
                f"{rate:.1f}" + f" ± {spread:.1f}" * (options.seeds > 1)
                for rate, spread in zip(rates, spreads, strict=True)
            ]
            cells[backbone] += [f"{cosine:.4f}" for cosine in cosines]
        for kind in kinds:
            paths = [Path(name) / f"{number}-0" / kind / f"int8.{kind}" for number in range(len(cells))]
            there = [path for path in paths if path.exists()]
            models = [load(path, contract=contract_of("net", options.side)) for path in there]
            ms = dict(zip(there, compare_speed(models, calls=options.calls), strict=True))
            for row, path in zip(cells.values(), paths, strict=True):
                row += [f"{path.stat().st_size / 1e6:.2f}", f"{ms[path]:.2f}"] if path in ms else ["none", "none"]
                row.append(str(STATIC_FORMATS[kind].operators(path)["float"].total()) if path in ms else "none")
    heads = ["backbone", "M MACs", "M parameters", "TAR, %", *(f"TAR {kind} int8, %" for kind in kinds)]
    heads += [f"cosine {kind}" for kind in kinds]
    heads += [f"{kind} {what}" for kind in kinds for what in ("MB", "ms", "float operators")]
    print(f"| {' | '.join(heads)} |\n| --- |" + " ---: |" * (len(heads) - 1))
    for backbone, row in cells.items():
        print(f"| `{backbone}` | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
