r"""Fits dlib's face net into a ResNet18 or VGG11, before any training, as a checkpoint that ``--init`` takes.

    python -m reproduce.dlib_start resnet18:pool=none dlib_face_recognition_resnet_model_v1.dat \
        --photos prepared/ -o runs/dlib-resnet18.safetensors
    edgeface train prepared/ --backbone resnet18:pool=none --init runs/dlib-resnet18.safetensors \
        --guide weights/mobilefacenet.safetensors --set fit_embedding=true --set lr=3e-4

dlib's net (D. King, "High quality face recognition with deep metric learning", 2017; CC0) is a ResNet with the blocks
of ResNet18, half its channels and up to twice its blocks a stage: 3, 4, 3, 3 and 1, for 2 in each of four. One wide
block takes the place of two narrow ones side by side, for residual blocks that follow one another do much the same as
their sum (A. Veit, M. Wilber, S. Belongie, "Residual networks behave like ensembles of relatively shallow networks",
NIPS 2016). VGG11 has no blocks, but wider layers still: two stand for a whole stage, the first with channels that pass
the input on, so that the second can add to it. Each convolution is fitted to dlib's feature maps, sampled where the
student's pixels lie, from the student's own input to it, so that it mends part of the error of the layers before.
Channels to spare stay random.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeface.backbones import build_backbone
from edgeface.cli.console import TerminalReporter
from edgeface.data.dataset import load_data
from edgeface.progress import SILENT, Reporter
from edgeface.training.checkpoints import contract_draft, save_tensors
from edgeface.training.config import load_config
from edgeface.training.least_squares import fit_linear
from edgeface_runtime import ModelError, UsageError

SIDE = 150
"""Pixels of dlib's faces."""
MEAN, SCALE = (122.782, 117.001, 104.298), 256.0
"""What it takes from a pixel, and divides it by."""
STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
"""Channels and blocks; the first block of all stages but the first halves the map."""
PLAN: tuple[tuple[str, int, tuple[int, ...]], ...] = (
    ("layer1", 0, (1, 2)), ("layer1", 1, (3,)), ("layer2", 0, (4, 5)), ("layer2", 1, (6, 7)),
    ("layer3", 0, (8, 9)), ("layer3", 1, (10,)), ("layer4", 0, (11, 12)), ("layer4", 1, (13,)),
)  # fmt: skip
"""Block of ResNet18, and dlib's that it stands for, counted from 1; the last one has no place."""
VGG_PLAN: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ()), (4, ("stem",)), (8, ("inner1", "inner2", "inner3")), (11, ("sum3",)),
    (15, ("inner4", "inner5", "inner6", "inner7")), (18, ("sum7",)), (22, ("inner8", "inner9", "inner10")),
    (25, ("sum10",)),
)  # fmt: skip
"""Convolution of VGG11's trunk, and dlib's maps that it is to give, the inner ones beside what came; the rest has no
place, and the first layer stays random."""
RATE = 5e-4
"""The highest ``lr`` at which what was fitted lasts."""
FACES = 3000
"""About how many faces the layers are fitted on."""
CHUNK = 100
ROWS = 4000
"""Places in the maps of a chunk from which a layer is fitted."""
RIDGE = 1e-3
"""For a layer's ``fit_linear``."""

Layers = list[tuple[Tensor, Tensor]]


class Map(NamedTuple):
    """(N, C, S, S) values, and where in dlib's face the first lies, and how far the next, in pixels."""

    values: Tensor
    first: float
    step: float


