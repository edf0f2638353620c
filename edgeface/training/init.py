"""Weights to start from: ImageNet's of torchvision, a checkpoint of ours or a wider one, dlib's, any state dict."""

from __future__ import annotations

import json
import math
import pickle
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeface.backbones import BACKBONES, parse_backbone
from edgeface.progress import SILENT, Reporter
from edgeface.training.augment import normalize
from edgeface.training.config import NORMALIZATIONS, TrainConfig
from edgeface.training.dlib_start import FACES, read_dlib, start_from_dlib
from edgeface.training.narrow import is_wider, narrow
from edgeface.training.run import Checkpoint, find_checkpoint, load_checkpoint
from edgeface_export.torchvision_repair import repair
from edgeface_runtime import ContractError, InputSpec, ModelError, UsageError

# Regular expression → replacement, applied in order to each name of the source.
Names = Mapping[str, str]

_BLOCK = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
NAME_MAPS: dict[str, Names] = {
    # github.com/foamliu/MobileFaceNet (Apache-2.0), for mobilefacenet:act=relu6,stem=foamliu
    "foamliu": {
        **{
            rf"^features\.{block}\.conv\.{re.escape(theirs)}\.": f"layers.{block + 9}.layers.{ours}."
            for block in range(15)
            for theirs, ours in _BLOCK.items()
        },
        **{
            rf"^{re.escape(theirs)}\.": f"layers.{ours}."
            for theirs, ours in {
                "conv1.0": 0, "conv1.1": 1, "dw_conv.depthwise": 3, "dw_conv.bn1": 4, "dw_conv.pointwise": 6,
                "dw_conv.bn2": 7, "conv2.0": 24, "conv2.1": 25, "gdconv.depthwise": 27, "gdconv.bn": 28,
                "conv3": 29, "bn": 30,
            }.items()
        },
    },
}  # fmt: skip
# Torchvision's names of what a Pooled net has as its trunk; fc and classifier have no place in it.
_TORCHVISION: Names = {r"^features\.": "trunk.", r"^(conv1|bn1|layer\d)\.": r"trunk.\1."}
NARROW_FACES = 1000
"""About how many faces a narrow net is fitted on."""
DLIB_RATE = 5e-4
"""The highest ``lr`` at which what was fitted of dlib's net lasts."""
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


@dataclass(frozen=True)
class Loaded:
    """Which tensors of a source found their place in a net."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    """Of the net, that the source does not have: they keep their random start."""
    unexpected: tuple[str, ...]
    """Of the source, that the net has no place for."""
    mismatched: tuple[str, ...]
    """With both shapes: ``trunk.conv1.weight (64, 3, 7, 7) for (64, 3, 3, 3)``."""

    def __str__(self) -> str:
        text = f"{self.source}: {len(self.matched)} tensors taken"
        for words, names in (
            ("keep their random start", self.missing),
            ("have no place in the net", self.unexpected),
            ("have another shape", self.mismatched),
        ):
            if names:
                text += f"; {len(names)} {words} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        return text


def start_from(
    net: nn.Module,
    source: str,
    config: TrainConfig,
    *,
    faces: NDArray[np.uint8],
    reporter: Reporter = SILENT,
    names: str | None = None,
) -> str:
    """Fills a net's weights before training, in place, and says what it took.

    A checkpoint of a wider MobileFaceNet is narrowed (``edgeface.training.narrow``), dlib's net is fitted into a
    ResNet18 or VGG11 (``edgeface.training.dlib_start``); all else goes to ``init_backbone``.

    Args:
        net: as ``build_backbone`` made it.
        source: as ``init_backbone`` takes it.
        config: of the training.
        faces: (N, S, S, 3) uint8 RGB to fit layers on; some thousand of them are looked at.
        reporter: told how far the fit is.
        names: as ``init_backbone`` takes it.

    Raises:
        UsageError, ModelError: as ``init_backbone``; or a wider net that sees faces of another size or normalisation.
    """
    if source.endswith(".dat"):
        return _from_dlib(net, source, config, faces, reporter)
    wide = _wider(net, source)
    if wide is None:
        return str(init_backbone(net, source, backbone=config.model.backbone, names=names))
    spec = wide.contract.input
    for what, theirs, ours in (
        ("input_size", spec.size, config.model.input_size),
        ("normalization", _normalization(spec), config.model.normalization),
    ):
        if theirs != ours:
            raise UsageError(f"{source}: to narrow this net its own {what} is needed: --set {what}={theirs}")
    sample = torch.from_numpy(faces[:: math.ceil(len(faces) / NARROW_FACES)])
    cosine = narrow(net, wide.net, normalize(sample, spec.mean, spec.std))
    near = f"mean cosine to it {cosine:.3f} on the {len(sample)} faces it took"
    return f"{source}: narrowed to {config.model.backbone}; {near}"


def _from_dlib(net: nn.Module, source: str, config: TrainConfig, faces: NDArray[np.uint8], reporter: Reporter) -> str:
    sample = torch.from_numpy(faces[:: math.ceil(len(faces) / FACES)])
    mean, std = (torch.tensor(values) for values in config.model.pixel_statistics)
    start_from_dlib(net, read_dlib(Path(source)), sample, mean, std, reporter)
    said = f"{source}: fitted into {config.model.backbone} on {len(sample)} faces"
    if not config.init.fit_embedding:
        said += "; its embedding is random: --set fit_embedding=true, with --guide or --teacher"
    if config.optim.lr > DLIB_RATE:
        said += f"; a rate of {config.optim.lr:g} soon undoes what was fitted: --set lr={DLIB_RATE:g}"
    return said


def _wider(net: nn.Module, source: str) -> Checkpoint | None:
    """The checkpoint that is meant where it is one of ours with the net's layers and more channels."""
    path = None if source == "imagenet" else find_checkpoint(Path(source))
    if path is None or path.suffix != ".safetensors":
        return None
    try:
        checkpoint = load_checkpoint(path)
    except (ModelError, ContractError):
        return None  # init_backbone says what it is
    if not is_wider(checkpoint.net, net):
        return None
    theirs, ours = checkpoint.net.state_dict(), net.state_dict()
    return None if all(theirs[name].shape == ours[name].shape for name in ours) else checkpoint


