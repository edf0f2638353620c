"""From frames to people: who is there, who came, who left.

::

    for result in watch(open_source("door.mp4").frames, recognizer, gallery):
        for event in result.events:
            print(event.kind, event.person.name)

A face is followed from detection to detection (``tracking``) and recognised a few times; a name is given when enough
of these looks agree. What is kept in memory does not grow with time (docs/streams.md).
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgeface_runtime.checks import described, number, whole
from edgeface_runtime.errors import UsageError
from edgeface_runtime.faces import Face
from edgeface_runtime.gallery.enrollment import MAX_PITCH, MAX_YAW, MIN_SIZE
from edgeface_runtime.protocols import Searchable
from edgeface_runtime.quality import face_size, pose
from edgeface_runtime.recognizer import FaceRecognizer
from edgeface_runtime.streams.sources import Frame
from edgeface_runtime.streams.tracking import Track, associate


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """How often a stream's faces are looked for, and how much is enough to follow, name and lose somebody."""

    every: int = 3
    """Faces are looked for in every such frame, and followed in between."""
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
    again: int = 25
    """Once ``votes`` looks were had, one more at every such detection."""
    every_face: bool = False
    """True: a small face or one turned away is recognised too, and a photo without a sure face is looked at again, as
    ``identify`` does."""

    def __post_init__(self) -> None:
        for name in ("every", "hits", "votes", "agree", "again"):
            whole(name, getattr(self, name))
        for name in ("overlap", "patience"):
            number(name, getattr(self, name))
        if not self.votes < 2 * self.agree <= 2 * self.votes:
            raise UsageError(
                f"agree is {self.agree}; it must be more than half of votes, {self.votes}, and at most all"
            )
        if not 0 < self.overlap <= 1:
            raise UsageError(f"overlap is {self.overlap:g}; it must lie between 0 and 1")
        if not self.patience >= 0:
            raise UsageError(f"patience is {self.patience:g}; it must be at least 0 seconds")

    @classmethod
    def photos(cls) -> TrackingConfig:
        """For photos that have nothing to do with each other: each one is a scene of its own."""
        return cls(every=1, hits=1, patience=0.0, votes=1, agree=1, every_face=True)


@dataclass(frozen=True)
class Person:
    """Somebody who is there."""

    track: int
    """A number that no other has had; a person who comes again gets another."""
    name: str | None
    """None: unknown, or not yet known."""
    score: float | None
    """Cosine, −1 to 1: the best of the looks that gave the name, else of all; None before the first look."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels; may reach outside the frame."""
    looks: int
    """How many looks have counted, up to ``TrackingConfig.votes``."""


