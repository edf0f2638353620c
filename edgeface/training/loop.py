"""Trains a backbone with a margin head, teachers, or both. The loop reads top to bottom in ``train``.

    edgeface train DATA                                      one device
    accelerate launch -m edgeface train DATA                 several processes, GPUs or machines

Every random draw follows from (seed, epoch, step), so that a run resumed after a kill ends with the
weights that an unbroken run ends with, and several processes see what one process sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgeface.backbones import build_backbone
from edgeface.backbones.layers import Pooled, PReLU, stretch_small_maps
from edgeface.data.dataset import FaceData, batches
from edgeface.embedder import Embedder
from edgeface.heads import ClassCentres, ClassSampling, LearnedArcFace
from edgeface.progress import SILENT, Reporter
from edgeface.training.adversarial import perturbed
from edgeface.training.augment import augment, draw, normalize
from edgeface.training.checkpoints import (
    Checkpoint,
    contract_draft,
    data_card,
    new_folder,
    whole_licence,
    write_record,
)
from edgeface.training.config import DistillConfig, TrainConfig
from edgeface.training.devices import compile_net, free_memory, memory_explained
from edgeface.training.distill.features import FeatureTeacher
from edgeface.training.distill.teachers import targets_of_run
from edgeface.training.init.fit import fit_to_teachers, imprint_head
from edgeface.training.processes import (
    agreed,
    freed_memory_kept,
    join_processes,
    own_share,
    share_batch_norm,
    summed,
)
from edgeface.training.record import RECORD, Origin
from edgeface.training.schedule import Clock, Epoch, epoch_order, learning_rate, margin_at, side_at, stalled, step_seed
from edgeface.training.training_state import (
    LAST,
    Learner,
    Pool,
    TrainingState,
    clamp_slopes,
    head_for,
    make_optimizer,
)
from edgeface_runtime import UsageError

ROLLBACKS = 5
"""How often a run may lower its rate before it gives up."""
CHECK_EVERY = 20
"""Steps between looks at the loss: each one waits for the device."""
NO_FP16 = "mixed_precision=fp16 needs a GPU, so this run is in float32; bf16 is for CPUs too"
NO_VALIDATION = (
    "no validation photos: nothing can choose the best epoch, so the last one is kept and early stopping is off; give "
    "more photos a person"
)
SCALE_FACES = 256
"""Faces from which the channels of a feature teacher's maps get their scale."""


