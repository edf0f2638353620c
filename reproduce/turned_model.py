r"""Makes of sirius' net, which knows turned heads, one that is nearly as cheap in int8 as ours (docs/models.md).

    python -m reproduce.turned_model prepared/people prepared/others… --peers peers -o runs/turned

The start is sirius' net itself, whose PReLU costs half as much time again in int8, most of it where maps are large. So
the student has ReLU there, and sirius' weights everywhere. Its early layers learn what sirius' give, for each face many
thousand numbers, so that few faces teach much; the others stay as they are. Then the last layer is fitted to both
teachers' embeddings side by side, and the embedding is shortened to 128 numbers (``reproduce.whitened``).

``prepared/people`` is split by identities, ``prepared/others`` are faces without names. A stopped run goes on from its
last few thousand faces, ``--init weights/mobilefacenet-turned.safetensors`` from what the early layers know already.
Teachers' embeddings are kept in the run's folder; the student is ``short.safetensors`` there.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.backbones import build_backbone
from edgeface.backbones.mobilefacenet import Bottleneck
from edgeface.data.dataset import FaceData, load_data, open_unlabeled
from edgeface.evaluation.opening import contract_of, open_embedder
from edgeface.training.augment import augment, draw, normalize
from edgeface.training.checkpoints import contract_draft, load_checkpoint, save_tensors
from edgeface.training.config import AugmentConfig, TrainConfig, load_config
from edgeface.training.distill.features import folded
from edgeface.training.init.tflite import init_from_tflite
from edgeface.training.least_squares import fit_linear
from edgeface.training.processes import freed_memory_kept
from edgeface_runtime.model import unit_rows
from reproduce import whitened

LICENCE = (
    "research only: learnt from photos of CelebA, Families in the Wild, UTKFace, All-Age-Faces, RAF-DB, SCUT-FBP5500, "
    "MEBeauty, of Indian actors and of sportsmen, from the weights of sirius-ai/MobileFaceNet_TF (Apache-2.0; "
    "MS-Celeb-1M)"
)
TEACHERS = {"sirius": ("sirius-mobilefacenet-192d.tflite", 1.0), "foamliu": ("foamliu-mobilefacenet-128d.onnx", 0.5)}
"""Contract's name → file, and the share of its embedding in the target: chosen on CFP's folds 01 and 03 to 10, where
0.4 to 0.6 keep sirius' 93 % of the profiles and add foamliu's 0.1 points of the frontal pairs."""
ORIGINAL = "mobilefacenet:padding=same"
"""Sirius' net."""
BACKBONE = "mobilefacenet:padding=same,early=relu"
LENGTH = 192
"""Of the embedding that is fitted."""
SHORTENED = 128
"""Of the one that is kept: on half of the training people as good as 192, with the axes of the others. Whitened it
gains there, and loses on profiles."""
BATCH = 64
KEEP_EVERY = 50
"""Steps."""
FITTED = 12_288
"""Faces from which the last layer takes its numbers, and of which every sixth gives batch norms theirs."""
AUGMENT = AugmentConfig(erase_prob=0.1, blur_prob=0.1, downscale_prob=0.1, turn_prob=0.3, turn_degrees=70.0)


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces of people in the split's training part and those without names."""

    parts: Sequence[NDArray[np.uint8]]
    """(N_i, 112, 112, 3) uint8 RGB."""

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(B, 112, 112, 3) uint8 RGB."""
        starts = np.cumsum([0, *map(len, self.parts)])
        part = np.searchsorted(starts, rows, side="right") - 1
        return np.stack([self.parts[of][row - starts[of]] for of, row in zip(part, rows, strict=True)])

    def batch(self, rows: NDArray[np.int64], config: TrainConfig) -> Tensor:
        """(B, 3, 112, 112) normalised faces."""
        faces = normalize(torch.from_numpy(self.pixels(rows)), *config.model.pixel_statistics)
        return faces.contiguous(memory_format=torch.channels_last)


def embeddings_of(name: str, peers: Path, faces: NDArray[np.uint8], folder: Path) -> NDArray[np.float32]:
    """A teacher's (N, D) unit embeddings, kept in the folder."""
    path, kept = peers / TEACHERS[name][0], folder / f"{name}.npy"
    if not kept.exists():
        np.save(kept, open_embedder(path, contract=contract_of(path, Path(name))).embed(faces))
    found: NDArray[np.float32] = np.load(kept)
    return found


