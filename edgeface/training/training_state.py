"""What a training run learns, from which faces, what it is at a moment, and how that gets to disk and back."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgeface.backbones import build_backbone
from edgeface.backbones.layers import Pooled
from edgeface.data.dataset import FaceData
from edgeface.heads import HEADS, ClassCentres, build_head, drawn_classes
from edgeface.progress import SILENT, Reporter
from edgeface.training.checkpoints import load_state, load_tensors, save_tensors
from edgeface.training.config import OptimConfig, TrainConfig, as_dict, by_key, config_from
from edgeface.training.devices import free_memory, onto
from edgeface.training.schedule import CURVES, Epoch, write_curves
from edgeface_runtime import Contract, ModelError, UsageError
from edgeface_runtime.checks import Positive, build

LAST, BEST = "last.safetensors", "best.safetensors"
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
"""Of classes, that a refusal may propose."""
LOGITS = 6
"""Copies of a batch's logits at once: cosines, with margin, scaled, their log-softmax and gradients."""
KEPT = 0.25
"""Of a GPU's free memory, that all faces may take."""
CHUNK = 1024
"""Faces copied there at once."""
VALIDATED = 64
"""Faces in a batch of validation, which compares with all classes."""


class Learner(nn.Module):
    """Backbone, head and feature teacher as one module, so that one forward pass serves all processes."""

    def __init__(self, net: nn.Module, head: ClassCentres, feature_teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.head, self.feature_teacher = net, head, feature_teacher

    def forward(self, x: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalized faces and labels → ((N, D) embeddings, (N, classes) logits, the hint loss or None)."""
        embeddings = self.net(x).float()
        hint_loss = None if self.feature_teacher is None else self.feature_teacher()
        return embeddings, self.head(embeddings, labels, margin), hint_loss


@dataclass(frozen=True, eq=False)
class Pool:
    """Labelled faces, then unlabeled ones, under one row number."""

    data: FaceData
    unlabeled: NDArray[np.uint8] | None
    targets: NDArray[np.float32] | None
    device: torch.device

    @functools.cached_property
    def kept(self) -> Tensor | None:
        """All faces, uint8, on a GPU whose memory they take little of, so that no step copies one; else None."""
        count, rest = len(self.data.faces), self.unlabeled
        parts = [self.data.faces] if rest is None else [self.data.faces, rest]
        free = None if self.device.type == "cpu" else free_memory(self.device)
        if free is None or sum(part.nbytes for part in parts) > KEPT * free:
            return None
        kept = torch.empty((len(self.labels), *self.data.faces.shape[1:]), dtype=torch.uint8, device=self.device)
        for first, part in zip((0, count), parts, strict=False):
            for at in range(0, len(part), CHUNK):
                some = torch.from_numpy(np.array(part[at : at + CHUNK]))
                kept[first + at : first + at + len(some)] = onto(some, self.device)
        return kept

    @functools.cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N + M,) identities; −1 where a face has no name."""
        extra = 0 if self.unlabeled is None else len(self.unlabeled)
        return np.concatenate([self.data.labels, np.full(extra, -1)])

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor | None]:
        """((n, S, S, 3) uint8, (n,) int64, (n, D) float targets or None) of the given rows, on the device."""
        labels = onto(torch.from_numpy(self.labels[rows]), self.device)
        target = None if self.targets is None else onto(torch.from_numpy(self.targets[rows]), self.device)
        if self.kept is not None:
            return self.kept.index_select(0, onto(torch.from_numpy(rows), self.device)), labels, target
        count = len(self.data.faces)
        faces = np.empty((len(rows), *self.data.faces.shape[1:]), np.uint8)
        named = rows < count
        faces[named] = self.data.faces[rows[named]]
        if self.unlabeled is not None:
            faces[~named] = self.unlabeled[rows[~named] - count]
        return onto(torch.from_numpy(faces), self.device), labels, target


@dataclass(eq=False)
class TrainingState:
    """Everything that a run needs to go on from here."""

    learner: Learner
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    """The running average of the net, where ``ema_decay`` asks for one."""
    curves: list[Epoch]
    lr_scale: float = 1.0
    """Lowered when the loss stopped being finite."""

    @property
    def kept(self) -> nn.Module:
        """The net that is validated and saved as the best."""
        return self.learner.net if self.average is None else self.average.module

    def is_finite(self) -> Tensor:
        """True where all weights and running statistics are: a finite loss may have had a gradient that was not."""
        tensors = [*self.learner.state_dict().values(), *self.kept.state_dict().values()]
        return torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()

    def save(self, folder: Path, config: TrainConfig, data_sha256: str, contract: Contract) -> None:
        """Writes curves, the best net when this epoch is the best, and the state, in that order.

        Raises:
            UsageError: the disk is full; what was saved before is kept.
        """
        if self.curves:
            write_curves(self.curves, folder / CURVES)
            if self.curves[-1].score() >= max(row.score() for row in self.curves):
                last = self.curves[-1]
                found = {"epoch": last.epoch, "loss": last.val_loss, "accuracy": last.val_accuracy}
                whole = replace(contract, accuracy={"validation": found} if last.val_loss is not None else {})
                save_tensors(folder / BEST, self.kept.state_dict(), {"contract": json.loads(whole.to_json())})
        tensors = {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.module.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors_of = {name: value for name, value in values.items() if value is not None}
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in tensors_of.items()}
        document = {
            "config": as_dict(config),
            "data_sha256": data_sha256,
            "curves": [asdict(row) for row in self.curves],
            "lr_scale": self.lr_scale,
        }
        save_tensors(folder / LAST, tensors, document)

    def restore(self, folder: Path, config: TrainConfig, data_sha256: str, reporter: Reporter = SILENT) -> None:
        """Goes back to the saved state.

        Raises:
            UsageError: it was saved with other settings or other photos.
            ModelError: it is damaged.
        """
        tensors, found = load_tensors(folder / LAST)
        try:
            document = build(_Document, found, "document", fails=ModelError)
        except ModelError as error:
            raise ModelError(f"{folder / LAST}: {error}") from error
        saved = by_key(as_dict(config_from(document["config"], str(folder / LAST), reporter)))
        changed = [key for key, value in by_key(as_dict(config)).items() if saved[key] != value]
        if changed:
            raise UsageError(
                f"{folder}: started with another {', '.join(changed)}; resume with the same settings (leave them out), "
                f"or begin a new run from this one: --init {folder} -o NEW"
            )
        if document["data_sha256"] != data_sha256:
            raise UsageError(f"{folder}: started on other photos (their digest differs)")
        parts: dict[str, dict[str, Tensor]] = {"learner": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = _current(name).partition(".")
            if part not in parts or (part == "optimizer" and not re.fullmatch(r"\d{1,9}\.\w+", rest)):
                raise ModelError(f"{folder / LAST}: has a tensor {name[:60]!r} that no run has")
            parts[part][rest] = tensor
        load_state(self.learner, parts["learner"], folder / LAST)
        if self.average is not None:
            load_state(self.average.module, parts["average"], folder / LAST)
            self.average.n_averaged.fill_(len(document["curves"]))  # at 0 its next update would copy, not average
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.curves = document["curves"]
        self.lr_scale = document["lr_scale"]


class _Document(TypedDict):
    config: dict[str, object]
    data_sha256: str
    curves: list[Epoch]
    lr_scale: Positive


def _current(name: str) -> str:
    """The name of a tensor of a saved state, which older runs may have under another."""
    for old, new in (("optimiser.", "optimizer."), ("learner.guide.", "learner.feature_teacher.")):
        name = new + name.removeprefix(old) if name.startswith(old) else name
    return name


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or SGD; biases, batch norm and PReLU slopes are not decayed, an embedding layer has a rate of its own."""
    embedding = [p for m in model.modules() if isinstance(m, Pooled) for p in m.embed.parameters() if p.ndim > 1]
    apart = set(map(id, embedding))
    decayed = [p for p in model.parameters() if p.ndim > 1 and id(p) not in apart]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, list[nn.Parameter] | float]] = [
        {"params": decayed, "weight_decay": config.weight_decay, "share": 1.0},
        {"params": others, "weight_decay": 0.0, "share": 1.0},
        {"params": embedding, "weight_decay": config.weight_decay, "share": config.embedding_lr_scale},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)


@torch.no_grad()
def clamp_slopes(slopes: Sequence[Tensor]) -> None:
    """PReLU's slopes to at most 1, in place: the exact rewrites that export uses hold up to there."""
    for slope in slopes:
        slope.clamp_(max=1.0)


def check_names(config: TrainConfig) -> None:
    """Builds backbone and head once, so that a wrong name, option or size is told before photos are opened.

    Raises:
        UsageError: as ``build_backbone`` and ``build_head``.
        ModuleNotFoundError: a net of timm, and timm is not installed.
    """
    build_backbone(config.model.backbone, embedding=config.model.embedding_dim, size=config.model.input_size)
    build_head(config.head.loss, 2, 2, s=config.head.logit_scale, m=config.head.margin)


def head_for(config: TrainConfig, classes: int, free: int | None, processes: int = 1) -> ClassCentres:
    """The head of a run, once its classes are known to fit into memory.

    Args:
        config: of the run.
        classes: how many people there are.
        free: bytes of memory that this process may take; None where that is not known.
        processes: among which a batch is shared.

    Raises:
        UsageError: as ``build_head``; or memory is too small, and what would fit.
    """

    def needed(share: float) -> int:
        return head_bytes(config, classes, share, processes)

    share = config.head.class_sampling
    if config.head.loss in HEADS and free is not None and needed(share) > free:
        fits = next((less for less in SHARES if less < share and needed(less) <= free), None)
        less = SHARES[-1] if fits is None else fits
        mend = "" if fits else ": take a smaller embedding_dim, optimizer=sgd, or fewer people"
        raise UsageError(
            f"{classes:,} people: {config.head.loss} with class_sampling={share:g} takes about "
            f"{_gigabytes(needed(share))} to train, and {_gigabytes(free)} are free; "
            f"--set class_sampling={less:g} takes {_gigabytes(needed(less))}{mend}"
        )
    scale, margin = config.head.logit_scale, config.head.margin
    return build_head(config.head.loss, config.model.embedding_dim, classes, s=scale, m=margin)


def head_bytes(config: TrainConfig, classes: int, share: float, processes: int = 1) -> int:
    """Bytes that head, optimizer and logits take at their most, in float32, in one of the processes."""
    centres = HEADS[config.head.loss].CENTRES
    row, moments = 4 * centres * config.model.embedding_dim, 2 if config.optim.optimizer == "adamw" else 1
    drawn = drawn_classes(classes, share, config.data.batch_size)
    logits = 4 * (centres + LOGITS - 1)
    # Gradient, directions and their gradient, what the optimizer needs meanwhile; of a share its own copy too.
    step = drawn * row * (4 + (1 + moments if drawn < classes else 0))
    step += logits * drawn * math.ceil(config.data.batch_size / processes)
    validation = classes * (row + logits * VALIDATED)
    saving = classes * row * (1 + moments)
    return classes * row * (1 + moments) + max(step, validation, saving)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