@dataclass(frozen=True)
class Event:
    """Something happened to somebody."""

    kind: Literal["appeared", "named", "left"]
    """``named`` comes whenever the name changes, with None where it is withdrawn; ``left`` is the last of a track."""
    person: Person


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What one frame showed."""

    frame: Frame
    people: tuple[Person, ...]
    """By track."""
    events: tuple[Event, ...]


@dataclass(eq=False)
class _Followed:
    track: Track
    votes: deque[tuple[str | None, float | None]]
    """Name and score of the latest looks."""
    name: str | None = None
    since: int = 0
    """Detections since the last look."""

    def person(self, seconds: float) -> Person:
        scores = [score for name, score in self.votes if score is not None and self.name in (None, name)]
        x0, y0, x1, y1 = map(float, self.track.box_at(seconds))
        return Person(self.track.number, self.name, max(scores, default=None), (x0, y0, x1, y1), len(self.votes))


def watch(
    frames: Iterable[Frame],
    recognizer: FaceRecognizer,
    gallery: Searchable,
    far: float = 1e-2,
    *,
    threshold: float | None = None,
    config: TrackingConfig | None = None,
    pace: TrackingConfig | None = None,
) -> Iterator[FrameResult]:
    """Follows and names the people of a stream: one ``FrameResult`` for each frame.

    The same frames give the same results. The gallery is asked anew at every look, so that enrolments and removals
    by others are heeded while it runs. Nobody is said to have left because the frames have ended.

    Args:
        frames: of ``open_source``, or made with ``in_turn`` from arrays that come from elsewhere.
        recognizer: finds and embeds faces.
        gallery: the people who are known.
        far: the FPIR of one look, over the whole gallery, as in ``identify``.
        threshold: the score that is enough, in place of ``far``.
        config: how often is looked, and how much is enough; ``TrackingConfig()`` where None.
        pace: old name of ``config``.

    Raises:
        GalleryError: the gallery was made with another model, or cannot be read.
        UsageError: the model's contract has no threshold for ``far`` over so many photos, or ``frames`` are none.
        ImageError: what is to become a frame is no photo.
    """
    if not isinstance(frames, Iterable):
        raise UsageError(f"frames is {described(frames)}; give the frames of open_source or in_turn")
    if pace is not None:
        warnings.warn("pace is called config; the old name will be removed in edgeface 0.3", DeprecationWarning, 2)
    config = config or pace or TrackingConfig()
    followed: list[_Followed] = []
    numbers = itertools.count(1)
    looked: int | None = None
    for frame in frames:
        if not isinstance(frame, Frame):
            raise UsageError(f"frames gives {described(frame)}; make frames of arrays with in_turn(images)")
        events: list[Event] = []
        if looked is None or frame.index - looked >= config.every:
            looked = frame.index
            left = [person for person in followed if frame.seconds - person.track.seconds > config.patience]
            followed = [person for person in followed if person not in left]
            events += [_event("left", person, frame) for person in left if person.track.hits >= config.hits]
            find = recognizer.faces if config.every_face else recognizer.detector.detect
            seen = _follow(followed, find(frame.pixels), frame, config, numbers)
            events += [_event("appeared", person, frame) for person in seen if person.track.hits == config.hits]
            due = [person for person in seen if _is_due(person, config)]
            chosen = [person.track.face for person in due]
            for person, who in zip(
                due, recognizer.identify(frame.pixels, gallery, far, threshold=threshold, faces=chosen), strict=True
            ):
                person.votes.append((who.name, who.score))
                person.since = 0
                before, person.name = person.name, _winner(person.votes, config.agree)
                if person.name != before:
                    events.append(_event("named", person, frame))
        people = tuple(person.person(frame.seconds) for person in followed if person.track.hits >= config.hits)
        yield FrameResult(frame, people, tuple(events))


def _follow(
    followed: list[_Followed], faces: list[Face], frame: Frame, config: TrackingConfig, numbers: Iterator[int]
) -> list[_Followed]:
    """Adds new faces to ``followed`` and gives all that are seen now, in its order."""
    pairs = associate([person.track for person in followed], faces, frame.seconds, config.overlap)
    seen = []
    for index, face in enumerate(faces):
        if index in pairs:
            person = followed[pairs[index]]
            person.track.moved_to(face, frame.seconds)
            person.since += 1
        else:
            person = _Followed(Track(next(numbers), face, frame.seconds), deque(maxlen=config.votes))
            followed.append(person)
        seen.append(person)
    return sorted(seen, key=lambda person: person.track.number)


def _is_due(person: _Followed, config: TrackingConfig) -> bool:
    if person.track.hits < config.hits or (len(person.votes) == config.votes and person.since < config.again):
        return False
    face = person.track.face
    turn = pose(face.landmarks)
    return config.every_face or (
        face_size(face) >= MIN_SIZE and abs(turn.yaw) <= MAX_YAW and abs(turn.pitch) <= MAX_PITCH
    )


def _winner(votes: deque[tuple[str | None, float | None]], agree: int) -> str | None:
    ((name, count),) = Counter(name for name, _ in votes).most_common(1)
    return name if count >= agree else None


def _event(kind: Literal["appeared", "named", "left"], person: _Followed, frame: Frame) -> Event:
    return Event(kind, person.person(frame.seconds))
