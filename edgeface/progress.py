"""How long work tells whoever waits for it how far it is; the command line shows it, a library's user need not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias, TypeVar

T = TypeVar("T")
Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with what is done so far, the number of all, and what they are, such as ``photos``."""


class Reporter(Protocol):
    """Takes what training and exports have to say while they run."""

    def say(self, line: str, *, heading: bool = False) -> None:
        """One line of progress or warning; a heading opens a stage."""

    def track(self, items: Sequence[T], title: str) -> Iterator[T]:
        """The items, one after another, while something shows how many are done."""


class _Silent:
    def say(self, line: str, *, heading: bool = False) -> None:
        pass

    def track(self, items: Sequence[T], title: str) -> Iterator[T]:
        return iter(items)


SILENT: Reporter = _Silent()
"""Says nothing: the default of everything that takes a reporter."""
