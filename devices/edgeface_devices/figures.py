"""A number and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["measured", "emulated", "estimated"]


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
