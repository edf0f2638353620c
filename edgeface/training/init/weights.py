"""Weights to start from: ImageNet's of torchvision, a checkpoint of ours, any state dict."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeface.backbones import BACKBONES, TIMM, parse_backbone
from edgeface.training.checkpoints import find_checkpoint
from edgeface_export.torchvision_repair import repair
from edgeface_runtime import ModelError, UsageError
from edgeface_runtime.checks import read_document, require_regular

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


def init_backbone(net: nn.Module, source: str, *, backbone: str, names: str | None = None, size: int = 112) -> Loaded:
    """Copies into ``net`` what fits of a source, in place.

    Args:
        net: as ``build_backbone`` made it.
        source: ``imagenet`` (torchvision's published weights, from torch.hub's cache under TORCH_HOME or
            the network), ``timm:NAME`` (timm's, from the Hugging Face Hub's cache under HF_HOME or the network), a run
            folder, a ``.safetensors`` file, or a state dict saved by ``torch.save``.
        backbone: which net it is.
        names: a key of ``NAME_MAPS``, or a TOML or JSON file of regular expression = replacement.
        size: side of the net's input in pixels, to which timm scales position embeddings.

    Raises:
        UsageError: no such source or name map, or no ImageNet weights for this backbone.
        ModelError: not a state dict, or nothing in it fits the net.
    """
    if source == "imagenet":
        tensors, renamed = _imagenet(backbone), _TORCHVISION
    elif source.startswith(TIMM):
        from edgeface.backbones.timm_nets import published_weights  # here, because all else goes without timm

        tensors, renamed = published_weights(source.removeprefix(TIMM), size), {}
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
    published = BACKBONES[name].imagenet if name in BACKBONES else None
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
        require_regular(path)
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
        found = read_document(path, dict[str, str], "map")
        for pattern, replacement in found.items():
            re.sub(pattern, replacement, "")
    except (UsageError, re.error) as error:
        raise UsageError(f"{path}: not a map of regular expression to replacement ({error})") from error
    return found


def _rename(name: str, names: Names) -> str:
    for pattern, replacement in names.items():
        name = re.sub(pattern, replacement, name)
    return name


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
