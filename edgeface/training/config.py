"""The training configuration: one frozen dataclass, from TOML, from ``--set key=value``, checked."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeface_runtime import UsageError

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # (mean, std) per channel in pixel units; ImageNet's are the paper's.
    "arcface": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every setting of a training run; ``edgeface train --set name=value`` changes one."""

    # Net
    backbone: str = "mobilefacenet"
    """Name of the backbone."""
    embedding: int = 128
    """Floats in an embedding."""
    size: int = 112
    """Height and width of a face in pixels."""
    normalise: str = "arcface"
    """``arcface`` (to −1…1) or ``imagenet`` (the paper's mean and deviation)."""

    # Head
    head: str = "arcface"
    """Name of the head."""
    s: float = 16.0
    """Scale of the logits; larger for more identities (64 for tens of thousands)."""
    m: float = 0.3
    """Angular margin in radians."""
    margin_warmup: float = 0.4
    """Share of the run over which the margin grows from 0 to m."""

    # Optimiser and schedule
    epochs: int = 25
    """Passes over the training photos."""
    batch: int = 40
    """Faces per step, over all processes."""
    optimiser: str = "adamw"
    """``adamw`` or ``sgd``."""
    lr: float = 3e-3
    """Peak learning rate."""
    embed_rate: float = 1.0
    """Rate of the embedding layer of a ResNet18 or VGG, as a share of ``lr``."""
    weight_decay: float = 5e-2
    """AdamW's decoupled decay, or SGD's L2."""
    small: int = 0
    """Side in pixels to which faces are shrunk in the first part of the run, which saves most of its time; 0 never."""
    small_share: float = 0.75
    """Share of the epochs at that size; in the rest the net learns the full size, with a rate that starts anew."""
    full_rate: float = 0.5
    """Peak rate of the epochs at full size after ``small``, as a share of ``lr``."""
    warmup: float = 0.3
    """Share of the run over which the rate rises; it falls by a cosine after that."""
    clip: float = 5.0
    """Largest gradient norm."""
    ema: float = 0.0
    """Decay per step of the averaged weights that are validated and kept; 0 keeps the plain ones."""
    patience: int = 0
    """Epochs without a better validation after which training stops; 0 never stops early."""
    balanced: bool = False
    """Draw each identity equally often, not each photo."""

    refit: bool = False
    """Fit the embedding layer to what guide or teachers say, by least squares, before the first step: for --init."""
    imprint: bool = False
    """Start the head's centres at the means of the people's embeddings: for a net that knows faces already (--init)."""

    # Distillation (with --teacher or --guide)
    classify: float = 1.0
    """Weight of the head's loss on labelled faces."""
    distil: float = 10.0
    """Weight of 1 − cos(student, teacher or guide); without one it plays no part."""
    hint: float = 10.0
    """Weight of the share of the guide's maps that the student's do not explain."""

    # Augmentation
    flip: float = 0.5
    """Share of faces mirrored."""
    rotate: float = 10.0
    """Largest rotation in degrees."""
    scale: float = 0.05
    """Largest change of scale."""
    shift: float = 0.05
    """Largest shift as a share of the side."""
    colour: float = 0.2
    """Largest change of brightness and contrast."""
    blur: float = 0.0
    """Share of faces blurred."""
    downscale: float = 0.0
    """Share of faces coarsened to a quarter of their resolution."""
    erase: float = 0.0
    """Share of faces with a rectangle hidden."""

    # System
    seed: int = 0
    """Of weights, order and augmentation."""
    precision: str = "no"
    """``no`` (float32), ``bf16`` or ``fp16``: mixed precision of the forward pass."""
    compile: bool = False
    """Compile the net with torch.compile: slow to start, faster on a GPU."""

    def __post_init__(self) -> None:
        floats = [item.name for item in dataclasses.fields(self) if item.type == "float"]
        checks = (
            ("seed", self.seed >= 0, "0 or more"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch", self.batch >= 2, "at least 2 (batch norm needs two faces)"),
            ("embedding", self.embedding >= 1, "at least 1"),
            ("size", self.size in (112, 224), "112 or 224"),
            ("small", self.small == 0 or 32 <= self.small < self.size, f"0, or 32 to {self.size - 1}"),
            ("small_share", 0 <= self.small_share < 1, "0 to 1"),
            ("full_rate", self.full_rate > 0, "above 0"),
            ("lr", self.lr > 0, "above 0"),
            ("embed_rate", self.embed_rate >= 0, "0 or more"),
            ("s", self.s > 0, "above 0"),
            ("m", 0 <= self.m < 1.6, "0 to 1.6 radians"),
            ("margin_warmup", 0 <= self.margin_warmup <= 1, "0 to 1"),
            ("warmup", 0 <= self.warmup < 1, "0 to 1"),
            ("ema", 0 <= self.ema < 1, "0 to 1"),
            ("classify", self.classify >= 0, "0 or more"),
            ("distil", self.distil >= 0, "0 or more"),
            ("hint", self.hint >= 0, "0 or more"),
            *((name, 0 <= getattr(self, name) <= 1, "0 to 1") for name in ("flip", "blur", "downscale", "erase")),
            ("precision", self.precision in ("no", "bf16", "fp16"), "no, bf16 or fp16"),
            ("optimiser", self.optimiser in ("adamw", "sgd"), "adamw or sgd"),
            ("normalise", self.normalise in NORMALISATIONS, " or ".join(NORMALISATIONS)),
            *((name, math.isfinite(getattr(self, name)), "a finite number") for name in floats),
        )
        for name, good, allowed in checks:
            if not good:
                raise UsageError(f"--set {name}={getattr(self, name)}: must be {allowed}")


RECIPES = Path(__file__).parent / "recipes"


def load_config(file: Path | None = None, settings: Iterable[str] = (), **options: Any) -> TrainConfig:
    """Defaults, then a TOML file, then ``key=value`` settings, then options that are not None.

    Args:
        file: a TOML file, or the name of one that comes with edgeface (``paper``).
        settings: ``key=value``, the value as JSON or plain text.
        options: settings by name.

    Raises:
        UsageError: unreadable file, unknown key (the nearest is named) or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    if file is not None:
        named = RECIPES / f"{file}.toml"
        file = named if file.parent == Path() and named.exists() and not file.exists() else file
        try:
            values.update(tomllib.loads(file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{file}: {error}") from error
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write it as key=value")
        values[key.strip()] = _parse(text.strip())
    values.update({key: value for key, value in options.items() if value is not None})
    return TrainConfig(**{key: _checked(key, value) for key, value in values.items()})


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _checked(key: str, value: Any) -> Any:
    hints = typing.get_type_hints(TrainConfig)
    if key not in hints:
        nearest = difflib.get_close_matches(key, hints, n=1, cutoff=0)
        raise UsageError(f"no setting {key!r}; the nearest is {nearest[0]!r} (all: {', '.join(hints)})")
    kind = hints[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise UsageError(f"setting {key}={value!r} is not of type {kind.__name__}")
    return value


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return dataclasses.asdict(config)
