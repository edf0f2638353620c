"""The training configuration: frozen dataclasses in groups, from TOML, from ``--set key=value``, checked.

A key is given alone (``lr``) or with its group (``optim.lr``): no two groups have a key in common.
docs/training-config.md is made from this file.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeface.progress import SILENT, Reporter
from edgeface.training.setting import below_1, choice, positive, setting, share, switch, weight
from edgeface_runtime import UsageError
from edgeface_runtime.checks import number, parse_json, parse_toml, read_text

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # (mean, std) per channel in pixel units; ImageNet's are the paper's.
    "arcface": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
SIZES = (112, 224)


class Group:
    """What all groups do: each key is checked when a configuration is made."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            finite = not isinstance(value, float) or math.isfinite(value)
            if not item.metadata["good"](value) or not finite:
                raise UsageError(f"--set {item.name}={_short(value)}: must be {item.metadata['allowed']}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Group):
    """What is trained: the backbone, what it takes and what it gives."""

    backbone: str = setting("mobilefacenet", "a name of docs/backbones.md, with its options")
    """Network between the face and the embedding."""
    embedding_dim: int = setting(128, "at least 1", lambda value: value >= 1, unit="numbers", was="embedding")
    """Length of an embedding."""
    input_size: int = setting(112, "112 or 224", lambda value: value in SIZES, unit="pixels", was="size")
    """Height and width of the aligned faces that the model takes."""
    normalization: str = choice("arcface", *NORMALIZATIONS, was="normalise")
    """What becomes of pixels first: ``arcface`` brings 0…255 to −1…1, ``imagenet`` takes ImageNet's mean and
    deviation off, as the paper does and as weights from ImageNet want."""

    @property
    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) of each channel in pixel units: a model sees (pixel − mean) / std."""
        return NORMALIZATIONS[self.normalization]


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Group):
    """The loss head on top of the embedding; it stays behind when training ends."""

    loss: str = setting(
        "arcface", "arcface, arcface-learned, arcface-subcenter, magface, cosface, adaface or softmax", was="head"
    )
    """What turns embeddings and labels into a loss."""
    logit_scale: float = positive(16.0, unit="factor", was="s")
    """Scale s of the logits (ArcFace, eq. 3): 16 suits tens of identities, 30 hundreds, 64 tens of thousands."""
    margin: float = setting(
        0.3, "0 to 1.6 radians", lambda value: 0 <= value < 1.6, unit="radians (cosface: cosine)", was="m"
    )
    """Margin m between identities: larger ones pull a person's embeddings closer together and are harder to train."""
    margin_warmup_ratio: float = share(0.4, of="the run", was="margin_warmup")
    """How long the margin grows from 0; without that small sets diverge."""
    class_sampling: float = setting(
        1.0, "above 0, up to 1", lambda value: 0 < value <= 1, unit="fraction of the classes"
    )
    """Classes that a step compares with: those of its batch and others, drawn (PartialFC), for tens of thousands of
    people; 1 takes all."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Group):
    """Which faces a step sees."""

    batch_size: int = setting(
        40, "at least 2 (batch norm needs two faces)", lambda value: value >= 2, unit="faces", was="batch"
    )
    """Faces in a step, over all processes together."""
    balanced_sampling: bool = switch(was="balanced")
    """Draw each identity equally often, not each photo."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Group):
    """The optimizer."""

    optimizer: str = choice("adamw", "adamw", "sgd", was="optimiser")
    """AdamW, or SGD with Nesterov momentum of 0.9."""
    lr: float = positive(3e-3, unit="per step")
    """Peak learning rate."""
    embedding_lr_scale: float = weight(1.0, unit="factor of lr", was="embed_rate")
    """Learning rate of the embedding layer of a ResNet18 or VGG: with ``pool=none`` thousands of inputs move each
    number of the embedding at once. 0 freezes it."""
    weight_decay: float = weight(5e-2, unit="per step, times lr")
    """AdamW's decoupled decay, or SGD's L2; biases, batch norm and PReLU slopes have none."""
    grad_clip_norm: float = positive(5.0, unit="L2 norm", was="clip")
    """Gradients that are longer, over all weights together, are shortened to this."""
    ema_decay: float = below_1(0.0, unit="per step", was="ema")
    """Decay of a running average of the weights, which is validated and kept in their place; 0 keeps no average."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Group):
    """How long, at which rate, and on faces of which size."""

    epochs: int = setting(25, "at least 1", lambda value: value >= 1, unit="epochs")
    """Passes over the training photos."""
    warmup_ratio: float = below_1(0.3, unit="fraction of the run", was="warmup")
    """How long the learning rate rises; half a cosine brings it down to 0 after that."""
    early_stopping_patience: int = setting(0, "0 or more", lambda value: value >= 0, unit="epochs", was="patience")
    """Stop when validation has not improved for so long; 0 never stops early."""
    progressive_size: int = setting(
        0, "0, or 32 to less than input_size", lambda value: value == 0 or value >= 32, unit="pixels", was="small"
    )
    """Side to which faces are shrunk in the first part of the run, 0 never: at 64 an epoch takes a third of the
    time."""
    progressive_ratio: float = below_1(0.75, unit="fraction of the epochs", was="small_share")
    """How much of the run sees faces of ``progressive_size``; the rest learns the full size, at a rate that starts
    anew: larger faces are another scale to the filters, and a ResNet18 that grew at a rate near 0 fell from 85 % to
    12 %."""
    full_size_lr_scale: float = positive(0.5, unit="factor of lr", was="full_rate")
    """Peak learning rate of the epochs at full size after ``progressive_size``."""


@dataclass(frozen=True, kw_only=True)
class InitConfig(Group):
    """Layers that are fitted before the first step, for a model that knows faces already (``--init``)."""

    fit_embedding: bool = switch(was="refit")
    """Fit the embedding layer of a ResNet18 or VGG by least squares to the embeddings that the teachers
    (``--teacher`` or ``--guide``) give of all faces."""
    imprint_head: bool = switch(was="imprint")
    """Start the head's class centers at the mean embeddings of the identities (Qi et al., CVPR 2018): random ones pull
    apart what the model knows."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig(Group):
    """Weights of the terms of the loss where there are teachers (``--teacher``, ``--guide``)."""

    classification_weight: float = weight(1.0, unit="factor", was="classify")
    """Of the head's loss on labelled faces; 0 learns from the teachers alone."""
    distill_weight: float = weight(10.0, unit="factor", was="distil")
    """Of 1 − cosine between the student's embedding and the teachers'; without teachers it plays no part."""
    hint_weight: float = weight(10.0, unit="factor", was="hint")
    """Of the share of the variance of the feature-distillation teacher's feature maps (``--guide``) that the student's
    do not explain."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Group):
    """What is done to faces before each step, on the device, a batch at a time."""

    flip_prob: float = share(0.5, of="faces", was="flip")
    """Mirrored."""
    rotation_degrees: float = setting(10.0, "0 to 180", lambda value: 0 <= value <= 180, unit="degrees", was="rotate")
    """Largest rotation to either side."""
    scale_jitter: float = below_1(0.05, unit="fraction of the size", was="scale")
    """Largest change of size, up or down."""
    translate_ratio: float = share(0.05, of="the side", was="shift")
    """Largest shift in each direction."""
    color_jitter: float = weight(0.2, unit="fraction of the range", was="colour")
    """Largest change of brightness and contrast."""
    blur_prob: float = share(0.0, of="faces", was="blur")
    """Blurred by a box of 5 pixels."""
    downscale_prob: float = share(0.0, of="faces", was="downscale")
    """Coarsened to a quarter of their resolution."""
    erase_prob: float = share(0.0, of="faces", was="erase")
    """A rectangle of a fifth to half of each side hidden."""
    turn_prob: float = share(0.0, of="faces")
    """Turned to the side, on the shape of a generic head: frontal photos then teach what turned heads look like."""
    turn_degrees: float = setting(60.0, "0 to 75", lambda value: 0 <= value <= 75, unit="degrees")
    """Largest such turn to either side."""
    adversarial: str = choice("no", "no", "fgsm", "pgd")
    """Move faces to where the loss is larger: by one step of the gradient's sign, or by several from a random start."""
    adversarial_eps: float = positive(2.0, unit="grey levels of 255")
    """Largest such change of a pixel, in each channel."""
    adversarial_steps: int = setting(3, "1 to 100", lambda value: 1 <= value <= 100, unit="steps of pgd")
    """Each costs a forward and a backward pass."""
    adversarial_ratio: float = share(0.5, of="each batch")
    """Moved; the other faces are trained on as they are."""


