"""Backbones by name: a row each, from the name to the function that builds the net.

One string says which net it is, everywhere: in a run's settings, in a checkpoint, in a model file's
contract. ``resnet18:stem=stride1``, ``mobilefacenet:act=relu,width=0.5``: name, then options.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from edgeface.backbones.attention import ATTENTION
from edgeface.backbones.mobilefacenet import ACTIVATIONS, MobileFaceNet
from edgeface.backbones.resnet import resnet18
from edgeface.backbones.vgg import vgg
from edgeface_runtime import UsageError


@dataclass(frozen=True)
class Backbone:
    """A row of the table."""

    build: Callable[..., nn.Module]
    """Of embedding length, size in pixels and the options."""
    options: Mapping[str, tuple[str, ...] | tuple[float, float]] = field(default_factory=dict)
    """Option → the words that it may be, or the least and largest number."""
    imagenet: str | None = None
    """Torchvision's name of its published weights."""


_POOLS = ("mean", "none")
_MOBILEFACENET: dict[str, tuple[str, ...] | tuple[float, float]] = {
    "act": tuple(ACTIVATIONS),
    "early": tuple(ACTIVATIONS),
    "depthwise": tuple(ACTIVATIONS),
    "stem": ("paper", "foamliu"),
    "padding": ("both", "same"),
    "attention": tuple(ATTENTION),
}
_RESNET = {"stem": ("stride2", "stride1"), "pool": _POOLS, "attention": tuple(ATTENTION)}
BACKBONES: dict[str, Backbone] = {
    "mobilefacenet": Backbone(MobileFaceNet, {"width": (0.25, 2.0), **_MOBILEFACENET}),
    "mobilefacenet-tiny": Backbone(partial(MobileFaceNet, width=0.5), _MOBILEFACENET),
    "resnet18": Backbone(resnet18, _RESNET, "ResNet18_Weights.IMAGENET1K_V1"),
    "vgg11": Backbone(partial(vgg, "vgg11"), {"pool": _POOLS}, imagenet="VGG11_BN_Weights.IMAGENET1K_V1"),
    "vgg16": Backbone(partial(vgg, "vgg16"), {"pool": _POOLS}, imagenet="VGG16_BN_Weights.IMAGENET1K_V1"),
}
TIMM = "timm:"
"""Before the name of a net of timm."""


def _timm(name: str) -> Backbone:
    def build(embedding: int, size: int, **options: str) -> nn.Module:
        from edgeface.backbones.timm_nets import timm_net  # here, because every other net goes without timm

        return timm_net(name, embedding, size, **options)

    return Backbone(build, {"pool": _POOLS})


def _timm_has(name: str) -> bool:
    """True where timm is installed and has such a net."""
    if importlib.util.find_spec("timm") is None:
        return False
    from edgeface.backbones.timm_nets import is_net

    return is_net(name)


def find_backbone(name: str) -> Backbone | None:
    """The row of a name without options, ``timm:NAME`` included; None where there is none."""
    return _timm(name.removeprefix(TIMM)) if name.startswith(TIMM) else BACKBONES.get(name)


def build_backbone(backbone: str, *, embedding: int, size: int) -> nn.Module:
    """A net that maps (N, 3, size, size) normalised RGB to (N, embedding) float.

    Args:
        backbone: name and options, as ``parse_backbone`` reads them.
        embedding: length of the output.
        size: side of the input in pixels.

    Raises:
        UsageError: no such backbone, no such option, or a value that it does not take.
    """
    name, options = parse_backbone(backbone)
    row = find_backbone(name)
    assert row is not None  # parse_backbone has looked
    return row.build(embedding, size, **options)


def parse_backbone(text: str) -> tuple[str, dict[str, str | float]]:
    """``"resnet18:stem=stride1"`` → (``"resnet18"``, ``{"stem": "stride1"}``).

    ``"timm:resnet10t:pool=none"`` → (``"timm:resnet10t"``, ``{"pool": "none"}``), also with a
    comma for the colon; whether timm has it shows when it is built.

    Raises:
        UsageError: no such backbone, no such option, or a value that it does not take.
    """
    before = TIMM if text.startswith(TIMM) else ""
    name, *items = re.split("[:,]", text.removeprefix(before))
    name = before + name
    row = find_backbone(name)
    if row is None or name == TIMM:
        meant = "" if before or not _timm_has(name) else f"; {TIMM}{name} is one of timm"
        there = f"there are: {', '.join(BACKBONES)}, and {TIMM}NAME for a net of timm"
        raise UsageError(f"no backbone {name!r}{meant}; {there}")
    known = row.options
    options: dict[str, str | float] = {}
    for item in filter(None, items):
        key, equals, value = item.partition("=")
        if not equals or key not in known:
            takes = f"it takes {', '.join(known)}, as in {name}:key=value"
            raise UsageError(f"backbone {text!r}: {name} has no option {item!r}; {takes}")
        options[key] = _value(text, key, value, known[key])
    return name, options


def file_stem(backbone: str) -> str:
    """A name for files of that net: ``resnet18:stem=stride1`` → ``resnet18-stride1``, ``timm:x.y`` → ``timm-x-y``."""
    name, options = parse_backbone(backbone)
    name = name.replace(":", "-").replace(".", "-")
    return "-".join([name, *(f"{value:g}" if isinstance(value, float) else value for value in options.values())])


def _value(text: str, key: str, value: str, allowed: tuple[str, ...] | tuple[float, float]) -> str | float:
    if isinstance(allowed[0], str):
        if value not in allowed:
            raise UsageError(f"backbone {text!r}: {key} is {' or '.join(map(str, allowed))}")
        return value
    low, high = allowed
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not float(low) <= number <= float(high):
        raise UsageError(f"backbone {text!r}: {key} is a number from {low:g} to {high:g}")
    return number