def read_dlib(path: Path) -> Layers:
    """Weights (out, in, k, k) and biases (out,) of the 29 convolutions, each with the affine layer after it folded in.

    Args:
        path: ``dlib_face_recognition_resnet_model_v1.dat``, as the package face_recognition_models has it.

    Raises:
        ModelError: another file.
    """
    shapes = [(STAGES[0][0], 3, 7)]
    for (channels, blocks), came in zip(STAGES, (STAGES[0][0], *(stage[0] for stage in STAGES)), strict=False):
        shapes += [(channels, came, 3)] + [(channels, channels, 3)] * (2 * blocks - 1)
    try:
        data = path.read_bytes()
        found = [(mark[0], _tensor(data, mark.end())) for mark in re.finditer(rb"con_4|affine_", data)]
        convolutions, affine = ([tensor for mark, tensor in found if mark == kind] for kind in (b"con_4", b"affine_"))
        layers = []
        for (out, into, side), values, pair in zip(shapes, convolutions, affine, strict=True):
            weight, bias = values[:-out].view(out, into, side, side), values[-out:]
            gain, offset = pair.view(2, out)
            layers.append((weight * gain[:, None, None, None], bias * gain + offset))
    except (OSError, ValueError, IndexError, RuntimeError) as error:
        raise ModelError(f"{path}: not dlib's face net, dlib_face_recognition_resnet_model_v1.dat ({error})") from error
    return layers


def _tensor(data: bytes, at: int) -> Tensor:
    """dlib's form of a tensor: version 2 and four sizes, each behind its length in bytes, then float32."""
    numbers = []
    for _ in range(5):
        length = data[at]
        numbers.append(int.from_bytes(data[at + 1 : at + 1 + length], "little"))
        at += 1 + length
    if numbers[0] != 2:
        raise ValueError(f"a tensor of version {numbers[0]}")
    return torch.from_numpy(np.frombuffer(data, "<f4", int(np.prod(numbers[1:])), at).copy())


@torch.no_grad()
def dlib_maps(layers: Layers, faces: Tensor) -> dict[str, Map]:
    """dlib's maps of (N, 3, S, S) float RGB faces of 0 to 255, brought to 150 pixels.

    Returns:
        ``stem`` before its activation; of block 1 to 14 ``inner1``… and ``sum1``…, both before their activations;
        and ``end``, (N, 256, 1, 1): the mean from which dlib's descriptor is one more matrix product away.
    """
    x = F.interpolate(faces, (SIDE, SIDE), mode="bilinear", antialias=True)
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / SCALE
    x = F.conv2d(x, *layers[0], stride=2)
    maps = {"stem": Map(x, 3, 2)}
    x, first, step = F.max_pool2d(F.relu(x), 3, 2), 5.0, 4.0
    halving = {1 + sum(stage[1] for stage in STAGES[:index]) for index in range(1, len(STAGES))}
    for block in range(1, 1 + sum(stage[1] for stage in STAGES)):
        half = block in halving
        first, step = (first + step, 2 * step) if half else (first, step)
        inner = F.conv2d(x, *layers[2 * block - 1], stride=1 + half, padding=0 if half else 1)
        y, x = F.conv2d(F.relu(inner), *layers[2 * block], padding=1), F.avg_pool2d(x, 2) if half else x
        side, more = max(y.shape[-1], x.shape[-1]), y.shape[1] - x.shape[1]
        # dlib adds maps of unequal sizes as if the smaller one went on with zeros
        both = F.pad(y, [0, side - y.shape[-1]] * 2) + F.pad(x, [0, side - x.shape[-1]] * 2 + [0, more])
        maps[f"inner{block}"], maps[f"sum{block}"] = Map(inner, first, step), Map(both, first, step)
        x = F.relu(both)
    maps["end"] = Map(x.mean((2, 3), keepdim=True), 0, SIDE)
    return maps


