"""Who is before each camera, so that whoever came is said to have left: where the run ends, or their camera is lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgeface_runtime import Event, FrameResult, Person


@dataclass
class _Visit:
    person: Person
    """As last seen."""
    name: str | None
    score: float | None
    index: int
    seconds: float


class Presence:
    """The open visits of some cameras."""

    def __init__(self) -> None:
        self._there: dict[str, dict[int, _Visit]] = defaultdict(dict)
        # Ended while their camera was lost; that ``watch`` ends them too is no news.
        self._ended: dict[str, set[int]] = defaultdict(set)

    def take(self, camera: str, result: FrameResult) -> Iterator[Event]:
        """The frame's events but those of visits that were ended before."""
        there, ended, frame = self._there[camera], self._ended[camera], result.frame
        for event in result.events:
            who = event.person
            if who.track in ended:
                if event.kind == "left":
                    ended.remove(who.track)
                continue
            if event.kind == "left":
                there.pop(who.track, None)
            else:
                known = there.get(who.track)
                name, score = (who.name, who.score) if who.name or not known else (known.name, known.score)
                there[who.track] = _Visit(who, name, score, frame.index, frame.seconds)
            yield event
        for person in result.people:
            if (visit := there.get(person.track)) is not None:
                visit.person, visit.index, visit.seconds = person, frame.index, frame.seconds

    def end(self, camera: str) -> Iterator[tuple[Event, int, float]]:
        """Ends the camera's open visits: ``left`` of each, with the index and the seconds of the last frame."""
        there = self._there[camera]
        self._ended[camera] |= there.keys()
        for visit in [there.pop(track) for track in sorted(there)]:
            yield Event("left", replace(visit.person, name=visit.name, score=visit.score)), visit.index, visit.seconds