def _normalization(spec: InputSpec) -> str:
    known = [name for name, (mean, std) in NORMALIZATIONS.items() if (mean, std) == (spec.mean, spec.std)]
    return known[0] if known else f"mean {spec.mean}, std {spec.std}"


def init_backbone(net: nn.Module, source: str, *, backbone: str, names: str | None = None) -> Loaded:
    """Copies into ``net`` what fits of a source, in place.

    Args:
        net: as ``build_backbone`` made it.
        source: ``imagenet`` (torchvision's published weights, from torch.hub's cache under TORCH_HOME or
            the network), a run folder, a ``.safetensors`` file, or a state dict saved by ``torch.save``.
        backbone: which net it is.
        names: a key of ``NAME_MAPS``, or a TOML or JSON file of regular expression = replacement.

    Raises:
        UsageError: no such source or name map, or no ImageNet weights for this backbone.
        ModelError: not a state dict, or nothing in it fits the net.
    """
    if source == "imagenet":
        tensors, renamed = _imagenet(backbone), _TORCHVISION
    else:
        tensors, renamed = _read(find_checkpoint(Path(source))), _name_map(names)
    tensors = {_rename(name, renamed): tensor for name, tensor in tensors.items()}
    own = net.state_dict()
    fits = {name: tensor for name, tensor in tensors.items() if name in own and own[name].shape == tensor.shape}
    wrong = [name for name in tensors if name in own and name not in fits]
    loaded = Loaded(
        source=source,
        matched=tuple(fits),
        missing=tuple(name for name in own if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in own),
        mismatched=tuple(f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}" for name in wrong),
    )
    if not any(tensor.ndim for tensor in fits.values()):
        theirs = next((name for name, tensor in tensors.items() if tensor.ndim), "none")
        hint = f"; it has {theirs}, the net has {next(iter(own))}: write a name map"
        raise ModelError(f"{source}: none of its {len(tensors)} tensors fits a {backbone}{hint}")
    net.load_state_dict({**own, **fits})
    return loaded


def _imagenet(backbone: str) -> dict[str, Tensor]:
    name, _ = parse_backbone(backbone)
    published = BACKBONES[name].imagenet
    if published is None:
        having = ", ".join(key for key, row in BACKBONES.items() if row.imagenet)
        raise UsageError(f"there are no ImageNet weights for {name}; there are for {having}")
    repair()
    from torchvision.models import get_weight

    weights = get_weight(published)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        found: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        file = folder / weights.url.rpartition("/")[2]
        raise UsageError(f"{weights.url} cannot be fetched ({error}); put the file at {file}") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{folder}: the weights of {name} are damaged ({_line(error)}); delete the file") from error
    return found


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, freed of wrappers: those of a run's saved state, ``DataParallel``'s ``module.``."""
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: not a state dict of tensors alone; save one with torch.save(net.state_dict())"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: cannot be read as weights ({_line(error)})") from error
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    tensors = (
        {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if isinstance(found, dict)
        else {}
    )
    for prefix in ("average.", "learner.net.", "module."):
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return tensors


def _name_map(names: str | None) -> Names:
    if names is None or names in NAME_MAPS:
        return NAME_MAPS[names] if names else {}
    path = Path(names)
    if not path.is_file():
        raise UsageError(f"no name map {names!r}; there are: {', '.join(NAME_MAPS)}, or name a .toml or .json file")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        for pattern, replacement in found.items():
            re.sub(pattern, replacement, "")
    except (OSError, ValueError, AttributeError, TypeError, re.error) as error:
        raise UsageError(f"{path}: not a map of regular expression to replacement ({error})") from error
    return dict(found)


def _rename(name: str, names: Names) -> str:
    for pattern, replacement in names.items():
        name = re.sub(pattern, replacement, name)
    return name


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
