"""A run is a folder: what is in it suffices to repeat the run and to resume it, and says what it has learnt from.

``run.json`` (settings, environment, data card), ``curves.csv``, ``curves.png``, ``last.safetensors``
(everything, to resume), ``best.safetensors`` (the net alone, to use). Each file is written beside its
name and renamed, so that a killed process leaves the last good state.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from edgeface.backbones import TIMM, build_backbone, file_stem
from edgeface.data.dataset import SPLITS, FaceData, licence_of_photos
from edgeface.embedder import Embedder
from edgeface.training.config import TrainConfig, as_dict
from edgeface.training.devices import described
from edgeface.training.record import RECORD, Origin
from edgeface_runtime import Contract, ContractError, EmbeddingSpec, InputSpec, ModelError, UsageError
from edgeface_runtime.checks import build, parse_json, require_regular, shown
from edgeface_runtime.files import is_unused, replacing, write_text
from edgeface_runtime.model import shipped

KEY = "edgeface"
SHIPPED = Path(__file__).parents[2] / "weights"
"""The fp32 weights of the models that come with edgeface: in a clone of the repository, not in the package."""
_MADE = {
    "run.json": "a run of edgeface train",
    "tune.json": "a search of edgeface tune",
    "training/run.json": "a model of edgeface adapt",
    "dataset.json": "photos of edgeface data prepare",
}
"""File → what a folder with it is."""
PACKAGES = ("torch", "accelerate", "numpy", "pillow", "safetensors", "scikit-learn")


def new_folder(folder: Path, *, marker: str, resume: bool) -> bool:
    """Makes an output folder of ours; True when it holds a state to resume from.

    Raises:
        UsageError: the folder cannot be made, is not ours, or is ours and ``resume`` was not asked for.
    """
    if not folder.exists():
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be made ({error.strerror})") from error
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder}: exists and is not a folder")
    ours = (folder / marker).exists()
    if not ours and not is_unused(folder):
        of = next((what for file, what in _MADE.items() if (folder / file).exists()), "files that are no such run")
        raise UsageError(f"{folder}: exists and holds {of}; name another folder")
    if ours and not resume:
        raise UsageError(f"{folder}: holds a run already; go on with --resume, or name another folder")
    return ours


def environment(device: torch.device) -> dict[str, str]:
    """What the run ran on: machine, device, Python, packages, git state of the working folder."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    found["threads"] = str(torch.get_num_threads())
    found |= described(device)
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
        commit, changes = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in commands
        )
        found["git"] = commit + ("-changed" if changes else "")
    return found


def data_card(data: FaceData, digest: str, licence: str, unlabeled: int) -> dict[str, object]:
    """What ``run.json`` says of the photos: digest, licence, people and counts."""
    photos = {split: len(data.rows(split)) for split in SPLITS}
    names = [shown(name) for name in data.identities]
    return {"sha256": digest, "licence": licence, "identities": names, "photos": photos, "unlabelled": unlabeled}


def write_record(
    folder: Path,
    config: TrainConfig,
    data: Mapping[str, object],
    sources: Sequence[Origin],
    command: Mapping[str, object] | None,
    device: torch.device,
) -> None:
    """Writes ``run.json``, which ``edgeface.training.record`` reads."""
    document = {"schema": 1, "config": as_dict(config), "environment": environment(device), "data": data}
    document |= {"sources": [asdict(source) for source in sources], "command": command}
    write_text(folder / RECORD, json.dumps(document, indent=2) + "\n", private=True)  # it holds names