@dataclass(frozen=True, kw_only=True)
class SystemConfig(Group):
    """How the run is computed."""

    seed: int = setting(0, "0 or more", lambda value: value >= 0)
    """Of weights, order and augmentation: the same seed on the same machine gives the same weights."""
    mixed_precision: str = choice("no", "no", "bf16", "fp16", was="precision")
    """Number format of the forward pass: ``no`` is float32. On a CPU with bf16 instructions ResNet18 and VGG train
    about twice as fast with ``bf16``."""
    compile: bool = switch()
    """Compile the backbone with torch.compile: slow to start, faster on a GPU."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every setting of a training run; ``edgeface train --set key=value`` changes one."""

    model: ModelConfig = ModelConfig()
    head: HeadConfig = HeadConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    init: InitConfig = InitConfig()
    distill: DistillConfig = DistillConfig()
    augment: AugmentConfig = AugmentConfig()
    system: SystemConfig = SystemConfig()

    def __post_init__(self) -> None:
        small, full = self.schedule.progressive_size, self.model.input_size
        if small >= full:
            raise UsageError(f"--set progressive_size={small}: must be 0, or 32 to {full - 1}")


GROUPS: dict[str, type[Group]] = {
    name: kind for name, kind in typing.get_type_hints(TrainConfig).items() if name != "return"
}
KEYS: dict[str, tuple[str, type]] = {
    key: (group, kind) for group, row in GROUPS.items() for key, kind in typing.get_type_hints(row).items()
}
"""Key → its group and its type."""
OLD_NAMES: dict[str, str] = {
    item.metadata["was"]: item.name
    for row in GROUPS.values()
    for item in dataclasses.fields(row)  # type: ignore[arg-type]
    if item.metadata["was"]
}
"""Names that keys had before they were in groups; files and runs of that time are still read."""