def targets_of(embeddings: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """(N, LENGTH) unit rows: all teachers' embeddings side by side, on their principal axes."""
    joined = np.hstack([TEACHERS[name][1] * rows for name, rows in embeddings.items()])
    axes = np.linalg.svd(joined, full_matrices=False)[2][:LENGTH]
    return unit_rows((joined @ axes.T).astype(np.float32))


def maps_of(net: nn.Module, faces: Tensor, until: int) -> list[Tensor]:
    """The maps behind each bottleneck of the first ``until`` layers."""
    maps, x = [], faces
    for layer in list(net.layers)[:until]:  # type: ignore[arg-type]
        x = layer(x)
        if isinstance(layer, Bottleneck):
            maps.append(x)
    return maps


def unexplained(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """(maps,): the share of the variance of each of the teacher's maps that the student does not explain."""
    both = [(x.float(), y.float()) for x, y in zip(ours, theirs, strict=True)]
    return torch.stack([F.mse_loss(x, y) / y.var((0, 2, 3)).mean() for x, y in both])


@torch.no_grad()
def start(faces: Tensor, peers: Path, init: Path | None) -> tuple[nn.Module, nn.Module]:
    """Sirius' net, and the student with its weights where both have them, or with those of ``init``."""
    teacher = build_backbone(ORIGINAL, embedding=192, size=112)
    init_from_tflite(teacher, peers / TEACHERS["sirius"][0], faces)
    student = build_backbone(BACKBONE, embedding=LENGTH, size=112)
    known = load_checkpoint(init).net.state_dict() if init else teacher.state_dict()
    wanted = student.state_dict()
    same = {name: value for name, value in known.items() if name in wanted and wanted[name].shape == value.shape}
    student.load_state_dict(same, strict=False)
    for net in (teacher, student):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher.eval(), student.train()


def fast(net: nn.Module) -> nn.Module:
    """A copy that computes the same, batch norm folded: in bfloat16 a fifth of the time."""
    copied = folded(net)
    for name, layer in list(copied.named_modules()):
        if isinstance(layer, nn.PReLU):
            plain = nn.PReLU(layer.num_parameters)
            plain.weight = layer.weight
            copied.set_submodule(name, plain)
    return copied


def rows_of(step: int, faces: int) -> NDArray[np.int64]:
    """A batch's rows; each pass over the faces has an order of its own."""
    passed, place = divmod(step, faces // BATCH)
    return np.random.default_rng((1, passed)).permutation(faces)[place * BATCH :][:BATCH]


def early_layers(net: nn.Module) -> int:
    """How many layers there are up to the first bottleneck that leaves maps of an eighth of the faces' side."""
    x = torch.zeros(1, 3, 112, 112)
    for place, layer in enumerate(net.layers):  # type: ignore[arg-type]
        x = layer(x)
        if isinstance(layer, Bottleneck) and x.shape[-1] * 8 <= 112:
            return place + 1
    raise AssertionError("a MobileFaceNet has such a map")


def teach(
    student: nn.Module, teacher: nn.Module, faces: Faces, options: argparse.Namespace, config: TrainConfig
) -> None:
    """Trains the early layers in place, from where the folder's state says on."""
    early, kept = early_layers(teacher.eval()), options.output / "state.pt"
    kind = torch.bfloat16 if options.bf16 else torch.float32
    teacher, count = fast(teacher).to(kind), len(faces)
    layers = list(student.layers)[:early]  # type: ignore[arg-type]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=1e-4)
    steps, first, begun = int(options.passes * count / BATCH), 0, time.monotonic()
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        student.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, steps):
        for group in optimizer.param_groups:
            warm, cooled = min(1.0, (step + 1) / (0.05 * steps)), (1 + math.cos(math.pi * step / steps)) / 2
            group["lr"] = options.lr * warm * cooled
        x = faces.batch(rows_of(step, count), config)
        x = augment(x, draw(BATCH, torch.Generator().manual_seed(step)), AUGMENT)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            theirs = maps_of(teacher, x.to(kind), early)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            ours = maps_of(student, x, early)
        shares = unexplained(ours, theirs)
        loss = shares.mean() + shares[-1]  # the layers that stay see the last map alone
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == steps:
            rate = (step + 1 - first) * BATCH / (time.monotonic() - begun)
            left = (steps - step - 1) * BATCH / rate / 60
            said = f"{step + 1} of {steps} steps, unexplained {shares.mean():.4f}, of the last map {shares[-1]:.4f}, "
            said += f"{rate:.1f} faces/s, {left:.0f} min left"
            print(said, flush=True)
            state = {"net": student.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, kept.with_suffix(".new"))
            kept.with_suffix(".new").replace(kept)


@torch.no_grad()
def finish(student: nn.Module, faces: Faces, rows: NDArray[np.int64], targets: Tensor, config: TrainConfig) -> None:
    """Gives batch norms the statistics of the maps that now come, and fits the last layer to the rows' targets."""
    norms = [layer for layer in student.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    student.train()
    for chunk in np.array_split(rows[::6], max(1, len(rows) // 6 // BATCH)):
        student(faces.batch(chunk, config))
    student.eval()
    seen = []
    *trunk, linear, last, _ = student.layers  # type: ignore[misc]
    for places in np.array_split(np.arange(len(rows)), max(1, len(rows) // BATCH)):
        x = nn.Sequential(*trunk)(faces.batch(rows[places], config))
        seen.append((x.flatten(1).double(), targets[places].double()))
    weight, bias = fit_linear(seen, 1e-3)
    outputs = torch.cat([x for x, _ in seen]).float() @ weight.T
    mean, variance = outputs.mean(0), outputs.var(0)
    linear.weight.copy_(weight[:, :, None, None])
    for tensor, value in (
        (last.running_mean, mean),
        (last.running_var, variance),
        (last.weight, (variance + last.eps).sqrt()),
        (last.bias, bias + mean),
    ):
        tensor.copy_(value)


def train(people: FaceData, parts: dict[str, NDArray[np.uint8]], options: argparse.Namespace) -> Path:
    """The checkpoint that came of it."""
    config = load_config(backbone=BACKBONE, embedding_dim=LENGTH)
    faces = Faces(list(parts.values()))
    rows = np.sort(np.random.default_rng(0).permutation(len(faces))[:FITTED])
    torch.manual_seed(0)
    sample = faces.batch(np.arange(0, len(parts["people"]), 16), config)
    teacher, student = start(sample, options.peers, options.init)
    with freed_memory_kept():
        teach(student, teacher, faces, options, config)
    fitted = faces.pixels(rows)
    targets = targets_of({name: embeddings_of(name, options.peers, fitted, options.output) for name in TEACHERS})
    finish(student, faces, rows, torch.from_numpy(targets), config)
    contract = contract_draft(config, data_sha256=people.sha256, licence=LICENCE, photos=people)
    path: Path = options.output / "best.safetensors"
    save_tensors(path, student.state_dict(), {"contract": json.loads(contract.to_json())})
    return whitened.write(path, options.people, options.output / "short.safetensors", share=0, length=SHORTENED)


def main() -> None:
    """Embeds the faces with both teachers, trains, and writes the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--passes", type=float, default=0.42, help="over all faces")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--init", type=Path, help="weights of the student to go on from")
    parser.add_argument("--bf16", action="store_true", help="on a processor with instructions for it")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    people = load_data(options.people)
    parts = {"people": people.faces[people.rows("train")]}
    parts |= {path.name: open_unlabeled(path) for path in options.others}
    train(people, parts, options)


if __name__ == "__main__":
    main()