def save_tensors(path: Path, tensors: dict[str, Tensor], document: Mapping[str, object]) -> None:
    """Writes tensors and one JSON document as safetensors, whole or not at all.

    Raises:
        UsageError: the disk is full or the folder cannot be written; the file before it survives.
    """
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with replacing(path) as beside:
            save_file(whole, beside, metadata={KEY: json.dumps(document)})
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: cannot be saved ({error}); the last good state is kept") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``save_tensors`` wrote.

    Raises:
        ModelError: no such file, cut short, or not written by edgeface.
    """
    try:
        require_regular(path)
        whole = path.read_bytes()  # at once: safe_open opens its file twice, between which a run may replace it
        tensors = load(whole)
        size = int.from_bytes(whole[:8], "little")
        header = build(dict, parse_json(whole[8 : 8 + size].decode()), "header", fails=ModelError)
        said = build(dict[str, str], header.get("__metadata__", {}), "header.__metadata__", fails=ModelError)
        if KEY not in said:
            raise ModelError("safetensors, but not a checkpoint of edgeface")
        return tensors, build(dict, parse_json(said[KEY]), "document", fails=ModelError)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except OSError as error:
        raise ModelError(f"{path}: not a whole checkpoint ({error.strerror or error})") from error
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path}: not a whole checkpoint ({' '.join(str(error).split())[:200]})") from error


def load_state(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Fills a module with the tensors of a file.

    Raises:
        ModelError: they are not the module's.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{path}: its weights do not fit: {str(error).splitlines()[-1].strip()[:200]}") from error


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained net with what its contract will say."""

    path: Path
    net: nn.Module
    contract: Contract

    @property
    def sha256(self) -> str:
        """Of the checkpoint file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def contract_draft(config: TrainConfig, *, data_sha256: str, licence: str, photos: FaceData | None = None) -> Contract:
    """The contract as far as training knows it."""
    mean, std = config.model.pixel_statistics
    return Contract(
        name=file_stem(config.model.backbone),
        backbone=config.model.backbone,
        input=InputSpec(size=config.model.input_size, mean=mean, std=std),  # type: ignore[arg-type]
        embedding=EmbeddingSpec(length=config.model.embedding_dim),
        data_sha256=data_sha256,
        photos_sha256=None if photos is None else photos.photos_sha256(),
        train_sha256=None if photos is None else photos.photos_sha256("train"),
        licence=licence,
    )


def find_checkpoint(source: Path) -> Path:
    """The file meant by a run folder (its best checkpoint), a .safetensors file or the name of a shipped model.

    Raises:
        UsageError: none of these, or the shipped model's fp32 weights are not there.
    """
    if source.is_dir():
        best = source / "best.safetensors"
        if not best.exists():
            raise UsageError(f"{source}: no best.safetensors in it; is it a run of edgeface train?")
        return best
    if source.exists():
        return source
    if str(source) not in {model.name for model in shipped()}:
        raise UsageError(f"{source}: no such file, run folder or shipped model")
    weights = SHIPPED / f"{source}.safetensors"
    if not weights.exists():
        raise UsageError(
            f"{source}: its fp32 weights are in a clone of edgeface's repository (weights/{weights.name}), not in the "
            "installed package: name that file"
        )
    return weights


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Rebuilds the net of a run folder or checkpoint file, in evaluation mode.

    Raises:
        UsageError, ModelError, ContractError: not a checkpoint of ours, damaged, or of another net.
    """
    path = find_checkpoint(Path(source))
    tensors, document = load_tensors(path)
    if "contract" not in document:
        raise ContractError(f"{path}: a state to resume from, not a model; name best.safetensors")
    try:
        contract = Contract.from_document(document["contract"])
    except ContractError as error:
        raise ContractError(f"{path}: {error}") from error
    net = build_backbone(contract.backbone, embedding=contract.embedding.length, size=contract.input.size)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: does not fit a {contract.backbone}: {str(error).splitlines()[-1].strip()}"
        ) from error
    return Checkpoint(path, net.eval(), contract)


def own_checkpoint(source: str) -> Checkpoint | None:
    """The checkpoint that is meant where it is one of ours.

    Raises:
        UsageError: no such file, or the fp32 weights of a shipped model are not there.
    """
    if source == "imagenet" or source.startswith(TIMM):
        return None
    path = find_checkpoint(Path(source))
    if path.suffix != ".safetensors":
        return None
    try:
        return load_checkpoint(path)
    except (ModelError, ContractError):
        return None  # whoever takes other weights says what it is


def origins(
    init: str | None,
    teachers: Sequence[tuple[Path, Embedder]] = (),
    guide: Checkpoint | None = None,
    unlabeled: Path | None = None,
) -> list[Origin]:
    """Everything that a run learns from beside its photos, with the licence that each of them carries."""
    found = []
    if init is not None and init.startswith(TIMM):
        from edgeface.backbones.timm_nets import licence_of_weights  # here, because all else goes without timm

        found.append(Origin(role="init", name=init, licence=licence_of_weights(init.removeprefix(TIMM))))
    elif init is not None:
        ours = own_checkpoint(init)
        found.append(
            Origin(role="init", name=init)
            if ours is None
            else Origin(role="init", name=init, licence=ours.contract.licence, sha256=ours.sha256)
        )
    for path, teacher in teachers:
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        found.append(Origin(role="teacher", name=str(path), licence=teacher.contract.licence, sha256=digest))
    if guide is not None:
        found.append(Origin(role="guide", name=str(guide.path), licence=guide.contract.licence, sha256=guide.sha256))
    if unlabeled is not None:
        found.append(Origin(role="unlabeled", name=str(unlabeled), licence=licence_of_photos(unlabeled)))
    return found


def whole_licence(photos: str, sources: Iterable[Origin]) -> str:
    """The licences of the photos and of all sources in one line, each with where it comes from."""
    parts = [f"{origin.role} {origin.name}: {origin.licence}" for origin in sources]
    return "; ".join([f"photos: {photos}", *parts]) if parts else photos
