"""Trains the landmark net on the labels of ``label``; stops and goes on where it was.

    python -m reproduce.landmarks.train onet.pt runs/landmarks/data.npz… -o runs/landmarks/net [--epochs 40]

``onet.pt`` is facenet-pytorch's. Each epoch sees every face once: shifted, scaled, turned, mirrored, recolored,
blurred, partly hidden; some lie on their side or head or away from the middle, as negatives. Boxes are taught by O-Net
itself. A line an epoch goes to log.jsonl: the mean error in pixels of the 112-pixel crop on faces that are held out (a
twentieth), and how well confidence separates them from negatives. A second call resumes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reproduce.landmarks.label import MIRRORED, SIDE
from reproduce.landmarks.net import RAISE, REACH, SIZE, LandmarkNet

_BATCH = 128
_TAUGHT = 32  # of them, so many have O-Net's box as their target: it changes least
_EYES = 35.24  # pixels between the eyes of the 112-pixel template
_QUARTERS = 0.05  # share of faces that are shown on their side or head, as negatives
_AWAY = 0.03  # share that is shown far off the middle, as negatives


class Faces:
    """Crops with their boxes and points, and batches of them as the net sees them."""

    def __init__(self, paths: list[Path], held_out: bool) -> None:
        parts = [np.load(path) for path in paths]
        crops, boxes, points = (np.concatenate([part[name] for part in parts]) for name in ("crops", "boxes", "points"))
        chosen = (np.arange(len(points)) % 20 == 7) == held_out
        self.crops = torch.from_numpy(crops[chosen])
        self.boxes = torch.from_numpy(boxes[chosen])
        self.points = torch.from_numpy(np.nan_to_num(points[chosen]))
        self.is_face = torch.from_numpy(np.isfinite(points[chosen][:, 0, 0]))

    def seen(self, index: Tensor, rng: torch.Generator, wild: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 3, SIZE, SIZE) views, the same undisturbed, (N,) if each is an upright face, (N, 5, 2) its points."""
        count = len(index)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=rng)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=rng)

        boxes, points, is_face = self.boxes[index], self.points[index], self.is_face[index].clone()
        side = (boxes[:, 2:] - boxes[:, :2]).amax(1) * REACH * torch.exp(normal(count) * 0.08)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5 + normal(count, 2) * 0.04 * side[:, None]
        centre = centre - side[:, None] * torch.tensor([0, RAISE])
        turn = (uniform(count) * 2 - 1) * (math.pi / 6) * uniform(count)
        mirrored = uniform(count) < 0.5
        if wild:
            lying = uniform(count) < _QUARTERS
            turn = torch.where(lying, turn + torch.randint(1, 4, (count,), generator=rng) * math.pi / 2, turn)
            away = uniform(count) < _AWAY
            shift = functional.normalize(normal(count, 2), dim=1) * (0.45 + 0.3 * uniform(count, 1)) * side[:, None]
            centre = torch.where(away[:, None], centre + shift, centre)
            is_face &= ~(lying | away)
        else:
            turn = turn * 0
        cosine, sine = torch.cos(turn), torch.sin(turn)
        flip = torch.where(mirrored, -1.0, 1.0)
        # view = rotation · (photo − centre) / side; the photo is looked up with the inverse.
        scale = side / SIDE
        shift = centre * 2 / SIDE - 1 + 1 / SIDE
        theta = torch.stack(
            [
                torch.stack([cosine * flip * scale, sine * scale, shift[:, 0]], 1),
                torch.stack([-sine * flip * scale, cosine * scale, shift[:, 1]], 1),
            ],
            1,
        )
        grid = functional.affine_grid(theta, [count, 3, SIZE, SIZE], align_corners=False)
        fill = 128.0 if not wild else float(torch.randint(0, 2, (1,), generator=rng)) * 128
        pixels = self.crops[index].permute(0, 3, 1, 2).float() - fill
        views = functional.grid_sample(pixels, grid, align_corners=False) + fill
        # O-Net counts its points from the first pixel's edge, the grid from its middle.
        offset = (points - centre[:, None] - 0.5) / side[:, None, None]
        x = (cosine[:, None] * offset[..., 0] - sine[:, None] * offset[..., 1]) * flip[:, None]
        y = sine[:, None] * offset[..., 0] + cosine[:, None] * offset[..., 1]
        target = torch.stack([x, y], -1)
        target = torch.where(mirrored[:, None, None], target[:, MIRRORED], target)
        clean = (views - 127.5) / 128
        shown = (_worse(views, rng) - 127.5) / 128 if wild else clean
        return shown, clean, is_face, target + 0.5


