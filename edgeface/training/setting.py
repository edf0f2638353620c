"""What a key of the configuration may be: a default, its bounds in words and as a test, its unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import TypeVar

T = TypeVar("T")


def setting(
    default: T, allowed: str, good: Callable[[T], bool] = lambda _: True, *, unit: str = "", was: str = ""
) -> T:
    """A key of a group: its default, what it may be, in words and as a test, its unit, and the name it had once."""
    return field(default=default, metadata={"allowed": allowed, "good": good, "unit": unit, "was": was})


def switch(*, was: str = "") -> bool:
    """A key that is off unless it is set."""
    return setting(False, "true or false", was=was)


def positive(default: float, *, unit: str, was: str = "") -> float:
    """A key above 0."""
    return setting(default, "above 0", lambda value: value > 0, unit=unit, was=was)


def weight(default: float, *, unit: str, was: str = "") -> float:
    """A key of 0, which switches off, or more."""
    return setting(default, "0 or more", lambda value: value >= 0, unit=unit, was=was)


def share(default: float, *, of: str, was: str = "") -> float:
    """A key from 0 to 1."""
    return setting(default, "0 to 1", lambda value: 0 <= value <= 1, unit=f"fraction of {of}", was=was)


def below_1(default: float, *, unit: str, was: str = "") -> float:
    """A key from 0 to less than 1."""
    return setting(default, "0 to below 1", lambda value: 0 <= value < 1, unit=unit, was=was)


def shown_value(value: object) -> str:
    """A setting's value as ``--set`` takes it, numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def choice(default: str, *names: str, was: str = "") -> str:
    """A key that is one of some words."""
    words = f"{', '.join(names[:-1])} or {names[-1]}"
    return setting(default, words, lambda value: value in names, was=was)
