"""A number and where it comes from, and how both stand in a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeface_runtime.errors import UsageError

Source = Literal["measured", "emulated", "estimated"]
Table = tuple[list[str], list[list[str]]]
"""Columns, and the cells of each row."""


@dataclass(frozen=True)
class Figure:
    """A number that keeps its source, so that no table can show it without."""

    value: float
    source: Source
    interval: tuple[float, float] | None = None
    """Low and high end; an estimate always has one."""

    def __post_init__(self) -> None:
        if self.source == "estimated" and self.interval is None:
            raise ValueError("an estimate needs its interval")

    def __format__(self, spec: str) -> str:
        """The number alone when it was measured; otherwise with its interval and its source."""
        if self.source == "measured":
            return format(self.value, spec)
        shown = (
            format(self.value, spec) if self.interval is None else " to ".join(format(x, spec) for x in self.interval)
        )
        return f"{shown} ({self.source})"

    def over(self, other: Figure) -> float:
        """This number divided by another of the same source.

        Raises:
            ValueError: the sources differ, so the quotient would mean nothing.
        """
        if self.source != other.source:
            raise ValueError(f"a ratio of a number {self.source} and a number {other.source}")
        return self.value / other.value


def figure(value: float, source: Source, interval: tuple[float, float] | None, where: str) -> Figure:
    """A figure of a document from outside.

    Raises:
        UsageError: an estimate without its interval, or one whose ends are the wrong way round; says ``where``.
    """
    if source == "estimated" and interval is None:
        raise UsageError(f"{where} is an estimate without its interval")
    if interval is not None and not interval[0] <= value <= interval[1]:
        raise UsageError(f"{where} is {value:g}, outside its interval of {interval[0]:g} to {interval[1]:g}")
    return Figure(value, source, interval)


def shown(figure: Figure | None, digits: int | None = None) -> str:
    """A figure for a cell whose row names the source: three digits, or both ends of an interval of time."""
    if figure is None:
        return "–"
    low, high = figure.interval or (figure.value, figure.value)
    digits = _digits(high) if digits is None else digits
    return f"{low:.{digits}f}" if figure.interval is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _digits(size: float) -> int:
    """Three digits are what a terminal has room for, and more than a timing is worth."""
    return 2 if size < 9.995 else 1 if size < 99.95 else 0