RECIPES = Path(__file__).parent / "recipes"
NAMED = 3
"""Old names that a line lists."""


def load_config(
    file: Path | None = None,
    settings: Iterable[str] = (),
    *,
    base: Mapping[str, object] | None = None,
    reporter: Reporter = SILENT,
    **options: object,
) -> TrainConfig:
    """Defaults and ``base``, then a TOML file, then ``key=value`` settings, then options that are not None.

    Args:
        file: a TOML file, or the name of one that comes with edgeface (``paper``). Keys stand in a table for each
            group, or at the top.
        settings: ``key=value`` or ``group.key=value``, the value as JSON or plain text.
        base: values by key that take the place of defaults, such as those of a model to start from.
        reporter: told of each old name, with the new one.
        options: values by key.

    Raises:
        UsageError: unreadable file, unknown key (the nearest is named) or a value of the wrong type.
    """
    values: dict[str, object] = dict(base or {})
    if file is not None:
        named = RECIPES / f"{file}.toml"
        file = named if file.parent == Path() and named.exists() and not file.exists() else file
        try:
            found = by_key(parse_toml(read_text(file)), str(file), reporter)
            values |= {key: _checked(key, value) for key, value in found.items()}
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror or error}") from error
        except (ValueError, UsageError) as error:
            raise UsageError(f"{file}: {error}") from error
    given: dict[str, object] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {_short(text)}: write it as key=value")
        given[key.strip()] = _parse(value.strip())
    values |= by_key(given, "--set", reporter)
    values |= by_key({key: value for key, value in options.items() if value is not None}, "options", reporter)
    return _built(values)


def config_from(document: Mapping[str, object], place: str = "", reporter: Reporter = SILENT) -> TrainConfig:
    """The configuration that ``as_dict`` made, also one that was saved under the old names.

    Args:
        document: JSON values.
        place: the file that they stand in, for ``reporter``.
        reporter: told of old names.

    Raises:
        UsageError: as ``load_config``.
    """
    return _built(by_key(document, place, reporter))


def as_dict(config: TrainConfig) -> dict[str, dict[str, object]]:
    """The configuration as plain JSON values: group → key → value."""
    return dataclasses.asdict(config)


def by_key(given: Mapping[str, object], place: str = "", reporter: Reporter = SILENT) -> dict[str, object]:
    """Values by key, whether they were given by key, in groups, or by old names.

    Raises:
        UsageError: no such key; the nearest is named.
    """
    flat: dict[str, object] = {}
    for name, value in given.items():
        if name in GROUPS and isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    old = [name for name in flat if name in OLD_NAMES]
    if old:
        said = ", ".join(f"{name} is called {OLD_NAMES[name]}" for name in old[:NAMED])
        more = f" and {len(old) - NAMED} more have new names" if len(old) > NAMED else ""
        reporter.say(f"{place}: {said}{more}; docs/training-config.md lists all keys")
    return {_key(name): value for name, value in flat.items()}


def _built(values: Mapping[str, object]) -> TrainConfig:
    grouped: dict[str, dict[str, object]] = {group: {} for group in GROUPS}
    for key, value in values.items():
        grouped[KEYS[key][0]][key] = _checked(key, value)
    return TrainConfig(**{group: GROUPS[group](**given) for group, given in grouped.items()})  # type: ignore[arg-type]


def _key(name: str) -> str:
    if name in OLD_NAMES:
        return OLD_NAMES[name]
    group, dot, key = name.rpartition(".")
    if key in KEYS and (not dot or group == KEYS[key][0]):
        return key
    (nearest,) = difflib.get_close_matches(key, (*KEYS, *OLD_NAMES), n=1, cutoff=0)
    nearest = OLD_NAMES.get(nearest, nearest)
    raise UsageError(f"no setting {reprlib.repr(name)}; the nearest is {nearest!r} (all: {', '.join(KEYS)})")


def _short(value: object) -> str:
    return text if len(text := str(value)) < 100 else reprlib.repr(text)


def _parse(text: str) -> object:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _checked(key: str, value: object) -> object:
    kind = KEYS[key][1]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return number(f"setting {key}", value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):  # type: ignore[arg-type]
        raise UsageError(f"setting {key}={reprlib.repr(value)} is not of type {kind.__name__}")
    return value