@freed_memory_kept()
def train(
    data: FaceData,
    folder: Path,
    config: TrainConfig,
    *,
    reporter: Reporter = SILENT,
    licence: str = "unknown",
    sources: Sequence[Origin] = (),
    resume: bool = False,
    init: Callable[[nn.Module], None] | None = None,
    teachers: Sequence[Embedder] = (),
    feature_teacher: Checkpoint | None = None,
    unlabeled: NDArray[np.uint8] | None = None,
    tensorboard: bool = False,
    command: Mapping[str, object] | None = None,
) -> list[Epoch]:
    """Trains on the data's ``train`` rows, watches its ``val`` rows, writes the run folder.

    Args:
        data: labelled faces.
        folder: the run folder.
        config: every setting.
        reporter: told how far it is, and a line after each epoch.
        licence: what the photos allow.
        sources: what it learns from beside them; their licences go with that of the photos.
        resume: go on with the run in the folder.
        init: fills the new net's weights; not called when a saved state is there.
        teachers: embedders whose outputs the student learns.
        feature_teacher: a trained model in their place, whose feature maps of augmented faces the student learns too.
        unlabeled: (M, S, S, 3) uint8 RGB faces without labels, used in the distillation loss alone.
        tensorboard: write the curves as TensorBoard events too.
        command: what the command line was given, kept in ``run.json``, so that ``--resume`` needs the folder alone.

    Returns:
        The curves, one row an epoch.

    Raises:
        UsageError: the folder is not ours, data or memory are too small, settings do not go together, or the loss is
            never finite.
    """
    # ---- devices and processes
    accelerator = join_processes(config.system.mixed_precision)
    device, world, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    reporter = reporter if (is_main := accelerator.is_main_process) else SILENT
    if config.system.mixed_precision == "fp16" and device.type == "cpu":
        reporter.say(NO_FP16)

    # ---- net and head, before a folder is made: their names may be wrong
    torch.manual_seed(config.system.seed)
    net = build_backbone(config.model.backbone, embedding=config.model.embedding_dim, size=config.model.input_size)
    if config.schedule.progressive_size:
        stretch_small_maps(net)
    head = head_for(config, len(data.identities), free_memory(device), world)

    # ---- data
    train_rows, val_rows = data.rows("train"), data.rows("val")
    _check_teachers(config, net, teachers, feature_teacher, unlabeled)
    extra = 0 if unlabeled is None else len(unlabeled)
    pool_rows = np.concatenate([train_rows, len(data.faces) + np.arange(extra)])
    batch = config.data.batch_size
    check_batch(batch, len(pool_rows), world)
    begun = (folder / LAST).exists()  # asked before the wait, after which the main process may save it
    if is_main:
        new_folder(folder, marker=RECORD, resume=resume)
    accelerator.wait_for_everyone()
    if init is not None and not begun:
        init(net)
    digest = data.sha256 if unlabeled is None else hashlib.sha256(unlabeled.tobytes()).hexdigest() + data.sha256
    if is_main and not begun:  # before all else that is written: it marks the folder as ours, should a kill come
        write_record(folder, config, data_card(data, digest, licence, extra), sources, command, device)
    targets = None
    if teachers:
        student = net if init is not None else None
        targets = targets_of_run(data, unlabeled, teachers, student, config, folder / "teachers", reporter)
    pool = Pool(data, unlabeled, targets, device)

    # ---- optimizer, and where an earlier run stopped
    hints = _feature_teacher(net, feature_teacher, data.faces[train_rows[:SCALE_FACES]], config)
    learner = Learner(net, head, hints).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.init.fit_embedding and not begun:
        fit_to_teachers(learner, pool, pool_rows, config, reporter)
    if config.init.imprint_head and not begun:
        imprint_head(learner, pool, train_rows, config, reporter)
    if world > 1:
        share_batch_norm(learner, device)
    state = TrainingState(learner, make_optimizer(learner, config.optim), _average(net, config.optim.ema_decay), [])
    contract = contract_draft(config, data_sha256=digest, photos=data, licence=whole_licence(licence, sources))
    if begun:
        state.restore(folder, config, digest, reporter)
    elif is_main:
        state.save(folder, config, digest, contract)
    if config.system.compile:
        compile_net(net, reporter)
    sampling = ClassSampling(head, state.optimizer, config.head.class_sampling, batch)
    model, optimizer = accelerator.prepare(learner, state.optimizer)
    slopes = [module.weight for module in net.modules() if isinstance(module, PReLU)]
    steps, epochs, rollbacks, clock = len(pool_rows) // batch, config.schedule.epochs, 0, Clock(config)
    share = slice(rank * batch // world, (rank + 1) * batch // world)
    if not len(val_rows):
        reporter.say(NO_VALIDATION)

    while len(state.curves) < epochs and not stalled(state.curves, config.schedule.early_stopping_patience):
        # ---- one pass over the training photos, in an order of its own
        epoch = len(state.curves)
        side, order = side_at(epoch, config), epoch_order(pool_rows, data.labels, config, epoch)
        model.train()
        seen: list[Tensor] = []
        finite = torch.ones((), dtype=torch.bool, device=device)
        for step, rows in enumerate(clock.track(batches(order, batch)[:steps], state.curves, reporter)):
            progress = (epoch * steps + step) / (steps * epochs)
            lr, margin = state.lr_scale * learning_rate(progress, config), margin_at(progress, config)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["share"]
            generator = torch.Generator().manual_seed(step_seed(config.system.seed, epoch, step))
            drawn = draw(batch, generator).part(share, device)
            labelled = max(1, int((pool.labels[rows] >= 0).sum())) / world
            faces, labels, target = pool.batch(rows[share])
            labels = sampling.columns(labels, pool.labels[rows], generator.initial_seed())
            x = normalize(faces, *config.model.pixel_statistics)
            if hints is None:
                x = augment(shrink(x, side), drawn, config.augment)
            else:  # at full size, which the teacher takes
                target = hints.embed(x := augment(x, drawn, config.augment))
                x = shrink(x, side)
            with memory_explained(batch, net, x, accelerator.autocast):
                x = x.contiguous(memory_format=torch.channels_last)
                with accelerator.autocast():
                    if config.augment.adversarial != "no":
                        x = perturbed(x, learner, labels, target, margin, config, share, generator)
                    embeddings, logits, hint_loss = model(x, labels.clamp(min=0), margin)
                loss, figures = losses(embeddings, logits, labels, target, labelled, config.distill, head)
                loss = loss + config.distill.hint_weight * (0 if hint_loss is None else hint_loss)
                optimizer.zero_grad()
                accelerator.backward(loss)
                norm = accelerator.clip_grad_norm_(model.parameters(), config.optim.grad_clip_norm)
                optimizer.step()
            sampling.release()
            clamp_slopes(slopes)
            if state.average is not None:
                state.average.update_parameters(net)
            seen.append(figures)
            finite &= torch.isfinite(figures[0])
            if norm is not None and accelerator.scaler is None:  # a scaler of gradients skips such a step by itself
                finite &= torch.isfinite(norm)
            if step % CHECK_EVERY == 0 and not agreed(finite):
                break

        # ---- a loss, gradient or weight that is not finite: all back to the last good state, at a lower rate
        means = accelerator.reduce(torch.stack(seen).mean(0), "mean").tolist()
        if not agreed(finite & state.is_finite()):
            if (rollbacks := rollbacks + 1) > ROLLBACKS:
                raise UsageError(f"the loss is not finite even at a rate of {lr:g}; change lr, logit_scale or margin")
            _roll_back(state, folder, config, digest, reporter)
            continue

        # ---- how it stands, and what stays if the process dies now
        shown = _shown(means[1:], config, taught=targets is not None or hints is not None)
        held_out = validate(state, pool, val_rows, side, config)
        margin = head.margin.item() if isinstance(head, LearnedArcFace) else margin
        state.curves.append(row := Epoch(epoch + 1, means[0], *shown, *held_out, lr, margin, side, clock.lap()))
        if is_main:
            state.save(folder, config, digest, contract)
            _report(row, clock.rest(state.curves), folder, config, reporter, tensorboard)
        accelerator.wait_for_everyone()
    return state.curves


def losses(
    embeddings: Tensor,
    logits: Tensor,
    labels: Tensor,
    target: Tensor | None,
    labelled: float,
    weights: DistillConfig,
    head: ClassCentres | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch and, for the curves, (loss, accuracy of the head, cosine to the teachers).

    Cross-entropy and the head's penalty over the faces that have a label (``labelled`` of them per process, over all
    processes on average), and 1 − cosine to the target over all faces.
    """
    named = labels >= 0
    loss = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")
    if head is not None and (penalty := head.penalty(embeddings)) is not None:
        loss = loss + (penalty * named).sum()
    loss = weights.classification_weight * loss / labelled
    hits = ((logits.argmax(1) == labels) & named).sum() / labelled
    cosine = torch.zeros((), device=loss.device)
    if target is not None:
        cosine = F.cosine_similarity(embeddings, target).mean()
        loss = loss + weights.distill_weight * (1 - cosine)
    return loss, torch.stack([loss.detach(), hits.float(), cosine.detach()])


def shrink(x: Tensor, side: int) -> Tensor:
    """(N, 3, S, S) → (N, 3, side, side), smoothed first so that nothing aliases; the same tensor at full size."""
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="bilinear", antialias=True)


@torch.no_grad()
def validate(
    state: TrainingState,
    pool: Pool,
    rows: NDArray[np.int64],
    side: int,
    config: TrainConfig,
) -> tuple[float | None, float | None, float | None]:
    """(loss, accuracy of the head without margin, cosine to the teachers) on unaltered faces; None where not had.

    Of several processes each looks at its share of the rows; all get the figures of the whole.
    """
    if not len(rows):
        return None, None, None
    state.kept.eval()
    state.learner.eval()
    total = torch.zeros(3, device=pool.device)
    for chunk in batches(own_share(rows.tolist()), 64):
        faces, labels, target = pool.batch(chunk)
        x = normalize(faces, *config.model.pixel_statistics)
        if isinstance(hints := state.learner.feature_teacher, FeatureTeacher):
            target = hints.embed(x)
        x = shrink(x, side)
        embeddings = state.kept(x.contiguous(memory_format=torch.channels_last))
        with_margin = state.learner.head(embeddings, labels, config.head.margin)
        plain = state.learner.head(embeddings, labels, 0.0)
        loss, figures = losses(embeddings, with_margin, labels, target, len(chunk), config.distill, state.learner.head)
        hits = (plain.argmax(1) == labels).float().mean()
        total += len(chunk) * torch.stack([loss, hits, figures[2]])
    loss_mean, accuracy, cosine = (summed(total) / len(rows)).tolist()
    taught = pool.targets is not None or state.learner.feature_teacher is not None
    return loss_mean, accuracy if config.distill.classification_weight else None, cosine if taught else None


def _shown(means: list[float], config: TrainConfig, *, taught: bool) -> tuple[float | None, float | None]:
    return means[0] if config.distill.classification_weight else None, means[1] if taught else None


def _check_teachers(
    config: TrainConfig,
    net: nn.Module,
    teachers: Sequence[Embedder],
    feature_teacher: Checkpoint | None,
    unlabeled: NDArray[np.uint8] | None,
) -> None:
    taught = bool(teachers) or feature_teacher is not None
    if unlabeled is not None and not taught:
        raise UsageError("photos without labels need a teacher to learn from: --teacher MODEL, or --guide CHECKPOINT")
    if config.init.fit_embedding and not taught:
        raise UsageError("fit_embedding=true fits to a teacher's embeddings: --guide CHECKPOINT or --teacher MODEL")
    if config.init.fit_embedding and not isinstance(net, Pooled):
        raise UsageError("fit_embedding=true: only resnet18 and vgg have one linear layer as their embedding")
    if teachers and feature_teacher is not None:
        raise UsageError("--guide is a teacher itself: give it alone, or --teacher alone")


def check_batch(batch: int, photos: int, processes: int = 1) -> None:
    """Raises UsageError where a batch has more faces than there are, or cannot be shared among the processes."""
    if photos < batch:
        fits = max(2, photos // 2)
        raise UsageError(f"batch_size is {batch}, more than the {photos} training photos: --set batch_size={fits}")
    if batch % processes:
        raise UsageError(f"batch_size is {batch}, not a multiple of the {processes} processes: --set batch_size=N")


def _feature_teacher(
    net: nn.Module, teacher: Checkpoint | None, faces: NDArray[np.uint8], config: TrainConfig
) -> FeatureTeacher | None:
    if teacher is None:
        return None
    return FeatureTeacher(net, teacher, normalize(torch.from_numpy(faces), *config.model.pixel_statistics), config)


def _average(net: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def _roll_back(state: TrainingState, folder: Path, config: TrainConfig, digest: str, reporter: Reporter) -> None:
    scale = state.lr_scale / 3
    state.restore(folder, config, digest)
    state.lr_scale = scale
    epoch = len(state.curves) + 1
    reporter.say(f"Epoch {epoch}: the loss is not finite; back to the last good state at a third of the rate")


def _report(row: Epoch, rest: str, folder: Path, config: TrainConfig, reporter: Reporter, tensorboard: bool) -> None:
    figures = {
        "Validation Loss": row.val_loss,
        "Accuracy": row.val_accuracy,
        "Cosine to teacher": row.val_cosine if row.val_loss is not None else row.train_cosine,
    }
    held_out = "".join(f", {name}: {value:.4f}" for name, value in figures.items() if value is not None)
    reporter.say(f"Epoch {row.epoch}/{config.schedule.epochs}, Training Loss: {row.train_loss:.4f}{held_out}{rest}")
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder / "tensorboard"), purge_step=row.epoch) as writer:
            for name, value in vars(row).items():
                if value is not None and name != "epoch":
                    writer.add_scalar(name, value, row.epoch)
