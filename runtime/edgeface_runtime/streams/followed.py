"""A face that is followed, and the visit that it belongs to."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

from edgeface_runtime.streams.people import Person
from edgeface_runtime.streams.tracking import Track

FRESH = 1.0
"""Seconds that a name is shown without a look that gives it again."""


@dataclass(eq=False)
class Visit:
    """From ``appeared`` to ``left``."""

    number: int
    began: float
    """Seconds of its first detection."""
    name: str | None = None
    is_unknown: bool = False
    """All looks were had and gave no name."""
    is_announced: bool = False
    is_withdrawn: bool = False
    """Its name was contradicted: it is not shown until looks agree on it again."""
    score: float | None = None
    """The best of the looks that gave its name."""
    last: Person | None = None
    """Once no face is followed for it: as it was last seen."""
    seconds: float = 0.0
    """When that was."""


@dataclass(eq=False)
class Followed:
    """A face that is followed, and the visit that it is taken to belong to."""

    track: Track
    visit: Visit
    votes: deque[tuple[str | None, float | None]]
    """Name and score of the latest looks."""
    is_doubtful: bool = False
    """Something is at odds with the name, and no look has settled it yet."""
    looked: float = -math.inf
    """Seconds of the last look."""
    confirmed: float = -math.inf
    """Seconds of the last look that gave the visit's name."""
    denied: float = math.inf
    """Seconds of the first look since then that did not."""
    threshold: float | None = None

    def mean(self, name: str) -> float:
        """Mean score of the looks that gave ``name``; -1 where none did."""
        scores = [score for given, score in self.votes if given == name and score is not None]
        return sum(scores) / len(scores) if scores else -1.0

    def person(self, seconds: float, *, shown: bool = False) -> Person:
        """As it is reported; ``shown``: without a name that is not sure at that time."""
        sure = not self.is_doubtful and seconds - self.confirmed <= FRESH
        name = None if self.visit.is_withdrawn or (shown and not sure) else self.visit.name
        scores = [score for given, score in self.votes if score is not None and name in (None, given)]
        x0, y0, x1, y1 = map(float, self.track.box_at(seconds))
        points = tuple((float(x), float(y)) for x, y in self.track.face.landmarks)
        best = max(scores, default=None)
        return Person(self.visit.number, name, best, (x0, y0, x1, y1), len(self.votes), self.threshold, points)

    def last(self, seconds: float) -> Person:
        """As whoever the visit is of is reported when it ends."""
        name = self.visit.name
        person = self.person(seconds)
        return person if name is None else replace(person, name=name, score=self.visit.score)
