"""Who the followed faces are: names by evidence and by time, and visits that outlive a track.

A name is given when enough of the latest looks agree. From then on each look must give it again. The first that gives
none hides it until the next frame's look; the second, or one that gives another name, withdraws it. A visit begins and
ends with a person, not with a track: who is found anew while their visit is open goes on with it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.detection.boxes import overlap
from edgeface_runtime.faces import Face
from edgeface_runtime.gallery.enrollment import MAX_PITCH, MAX_YAW, MIN_SIZE
from edgeface_runtime.quality import face_size, pose
from edgeface_runtime.recognizer import Identity
from edgeface_runtime.streams.followed import FRESH, Followed, Visit
from edgeface_runtime.streams.people import Event, Person, TrackingConfig
from edgeface_runtime.streams.tracking import Track, associate

Follow: TypeAlias = Callable[[NDArray[np.uint8], Face], Face | None]
"""Where a face is in the next frame's pixels; None where it has gone."""

_JUMP = 0.5  # intersection over union with where the face was expected, below which it may be somebody else's
_SAME = 0.5  # intersection over union of two faces from which they are one
_FOLLOW = 0.06  # seconds from one frame in which faces are followed to the next; a box moves on in between
_CROWDED = 0.1  # intersection over union with another face from which the two may be taken for each other
_BETTER = 0.05  # by so much must a look be better than those of the face that bears the name already
_BACK = 2  # so many looks give a withdrawn name back
_CLOSE = 1e-6  # seconds by which the times of frames are rounded
_NEAR = 2.0  # face widths within which an unknown face that was lost is taken to be found again


