"""Backbones by name: a row each, from the name to the function that builds the net.

One string says which net it is, everywhere: in a run's settings, in a checkpoint, in a model file's
contract. ``resnet18:stem=stride1``, ``mobilefacenet:act=relu,width=0.5``: name, then options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import nn

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


_STEMS = ("paper", "foamliu")
_PADDINGS = ("both", "same")
_POOLS = ("mean", "none")
BACKBONES: dict[str, Backbone] = {
    "mobilefacenet": Backbone(
        MobileFaceNet,
        {"act": tuple(ACTIVATIONS), "width": (0.25, 2.0), "stem": _STEMS, "padding": _PADDINGS},
    ),
    "mobilefacenet-tiny": Backbone(
        partial(MobileFaceNet, width=0.5), {"act": tuple(ACTIVATIONS), "stem": _STEMS, "padding": _PADDINGS}
    ),
    "resnet18": Backbone(resnet18, {"stem": ("stride2", "stride1"), "pool": _POOLS}, "ResNet18_Weights.IMAGENET1K_V1"),
    "vgg11": Backbone(partial(vgg, "vgg11"), {"pool": _POOLS}, imagenet="VGG11_BN_Weights.IMAGENET1K_V1"),
    "vgg16": Backbone(partial(vgg, "vgg16"), {"pool": _POOLS}, imagenet="VGG16_BN_Weights.IMAGENET1K_V1"),
}


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
    return BACKBONES[name].build(embedding, size, **options)


def parse_backbone(text: str) -> tuple[str, dict[str, str | float]]:
    """``"resnet18:stem=stride1"`` → (``"resnet18"``, ``{"stem": "stride1"}``).

    Raises:
        UsageError: no such backbone, no such option, or a value that it does not take.
    """
    name, _, rest = text.partition(":")
    if name not in BACKBONES:
        raise UsageError(f"no backbone {name!r}; there are: {', '.join(BACKBONES)}")
    known = BACKBONES[name].options
    options: dict[str, str | float] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in known:
            takes = ", ".join(known)
            raise UsageError(
                f"backbone {text!r}: {name} has no option {item!r}; it takes {takes}, as in {name}:key=value"
            )
        options[key] = _value(text, key, value, known[key])
    return name, options


def file_stem(backbone: str) -> str:
    """A name for files of that net: ``resnet18:stem=stride1`` → ``resnet18-stride1``."""
    name, options = parse_backbone(backbone)
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