@torch.no_grad()
def start_from_dlib(
    net: nn.Module,
    layers: Layers,
    faces: Tensor,
    mean: Tensor,
    std: Tensor,
    reporter: Reporter = SILENT,
) -> None:
    """Fills the trunk of a net with what fits of dlib's, in place.

    Args:
        net: ``vgg11``, or ``resnet18`` with ``stem=stride2``.
        layers: of ``read_dlib``.
        faces: (N, S, S, 3) uint8 RGB; three thousand or so (4 GB of memory at 112 pixels).
        mean: (3,) what the student takes from a pixel.
        std: (3,) what it divides it by.
        reporter: told how far the fit is.

    Raises:
        UsageError: another net.
    """
    trunk: Any = getattr(net, "trunk", None)
    convolutions = [index for index, layer in enumerate(trunk or ()) if isinstance(layer, nn.Conv2d)]
    if hasattr(trunk, "layer4") and trunk.conv1.stride == (2, 2):
        fit, places = _fit_resnet18, {"stem": (0.0, 2)}
        for order, (_, _, blocks) in enumerate(PLAN):
            at = 0.0, 4 * 2 ** (order // 2)
            places |= dict.fromkeys((*(f"inner{each}" for each in blocks), f"sum{blocks[-1]}"), at)
    elif convolutions == [index for index, _ in VGG_PLAN]:
        fit, places = _fit_vgg11, {}
        for order, (_, names) in enumerate(VGG_PLAN):
            step = 2 ** (order // 2 + 1)
            places |= dict.fromkeys(names, ((step - 1) / 2, step))  # max-pooling looks between the pixels
    else:
        raise UsageError("only vgg11, and resnet18 with stem=stride2, can start from dlib's net")
    net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = faces.shape[1]
    chunks = [part.permute(0, 3, 1, 2).float() for part in torch.split(faces, CHUNK)]
    inputs = [
        ((part - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)).contiguous(memory_format=torch.channels_last)
        for part in chunks
    ]
    targets = []
    for part in reporter.track(chunks, "dlib's maps"):
        maps = dlib_maps(layers, part)
        targets.append({name: read_off(maps[name], *at, size).half() for name, at in places.items()})
    fit(trunk, inputs, targets, torch.Generator().manual_seed(0), reporter)


def _fit_resnet18(
    trunk: Any, inputs: list[Tensor], targets: list[dict[str, Tensor]], rng: torch.Generator, reporter: Reporter
) -> None:
    stem = ((unfolded(x, 7, 2), target["stem"]) for x, target in zip(inputs, targets, strict=True))
    _fill(trunk.conv1, trunk.bn1, *fit_linear(_some(stem, rng), RIDGE), inputs)
    stream = [trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x)))) for x in inputs]
    for name, index, blocks in reporter.track(PLAN, "fitting blocks"):
        block: Any = getattr(trunk, name)[index]
        stride = block.conv1.stride[0]
        inner = [torch.cat([target[f"inner{each}"] for each in blocks], 1) for target in targets]
        pairs = ((unfolded(x, 3, stride), y) for x, y in zip(stream, inner, strict=True))
        _fill(block.conv1, block.bn1, *fit_linear(_some(pairs, rng), RIDGE), stream)
        hidden = [block.relu(block.bn1(block.conv1(x))) for x in stream]
        sums = [target[f"sum{blocks[-1]}"].float() for target in targets]
        if block.downsample is None:
            sums = [y - x[:, : y.shape[1]] for x, y in zip(stream, sums, strict=True)]
            pairs = ((unfolded(x, 3, 1), y) for x, y in zip(hidden, sums, strict=True))
            weight, bias = fit_linear(_some(pairs, rng), RIDGE)
        else:  # both paths at once
            pairs = (
                (torch.cat([unfolded(h, 3, 1), unfolded(x, 1, stride)], 1), y)
                for h, x, y in zip(hidden, stream, sums, strict=True)
            )
            weight, bias = fit_linear(_some(pairs, rng), RIDGE)
            weight, shortcut = torch.split(weight, [9 * block.conv2.in_channels, block.conv1.in_channels], 1)
            _fill(block.downsample[0], block.downsample[1], shortcut, torch.zeros(len(shortcut)), stream)
        _fill(block.conv2, block.bn2, weight, bias, hidden)
        stream = [block(x) for x in stream]


def _fit_vgg11(
    trunk: Any, inputs: list[Tensor], targets: list[dict[str, Tensor]], rng: torch.Generator, reporter: Reporter
) -> None:
    stream, came = inputs, 0
    ends = [index for index, _ in VGG_PLAN[1:]] + [len(trunk)]
    for (index, names), end in reporter.track(list(zip(VGG_PLAN, ends, strict=True)), "fitting layers"):
        conv, norm = trunk[index], trunk[index + 1]
        if names:
            aims = [torch.cat([target[name] for name in names], 1) for target in targets]
            if names[0].startswith("inner"):
                aims = [torch.cat([y, x[:, :came]], 1) for x, y in zip(stream, aims, strict=True)]
            pairs = ((unfolded(x, 3, 1), y) for x, y in zip(stream, aims, strict=True))
            weight, bias = fit_linear(_some(pairs, rng), RIDGE)
            came = len(weight)
        else:
            weight, bias = conv.weight[:0].flatten(1), conv.weight.new_zeros(0)
        _fill(conv, norm, weight, bias, stream)
        stream = [trunk[index + 1 : end](conv(x)) for x in stream]


