"""What ``watch`` takes and gives: how often is looked, who is there, what happened."""

from __future__ import annotations

import warnings
from dataclasses import InitVar, dataclass
from typing import Literal, TypeAlias

from edgeface_runtime.checks import number, whole
from edgeface_runtime.errors import UsageError
from edgeface_runtime.streams.frames import Frame

Point: TypeAlias = tuple[float, float]
"""x, y in pixels of the frame."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """How often a stream's faces are looked for, and how much is enough to follow, name and lose somebody."""

    every: int = 6
    """Faces are looked for in every such frame, twice as often while somebody there is new, and followed in between."""
    every_seconds: float = 0.2
    """And at the latest so many seconds after the last time, however few frames that are."""
    overlap: float = 0.3
    """Intersection over union from which two boxes are taken for one face, 0 to 1."""
    hits: int = 2
    """Detections until a face counts as somebody who is there."""
    patience: float = 1.0
    """Seconds without a detection until somebody has left."""
    votes: int = 5
    """The latest looks at a face that count."""
    agree: int = 3
    """How many of them must give the same name."""
    look: float = 0.5
    """Seconds from one look to the next at a face that is named or unknown; where a look, or the way the face moves,
    is at odds with that, the next detection gets one."""
    every_face: bool = False
    """True: a small face or one turned away is recognized too, and a photo without a sure face is looked at again, as
    ``identify`` does."""
    again: InitVar[int | None] = None
    """Has no effect: looks are scheduled in seconds, by ``look``."""

    def __post_init__(self, again: int | None) -> None:
        if again is not None:
            message = "again has no effect: look says the seconds between looks; it will be removed in edgeface 0.3"
            warnings.warn(message, DeprecationWarning, stacklevel=3)
        for name in ("every", "hits", "votes", "agree"):
            whole(name, getattr(self, name))
        for name in ("every_seconds", "overlap", "patience", "look"):
            number(name, getattr(self, name))
        if not self.votes < 2 * self.agree <= 2 * self.votes:
            raise UsageError(
                f"agree is {self.agree}; it must be more than half of votes, {self.votes}, and at most all"
            )
        if not 0 < self.overlap <= 1:
            raise UsageError(f"overlap is {self.overlap:g}; it must lie between 0 and 1")
        for name in ("every_seconds", "patience", "look"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name):g}; it must be at least 0 seconds")

    @classmethod
    def photos(cls) -> TrackingConfig:
        """For photos that have nothing to do with each other: each one is a scene of its own."""
        return cls(every=1, hits=1, patience=0.0, votes=1, agree=1, every_face=True)


@dataclass(frozen=True)
class Person:
    """Somebody who is there."""

    track: int
    """The number of the visit, which no other has had. Who is lost and found within ``TrackingConfig.patience`` keeps
    it; who comes again later gets another."""
    name: str | None
    """None: unknown, not yet known, or known but not seen well enough to be sure within the last second."""
    score: float | None
    """Cosine, −1 to 1: the best of the looks that gave the name, else of all; None before the first look."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels; may reach outside the frame."""
    looks: int
    """How many looks have counted, up to ``TrackingConfig.votes``."""
    threshold: float | None = None
    """The score that gives a name; None before the first look."""
    landmarks: tuple[Point, ...] = ()
    """Eyes, nose tip and mouth corners where they were last detected, as in ``Face``."""


@dataclass(frozen=True)
class Event:
    """Something happened to somebody."""

    kind: Literal["appeared", "named", "unknown", "left"]
    """``appeared`` and ``left`` are the ends of a visit. ``named`` comes with each name, and with None where looks
    withdraw it; ``unknown`` where all ``TrackingConfig.votes`` looks were had and give no name."""
    person: Person


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What one frame showed."""

    frame: Frame
    people: tuple[Person, ...]
    """By track."""
    events: tuple[Event, ...]