def _worse(views: Tensor, rng: torch.Generator) -> Tensor:
    """Light, color, sharpness, noise and things in front of the face, each view in its own way."""
    count = len(views)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng)

    grey = views.mean(1, keepdim=True)
    views = torch.where(uniform(count, 1, 1, 1) < 0.15, grey, views)
    middle = views.mean((1, 2, 3), keepdim=True)
    views = (views - middle) * (0.6 + 0.7 * uniform(count, 1, 1, 1)) + middle
    views = views * (0.45 + 0.95 * uniform(count, 1, 1, 1)) * (0.88 + 0.24 * uniform(count, 3, 1, 1))
    third = count // 3
    small = int(torch.randint(14, 40, (1,), generator=rng))
    blurred = functional.interpolate(views[:third], (small, small), mode="area")
    blurred = functional.interpolate(blurred, (SIZE, SIZE), mode="bilinear", align_corners=False)
    views = torch.cat([blurred, views[third:]])
    rows = torch.arange(SIZE)[None] / SIZE
    corner, size = uniform(count, 2) * 0.9, 0.1 + 0.25 * uniform(count, 2)
    across = (rows > corner[:, :1]) & (rows < corner[:, :1] + size[:, :1])
    down = (rows > corner[:, 1:]) & (rows < corner[:, 1:] + size[:, 1:])
    hidden = (down[:, :, None] & across[:, None] & (uniform(count, 1, 1) < 0.2))[:, None]
    views = torch.where(hidden, uniform(count, 3, 1, 1) * 255, views)
    views = views + torch.randn(views.shape, generator=rng) * 8 * uniform(count, 1, 1, 1)
    return views.clamp(0, 255)


def _points(answer: Tensor) -> Tensor:
    """(N, 5, 2) points of the net's answer."""
    return answer[:, 5:].view(-1, 2, 5).transpose(1, 2)


def tested(net: LandmarkNet, faces: Faces) -> dict[str, float]:
    """Mean error in pixels of the 112-pixel crop, its 95 % point, and errors of confidence at even odds."""
    net.eval()
    rng = torch.Generator().manual_seed(1)
    answers, labels, targets = [], [], []
    with torch.no_grad():
        for index in torch.split(torch.arange(len(faces.points)), _BATCH):
            views, _, is_face, points = faces.seen(index, rng, wild=False)
            answers.append(net(views))
            labels.append(is_face)
            targets.append(points)
    answer, is_face, target = torch.cat(answers), torch.cat(labels), torch.cat(targets)
    off = (_points(answer) - target)[is_face].norm(dim=2).mean(1)
    eyes = (target[is_face][:, 1] - target[is_face][:, 0]).norm(dim=1).clamp_min(0.1)
    error = off / eyes * _EYES
    return {
        "error_px": round(float(error.mean()), 3),
        "error_p95_px": round(float(error.quantile(0.95)), 3),
        "faces_refused": round(float((answer[is_face, 0] < 0).float().mean()), 4),
        "negatives_taken": round(float((answer[~is_face, 0] > 0).float().mean()), 4),
    }


def main() -> None:
    """Trains, one epoch after the other, and writes what is needed to go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onet", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="checkpoint of an earlier run to start from")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    faces, held_out = Faces(arguments.data, held_out=False), Faces(arguments.data, held_out=True)
    net, teacher = LandmarkNet(), LandmarkNet()
    for one in (net, teacher):
        one.start(torch.load(arguments.onet, weights_only=True))
        one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no stub of it
    if arguments.start:
        net.load_state_dict(torch.load(arguments.start, weights_only=True)["net"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=arguments.rate, weight_decay=1e-4)
    arguments.output.mkdir(parents=True, exist_ok=True)
    checkpoint, log = arguments.output / "checkpoint.pt", arguments.output / "log.jsonl"
    epoch = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        epoch = state["epoch"]
    steps = math.ceil(len(faces.points) / _BATCH)
    for number in range(epoch, arguments.epochs):
        net.train()
        rng = torch.Generator().manual_seed(number)
        began, losses = time.process_time(), []
        order = torch.randperm(len(faces.points), generator=rng)
        for step, index in enumerate(torch.split(order, _BATCH)):
            done = (number + step / steps) / arguments.epochs
            warm = min(1.0, (number * steps + step + 1) / 100)
            optimizer.param_groups[0]["lr"] = arguments.rate * warm * (0.5 + 0.5 * math.cos(math.pi * done))
            views, clean, is_face, points = faces.seen(index, rng, wild=True)
            with torch.autocast("cpu", torch.bfloat16):
                answer = net(views.contiguous(memory_format=torch.channels_last)).float()
                with torch.no_grad():
                    box = teacher(clean[:_TAUGHT].contiguous(memory_format=torch.channels_last)).float()[:, 1:5]
            off = (_points(answer) - points)[is_face].norm(dim=2)
            # Linear far from the target, logarithmic near it: the wing loss (Feng et al., 2018) of distances.
            near = torch.log1p(off / 0.01) * 0.5 + off * 10
            boxed = (answer[:_TAUGHT, 1:5] - box)[is_face[:_TAUGHT]].abs()
            loss = near.mean() + boxed.mean()
            loss = loss + functional.binary_cross_entropy_with_logits(answer[:, 0], is_face.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        row = {"epoch": number + 1, "loss": round(float(np.mean(losses)), 4), **tested(net, held_out)}
        row["cpu_s"] = round(time.process_time() - began, 1)
        with log.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        saved = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": number + 1}
        partial = checkpoint.with_suffix(".partial")
        torch.save(saved, partial)
        partial.replace(checkpoint)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