@dataclass(eq=False)
class Visits:
    """The people of one stream, from detection to detection."""

    config: TrackingConfig
    check: Callable[[Person], bool]
    """Is asked before a name is given; False: it is not."""
    followed: list[Followed] = field(default_factory=list)
    _lost: list[Visit] = field(default_factory=list)
    """Open visits that no face is followed for."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _events: list[Event] = field(default_factory=list)
    _seconds: float = -math.inf
    """Of the last detection."""
    _step: float = 0.0
    """Seconds between the last two."""
    _followed: float = -math.inf
    """Seconds of the last frame in which they were followed without a detection."""
    _seen: list[Followed] = field(default_factory=list)

    def people(self, seconds: float) -> tuple[Person, ...]:
        """Who is there, by track."""
        there = [face.person(seconds, shown=True) for face in self.followed if face.track.hits >= self.config.hits]
        return tuple(sorted(there, key=lambda person: person.track))

    def events(self) -> tuple[Event, ...]:
        """What has happened since this was last called."""
        events, self._events = tuple(self._events), []
        return events

    def is_due(self, frames: int, seconds: float) -> bool:
        """Whether to look for faces, so many frames after the last time: at once where a name is in doubt."""
        if any(face.is_doubtful and not face.visit.is_withdrawn and self._is_fit(face) for face in self._seen):
            return True
        haste = 2 if any(self._is_new(face) for face in self._seen) else 1
        waited = seconds - self._seconds
        return haste * frames >= self.config.every or haste * waited >= self.config.every_seconds - _CLOSE

    def follow(self, pixels: NDArray[np.uint8], seconds: float, look: Follow) -> bool:
        """Takes where the faces have gone since they were last seen; False where one cannot be followed."""
        if seconds - max(self._seconds, self._followed) < _FOLLOW - _CLOSE:
            return True
        self._followed = seconds
        for face in self._seen:
            # One look takes a face only part of the way to where it is: it begins where the face should be.
            expected = face.track.box_at(seconds)
            found = look(pixels, replace(face.track.face, box=expected))
            if found is None or float(overlap(found.box[None], expected[None])[0, 0]) < _JUMP:
                return False
            face.track.moved_to(found, seconds, is_detected=False)
        boxes = [face.track.face.box for face in self._seen]
        # Two that follow one face.
        return len(boxes) < 2 or not ((overlap(np.stack(boxes), np.stack(boxes)) > _SAME).sum(axis=1) > 1).any()

    def leave(self, seconds: float) -> None:
        """Ends the visits of those who were not seen for too long."""
        gone = [face for face in self.followed if seconds - face.track.seconds > self.config.patience]
        self.followed = [face for face in self.followed if face not in gone]
        for face in gone:
            face.visit.last, face.visit.seconds = face.last(seconds), face.track.seconds
            self._lost.append(face.visit)
        self._expire(seconds)

    def see(self, faces: list[Face], seconds: float) -> None:
        """Takes what was detected: continues tracks and begins new ones."""
        before = self._seconds
        self._step, self._seconds = (seconds - before if math.isfinite(before) else 0.0), seconds
        expected = [face.track.box_at(seconds) for face in self.followed]
        pairs = associate([face.track for face in self.followed], faces, seconds, self.config.overlap)
        seen = []
        for index, found in enumerate(faces):
            if index in pairs:
                face = self.followed[pairs[index]]
                moved = float(overlap(expected[pairs[index]][None], found.box[None])[0, 0]) < _JUMP
                face.is_doubtful |= face.visit.name is not None and (moved or face.track.seconds < before)
                face.track.moved_to(found, seconds)
            else:
                face = Followed(Track(0, found, seconds), self._visit(), deque(maxlen=self.config.votes))
                self.followed.append(face)
            seen.append(face)
        if len(seen) > 1:
            boxes = np.stack([face.track.face.box for face in seen])
            crowded = (overlap(boxes, boxes) > _CROWDED).sum(axis=1) > 1
            for face, near in zip(seen, crowded, strict=True):
                face.is_doubtful |= bool(near) and face.visit.name is not None
        self._seen = sorted(seen, key=lambda face: face.visit.number)

    def ask_anew(self) -> None:
        """The gallery has changed: what the looks said counts no more."""
        for face in self.followed:
            face.votes.clear()
            face.is_doubtful = face.visit.name is not None

    def due(self) -> list[Followed]:
        """Those of the seen faces that a look is due at."""
        return [face for face in self._seen if self._is_due(face)]

    def hear(self, looks: Sequence[tuple[Followed, Identity]]) -> None:
        """Takes what looks at ``due`` faces gave."""
        withdrawn = {id(face) for face, who in looks if self._contradicts(face, who.name)}
        for face, who in looks:
            name = None if self._is_better_held(who, face) else who.name
            if id(face) in withdrawn:
                face.votes = deque((v for v in face.votes if v[0] != face.visit.name), self.config.votes)
            face.votes.append((name, who.score))
            face.looked, face.threshold = self._seconds, who.threshold
            if name is not None and name == face.visit.name:
                self._confirm(face)
            self._decide(face)
        self._announce()

    def _is_fit(self, face: Followed) -> bool:
        """Whether a look at the face as it is says enough."""
        found = face.track.face
        turn = pose(found.landmarks)
        return self.config.every_face or (
            face_size(found) >= MIN_SIZE and abs(turn.yaw) <= MAX_YAW and abs(turn.pitch) <= MAX_PITCH
        )

    def _is_due(self, face: Followed) -> bool:
        visit = face.visit
        is_settled = (
            (visit.name is not None or visit.is_unknown) and not face.visit.is_withdrawn and not face.is_doubtful
        )
        agrees = bool(face.votes) and face.votes[-1][0] == visit.name
        # Of two detections the one nearer to the time.
        rests = is_settled and agrees and self._seconds - face.looked < self.config.look - self._step / 2
        return face.track.hits >= self.config.hits and not rests and self._is_fit(face)

    def _contradicts(self, face: Followed, name: str | None) -> bool:
        """Notes a look against the face's name; True where it withdraws it."""
        if face.visit.name not in (None, name):
            face.denied = min(face.denied, self._seconds)
        if face.visit.name in (None, name) or face.visit.is_withdrawn:
            return False
        was_contradicted = bool(face.votes) and face.votes[-1][0] != face.visit.name
        face.is_doubtful = True
        if name is None and not was_contradicted:
            return False
        face.visit.is_withdrawn = True
        self._tell("named", face)
        return True

    def _is_better_held(self, who: Identity, face: Followed) -> bool:
        """A name is on one live face: a look that is no better than those of the other does not count for it."""
        if who.name is None or who.name == face.visit.name:
            return False
        holder = self._holder(who.name, face)
        return holder is not None and (who.score or -1.0) <= holder.mean(who.name) + _BETTER

    def _holder(self, name: str, other: Followed) -> Followed | None:
        """The face that bears the name, is seen, and is another."""
        return next(
            (f for f in self._seen if f is not other and f.visit.name == name and not f.visit.is_withdrawn),
            None,
        )

    def _decide(self, face: Followed) -> None:
        """Gives the face the name that its looks agree on, or calls it unknown once it had all of them."""
        visit = face.visit
        if visit.name is not None and not face.visit.is_withdrawn:
            return
        ((winner, count),) = Counter(name for name, _ in face.votes).most_common(1)
        name = winner if count >= self.config.agree else None
        if visit.name is not None and sum(given == visit.name for given, _ in face.votes) >= min(
            _BACK, self.config.agree
        ):
            name = visit.name
        if name is not None:
            holder = self._holder(name, face)
            named = replace(face.person(self._seconds), name=name, score=face.mean(name))
            if (holder is None or holder.mean(name) < face.mean(name)) and self.check(named):
                if holder:
                    holder.votes.clear()
                self._settle(face, name)
                return
            self._discount(face, name)
        # On a face that was followed all the while a few bad looks are more likely than somebody else.
        waited = not face.visit.is_withdrawn or self._seconds - face.denied >= FRESH
        if len(face.votes) == self.config.votes and not visit.is_unknown and waited:
            self._settle(face, None)

    def _discount(self, face: Followed, name: str) -> None:
        """Looks that gave the name count as looks that gave none."""
        votes = [(None if given == name else given, score) for given, score in face.votes]
        face.votes.clear()
        face.votes.extend(votes)

    def _confirm(self, face: Followed) -> None:
        """A look has given the visit's name, or enough have given the name that it gets."""
        face.confirmed, face.denied, face.is_doubtful = self._seconds, math.inf, False
        scores = [face.visit.score, *(score for given, score in face.votes if given == face.visit.name)]
        face.visit.score = max((score for score in scores if score is not None), default=None)

    def _settle(self, face: Followed, name: str | None) -> None:
        """The face is ``name``, or unknown: its own visit goes on, another's open one does, or a new one begins."""
        own, is_told = face.visit, False
        if name is None or own.name != name:
            claimed = self._claimed(face, name)
            if claimed is not None:
                is_told = self._take_over(face, claimed)
            elif own.name is not None:
                face.visit = self._visit()
                self._part(face, own)
        visit = face.visit
        if not visit.is_announced:
            self._expire(self._seconds, face)
            visit.is_announced = True
            self._tell("appeared", face)
        face.is_doubtful = visit.is_withdrawn = False
        visit.name, visit.is_unknown = name, name is None
        if name is not None:
            self._confirm(face)
        if not is_told:
            self._tell("unknown" if name is None else "named", face)

    def _claimed(self, face: Followed, name: str | None) -> Visit | None:
        """The open visit of the same person that nobody who is seen carries on."""
        others = [f for f in self.followed if f is not face and f.visit.is_announced]
        if name is not None:
            named = [f.visit for f in others if f.visit.name == name]
            named += [visit for visit in self._lost if visit.name == name]
            return named[0] if named else None
        if face.visit.is_announced and face.visit.name is None:
            return None
        box = face.track.face.box
        reach = _NEAR * float(box[2] - box[0])
        places = [(f.visit, f.track.face.box) for f in others if f not in self._seen]
        places += [(visit, np.array(visit.last.box, np.float32)) for visit in self._lost if visit.last]
        for visit, place in places:
            x, y = np.abs(box - place).reshape(2, 2).mean(axis=0)
            if visit.is_unknown and math.hypot(x, y) <= reach:
                return visit
        return None

    def _take_over(self, face: Followed, visit: Visit) -> bool:
        """``face`` carries on an open visit; True where its name was never withdrawn."""
        own, was_shown = face.visit, not visit.is_withdrawn
        if visit in self._lost:
            self._lost.remove(visit)
        for other in [other for other in self.followed if other.visit is visit]:
            other.is_doubtful = False
            if other not in self._seen:
                self.followed.remove(other)  # the same face, under another track
            elif own.name is None:
                other.visit, own = own, self._visit()
                other.visit.is_unknown = False
            else:
                other.visit = self._visit()
        face.visit = visit
        if own.name is not None:
            self._part(face, own)
        else:
            self._leave(own, replace(face.person(self._seconds), track=own.number, name=None))
        return was_shown

    def _part(self, face: Followed, visit: Visit) -> None:
        """The face is no more of the visit, which ends unless another face may prove to be the same person's."""
        last = replace(face.person(self._seconds), track=visit.number, name=visit.name, score=visit.score)
        if any(other.visit.is_withdrawn or not self._is_settled(other) for other in self._seen if other is not face):
            visit.last, visit.seconds = last, self._seconds
            self._lost.append(visit)
        else:
            self._leave(visit, last)

    def _is_new(self, face: Followed) -> bool:
        """Whether more detections would soon settle who it is, or that it is there."""
        if face.track.hits < self.config.hits:
            return True
        return (face.visit.is_withdrawn or not self._is_settled(face)) and self._is_fit(face)

    def _is_settled(self, face: Followed) -> bool:
        return face.visit.name is not None or face.visit.is_unknown

    def _announce(self) -> None:
        """New faces appear, unless they may be somebody who was lost a moment ago."""
        is_open = any(visit.is_announced for visit in self._lost) or any(
            face.visit.is_announced and (face.visit.is_withdrawn or face not in self._seen) for face in self.followed
        )
        for face in self._seen:
            if face.track.hits >= self.config.hits and not face.visit.is_announced:
                if is_open and self._may_be_known(face, self._seconds):
                    continue
                face.visit.is_announced = True
                self._tell("appeared", face)

    def _expire(self, seconds: float, settled: Followed | None = None) -> None:
        """Ends the visits that nobody has come back to, nor may prove to; ``settled`` has proved to be another."""
        new = [f.visit.began for f in self.followed if f is not settled and self._may_be_known(f, seconds)]
        for visit in list(self._lost):
            end = visit.seconds + self.config.patience
            if seconds > end and not any(began <= end for began in new):
                self._leave(visit, visit.last)

    def _may_be_known(self, face: Followed, seconds: float) -> bool:
        """Whether a new face may yet prove to be somebody whose visit is open."""
        return not face.visit.is_announced and seconds - face.visit.began <= FRESH

    def _visit(self) -> Visit:
        return Visit(next(self._numbers), self._seconds)

    def _leave(self, visit: Visit, last: Person | None) -> None:
        if visit in self._lost:
            self._lost.remove(visit)
        if visit.is_announced and last:
            self._events.append(Event("left", last))

    def _tell(self, kind: Literal["appeared", "named", "unknown"], face: Followed) -> None:
        self._events.append(Event(kind, face.person(self._seconds)))