def read_off(of: Map, first: float, step: int, size: int) -> Tensor:
    """(N, C, n, n) values at each ``step``th of ``size`` pixels from ``first``, bilinear; past the edge the edge's."""
    pixels = (torch.arange(-(-size // step)) * step + first + 0.5) * SIDE / size - 0.5
    places = (2 * (pixels - of.first) / of.step + 1) / of.values.shape[-1] - 1
    grid = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1).expand(len(of.values), -1, -1, -1)
    return F.grid_sample(of.values, grid, padding_mode="border", align_corners=False)


def unfolded(x: Tensor, side: int, stride: int) -> Tensor:
    """(N, C, H, W) → (N, C·side², H', W'): what a convolution of that side and stride sees at each place."""
    patches = F.unfold(x, side, padding=side // 2, stride=stride)
    return patches.view(len(x), patches.shape[1], -(-x.shape[2] // stride), -1)


def _some(pairs: Iterable[tuple[Tensor, Tensor]], rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    for pair in pairs:
        x, y = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in pair)
        rows = torch.randperm(len(x), generator=rng)[:ROWS]
        yield x[rows], y[rows].float()


def _fill(conv: Any, norm: Any, weight: Tensor, bias: Tensor, inputs: list[Tensor]) -> None:
    """Puts fitted channels before the random ones of a convolution, and gives its batch norm their statistics.

    The random ones get the fitted ones' deviations: of their weights, and after the batch norm.
    """
    fitted = len(weight)
    weight = weight.reshape(fitted, *conv.weight.shape[1:])
    if 0 < fitted < len(conv.weight):
        conv.weight[fitted:] *= weight.std() / conv.weight[fitted:].std()
    conv.weight[:fitted] = weight
    x = torch.cat([conv(each) for each in inputs[:6]])
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    deviation = (var + norm.eps).sqrt()
    norm.weight.copy_(deviation)
    norm.weight[fitted:] = deviation[:fitted].mean() if fitted else 1
    norm.bias.zero_()
    norm.bias[:fitted] = bias + mean[:fitted]


def main(given: Sequence[str] | None = None) -> None:
    """Writes the checkpoint, and says what its training wants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", help="vgg11 or resnet18, with options")
    parser.add_argument("dat", type=Path, help="dlib_face_recognition_resnet_model_v1.dat")
    parser.add_argument("--photos", type=Path, required=True, help="prepared photos, or folders of <identity>/<photo>")
    parser.add_argument("--set", action="append", default=[], help="key=value of the training, such as the seed")
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write, .safetensors")
    options = parser.parse_args(given)
    config = load_config(settings=options.set, backbone=options.backbone)
    layers = read_dlib(options.dat)
    data = load_data(options.photos, size=config.model.input_size)
    faces = data.faces[data.rows("train")]
    sample = torch.from_numpy(faces[:: math.ceil(len(faces) / FACES)])
    torch.manual_seed(config.system.seed)  # the random channels, as a training with this seed has them
    net = build_backbone(options.backbone, embedding=config.model.embedding_dim, size=config.model.input_size)
    mean, std = (torch.tensor(values) for values in config.model.pixel_statistics)
    start_from_dlib(net, layers, sample, mean, std, TerminalReporter())
    contract = contract_draft(config, data_sha256=data.sha256, licence="unknown")
    save_tensors(options.output, net.state_dict(), {"contract": json.loads(contract.to_json())})
    print(f"{options.output}: dlib's net fitted into {options.backbone} on {len(sample)} faces")
    print("its embedding is random: train with --set fit_embedding=true, and --guide or --teacher")
    print(f"a larger rate soon undoes what was fitted: --set lr={RATE:g} or less")


if __name__ == "__main__":
    main()
