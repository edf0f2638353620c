"""How long a phase of an export still takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
EVERY_S = 10.0
"""Seconds between two words about one phase."""


def paced(
    items: Sequence[T],
    title: str,
    *,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """The items one after another; every ten seconds says how many are done and about how long the rest takes."""
    began = said = clock()
    for done, item in enumerate(items):
        if done and clock() - said >= EVERY_S:
            said = clock()
            left = (said - began) / done * (len(items) - done)
            say(f"{title}: {done} of {len(items)}, about {left:.0f} s left")
        yield item
