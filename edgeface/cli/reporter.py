"""The reporter of the command line: lines and bars on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from edgeface.cli.console import ERR, bar, note

T = TypeVar("T")


class TerminalReporter:
    """An ``edgeface.progress.Reporter``: lines on stderr, and bars where that is a terminal."""

    def say(self, line: str, *, heading: bool = False) -> None:
        """Prints one line; headings are bold."""
        if heading:
            ERR.print(line, style="bold", markup=False, highlight=False, soft_wrap=True)
        else:
            note(line)

    def track(self, items: Sequence[T], title: str) -> Iterator[T]:
        """Iterates with a bar that disappears at the end."""
        return bar(ERR, items, title)
