"""A model that knows faces, fine-tuned on one's own people, without losing what it knows of others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.data.dataset import FaceData
from edgeface.evaluation.tails import TarAtFar, all_against_all, tar_at_far
from edgeface.progress import SILENT, Reporter
from edgeface.training.checkpoints import Checkpoint, load_checkpoint, new_folder, origins, save_tensors
from edgeface.training.config import TrainConfig, load_config
from edgeface.training.init.start import settings_of
from edgeface.training.loop import train
from edgeface.training.processes import is_main_process
from edgeface.training.schedule import Epoch
from edgeface_export.rewrite import torch_embeddings
from edgeface_runtime import UsageError
from edgeface_runtime.files import write_text
from edgeface_runtime.model import shipped

RECIPE = Path("adapt")
"""The settings that take the place of training's defaults: ``recipes/adapt.toml``."""
SHARE = 0.5
"""Of the fine-tuned weights in the mean with those that they started from."""
FARS = (0.01, 0.001)
"""False match rates at which the held-out photos are judged, as far as their pairs suffice."""
ENOUGH = 0.99
"""Of the genuine pairs: from here on adapting is not worth its time."""
RECORD, TRAINING = "adapt.json", "training"
"""What is written into the folder beside the model: the figures before and after, and the whole run."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What came of it, on the people's photos that were held out."""

    folder: Path
    photos: int
    """Held out."""
    before: dict[str, TarAtFar]
    """False match rate (as text) → genuine pairs accepted, each model at its own threshold for that rate."""
    after: dict[str, TarAtFar]
    curves: list[Epoch]

    @property
    def is_better(self) -> bool | None:
        """Whether more genuine pairs are accepted at the smallest rate that could be measured; None if none could."""
        known = [(self.before[rate].value, self.after[rate].value) for rate in self.before]
        for before, after in reversed(known):
            if before is not None and after is not None:
                return after > before
        return None

    def as_json(self) -> dict[str, object]:
        """Stable keys, for ``edgeface adapt --json``."""
        figures = {
            name: {rate: asdict(found) for rate, found in of.items()}
            for name, of in (("before", self.before), ("after", self.after))
        }
        return {"schema": 1, "run": str(self.folder), "photos": self.photos, "better": self.is_better, **figures}


def adapt_config(
    model: str, settings: Iterable[str] = (), *, reporter: Reporter = SILENT, epochs: int | None = None
) -> TrainConfig:
    """The settings of an adaptation: the model's own, the recipe's, then ``key=value``, then ``epochs``.

    Raises:
        UsageError: no such model, or as ``load_config``.
    """
    taken = settings_of(model)
    if not taken:
        raise UsageError(f"{model}: not a checkpoint of edgeface; for other weights take edgeface train --init {model}")
    return load_config(RECIPE, settings, base=taken, reporter=reporter, epochs=epochs)


