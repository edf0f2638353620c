"""What a search may try: a range or a list of values for any setting of a training run, from a TOML file."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Mapping
from pathlib import Path

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from edgeface.progress import SILENT, Reporter
from edgeface.training.config import KEYS, TrainConfig, as_dict, by_key, load_config
from edgeface.training.setting import shown_value
from edgeface.training.training_state import check_names
from edgeface_runtime import UsageError
from edgeface_runtime.checks import parse_toml, read_text

Space = Mapping[str, BaseDistribution]
"""Setting → what it may be."""

DEFAULT = Path(__file__).with_name("space.toml")
_RANGES = {float: FloatDistribution, int: IntDistribution}
_NAMES = ("backbone", "loss")
_WORDS = {"low", "high", "log", "step"}


def read_space(file: Path, base: TrainConfig, reporter: Reporter = SILENT) -> Space:
    """The table ``[space]`` of a TOML file: ``key = { low = …, high = …, log = true, step = … }`` or a list of values.

    Args:
        file: the TOML file.
        base: all other settings, with which each value must go together.
        reporter: told of old names of settings.

    Raises:
        UsageError: unreadable file, unknown setting (the nearest is named), or a value that the setting cannot have.
    """
    try:
        document = parse_toml(read_text(file))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
    table = document.get("space")
    if document.keys() != {"space"} or not isinstance(table, dict) or not table:
        raise UsageError(f"{file}: needs one table, [space], with a range or a list of values for each setting")
    try:
        keys = by_key(table, str(file), reporter)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    found = {key: _distribution(key, given, file) for key, given in keys.items()}
    for key, distribution in found.items():
        for value in ends(distribution):
            try:
                config = load_config(base=by_key(as_dict(base)) | {key: value})
                if key in _NAMES:
                    check_names(config)
            except UsageError as error:
                raise UsageError(f"{file}: {error}") from error
    return found


def ends(distribution: BaseDistribution) -> tuple[object, ...]:
    """The values of a list, or the least and the greatest of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return distribution.low, distribution.high


def described(distribution: BaseDistribution) -> str:
    """In words: ``0.001 to 0.01 (log)``, ``16 to 64 in steps of 16``, ``arcface, cosface``."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(shown_value, distribution.choices))
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    step = distribution.step if distribution.step not in (None, 1) else None
    words = f"{distribution.low:g} to {distribution.high:g}"
    return words + (" (log)" if distribution.log else "") + (f" in steps of {step:g}" if step else "")


def as_words(space: Space) -> dict[str, str]:
    """Each distribution as Optuna writes it, to compare two spaces by."""
    return {key: distribution_to_json(distribution) for key, distribution in space.items()}


def _distribution(key: str, given: object, file: Path) -> BaseDistribution:
    kind = KEYS[key][1]
    how = "a list of values" if kind not in _RANGES else "{ low = …, high = … }, with log or step, or a list of values"
    place = f"{file}: {key} = {reprlib.repr(given)}"
    if isinstance(given, list):
        values = [float(value) if kind is float and type(value) is int else value for value in given]
        if len(values) < 2 or any(type(value) is not kind for value in values) or len(set(values)) < len(values):
            raise UsageError(f"{place}: needs two values or more, each a {kind.__name__} and each once")
        return CategoricalDistribution(values)
    if not isinstance(given, dict) or kind not in _RANGES or not {"low", "high"} <= given.keys() <= _WORDS:
        raise UsageError(f"{place}: write it as {how}")
    numbers = {word: value for word, value in given.items() if word != "log"}
    if any(type(value) not in (int, kind) for value in numbers.values()) or type(given.get("log", False)) is not bool:
        raise UsageError(f"{place}: low, high and step are of type {kind.__name__}, log is true or false")
    if not given["low"] < given["high"]:
        raise UsageError(f"{place}: low must be below high")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a range that the step does not divide would be another one
            return _RANGES[kind](**given)
    except (ValueError, UserWarning) as error:
        raise UsageError(f"{place}: {' '.join(str(error).split())}") from error