def adapt(
    data: FaceData,
    folder: Path,
    model: str,
    config: TrainConfig,
    *,
    reporter: Reporter = SILENT,
    licence: str = "unknown",
    resume: bool = False,
    command: Mapping[str, object] | None = None,
) -> Adapted:
    """Fine-tunes on the data's ``train`` rows and writes the mean of the old and the new weights.

    The mean keeps what the model knows of other people (M. Wortsman et al., "Robust fine-tuning of zero-shot models",
    CVPR 2022). The thresholds are those of the model before: on other people the adapted one accepts no more
    impostors at them (docs/training.md has the measurement).

    Args:
        data: labelled faces; the ``test`` rows judge.
        folder: gets ``best.safetensors``, ``adapt.json`` and, in ``training/``, the whole run.
        model: a run folder, a checkpoint, or the name of a shipped model.
        config: as ``adapt_config`` gives it.
        reporter: told how far it is.
        licence: what the photos allow.
        resume: go on with the training in the folder.
        command: as for ``train``.

    Raises:
        UsageError: as ``train``; or settings that make another net than the model is.
    """
    start = load_checkpoint(model)
    if (
        config.model.backbone != start.contract.backbone
        or config.model.embedding_dim != start.contract.embedding.length
    ):
        raise UsageError(f"{model}: adapting keeps its {start.contract.backbone}; for another net: edgeface train")
    held_out = data.rows("test")
    before = _tar(start.net, start, data, held_out)
    for rate, found in before.items():
        if found.value is not None:
            reporter.say(f"genuine pairs of held-out photos accepted at FMR {rate} as the model is: {found}")
    reporter.say(_outlook(before))
    if is_main_process():
        new_folder(folder, marker=f"{TRAINING}/run.json", resume=resume)
    photos = len(data.rows("train"))
    if 2 <= photos < config.data.batch_size:
        config = replace(config, data=replace(config.data, batch_size=photos))
        reporter.say(f"batch_size is {photos}: all training photos in one step")
    sources = origins(model)

    def fill(net: nn.Module) -> None:
        net.load_state_dict(start.net.state_dict())

    curves = train(
        data, folder / TRAINING, config,
        reporter=reporter, licence=licence, sources=sources, resume=resume, init=fill, command=command,
    )  # fmt: skip
    tuned = load_checkpoint(folder / TRAINING)
    net = tuned.net
    net.load_state_dict(mean_of(start.net.state_dict(), tuned.net.state_dict(), SHARE))
    result = Adapted(
        folder=folder,
        photos=len(held_out),
        before=before,
        after=_tar(net, start, data, held_out),
        curves=curves,
    )
    if is_main_process():
        contract = replace(
            tuned.contract,
            parent_sha256=start.sha256,
            accuracy={"adapted": result.as_json() | {"run": folder.name}},
            thresholds=carried_thresholds(start),
        )
        save_tensors(folder / "best.safetensors", net.state_dict(), {"contract": json.loads(contract.to_json())})
        document = {**result.as_json(), "model": model, "sources": [asdict(source) for source in sources]}
        write_text(folder / RECORD, json.dumps(document, indent=2) + "\n")
    return result


def mean_of(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The weighted mean of two models' weights and running statistics; ``share`` is the second's."""
    return {
        name: torch.lerp(value.double(), second[name].double(), share).to(value.dtype) for name, value in first.items()
    }


def carried_thresholds(start: Checkpoint) -> dict[str, object]:
    """The thresholds of the files that were made of a checkpoint, or its own, each with where it comes from."""
    files = [model.contract for model in shipped() if model.contract.parent_sha256 == start.sha256]
    contract = files[0] if files else start.contract
    found: dict[str, object] = {}
    for rate, item in contract.thresholds.items():
        known = f", {item['from']}" if item and item.get("from") else ""
        found[rate] = item and item | {"from": f"{contract.name} before it was adapted{known}"}
    return found


def _outlook(before: dict[str, TarAtFar]) -> str:
    """What there is to gain, said before the time is spent."""
    known = [found.value for found in before.values() if found.value is not None]
    if not known:
        return f"too few held-out photos to show whether adapting helps: {next(iter(before.values())).reason}"
    if known[-1] >= ENOUGH:
        return "hardly anything is left to gain: edgeface enroll with the model as it is does as well"
    return f"at most {100 * (1 - known[-1]):.1f} points can be gained; on 30 people adapting gained a fifth of that"


def _tar(net: nn.Module, start: Checkpoint, data: FaceData, rows: NDArray[np.int64]) -> dict[str, TarAtFar]:
    none = TarAtFar(None, reason="the held-out photos show no two people, one of them twice")
    labels = data.labels[rows]
    if len(np.unique(labels)) in (0, 1, len(labels)):
        return {f"{far:g}": none for far in FARS}
    scores = all_against_all(torch_embeddings(net.eval(), start.contract.input, data.faces[rows]), labels)
    return {f"{far:g}": tar_at_far(scores, far) for far in FARS}
