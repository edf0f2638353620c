"""How often a stream shows a wrong name, how soon the right one, and at how many looks: scripted scenes.

    python -m benchmarks.scenes [--old CHECKOUT]

People stand, walk, cross, hide and take each other's places in simulated time. Detections and looks follow the script,
with the faults of real ones: one detection in twenty is missed, a face that another covers is not found, one spell of
0.4 s in twelve gives no name to somebody who is enrolled (a turned head, a blurred frame), and one look in 200 gives a
name to a stranger. Each scene runs at 5, 10, 15 and 30 frames a second; the worst rate counts. Prints Markdown;
CHECKOUT is an older build, run over the same scenes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from edgeface_runtime import Face, Frame, Identity, watch
from edgeface_runtime.align import TEMPLATE

HERE = Path(__file__).parents[1]
KNOWN = ("Ada", "Bea", "Cem", "Dan")
RATES = (5, 10, 15, 30)
SIDE = 96
LIMIT = 0.4
Standing = tuple[str, float, float]
"""Who, and the left and upper edge of the face."""


@dataclass(frozen=True)
class Scene:
    seconds: float
    at: Callable[[float], list[Standing]]
    """Who is where at a time, the nearest to the camera first."""


def places(*spells: tuple[float, str | None]) -> Scene:
    """One place, and who is in it for how long."""
    ends = np.cumsum([length for length, _ in spells])

    def at(seconds: float) -> list[Standing]:
        who = spells[min(int(np.searchsorted(ends, seconds, side="right")), len(spells) - 1)][1]
        return [] if who is None else [(who, 200.0, 100.0)]

    return Scene(float(ends[-1]), at)


def crossing(*people: str, seconds: float = 24.0, period: float = 8.0) -> Scene:
    """Two walk to and fro through one another, at a height that differs by a third of a face."""

    def at(seconds: float) -> list[Standing]:
        swing = 150 * math.cos(2 * math.pi * seconds / period)
        first, second = ((people[0], 250 + swing, 100.0), (people[1], 250 - swing, 132.0))
        return [first, second] if int(seconds / period) % 2 else [second, first]

    return Scene(seconds, at)


def crowd(seconds: float = 60.0, seed: int = 1) -> Scene:
    """Six places that people come to and go from, sway in, and take over from one another; half are strangers."""
    rng = np.random.default_rng(seed)
    spells: list[list[tuple[float, float, str]]] = []
    free: dict[str, float] = dict.fromkeys((*KNOWN, *(f"stranger {n}" for n in range(8))), 0.0)
    for _ in range(6):
        now, row = float(rng.uniform(0, 3)), []
        while now < seconds:
            end = now + float(rng.uniform(2, 9))
            waiting = [who for who, since in free.items() if since <= now]
            if waiting:
                who = str(rng.choice(waiting))
                free[who] = end + 2
                row.append((now, end, who))
            now = end + float(rng.choice([0.0, 0.3, 0.8, 3.0]))
        spells.append(row)

    def at(seconds: float) -> list[Standing]:
        there = []
        for place, row in enumerate(spells):
            for start, end, who in row:
                if start <= seconds < end:
                    there.append((who, 150.0 * place + 20 * math.sin(seconds * 2 + place), 100.0))
        return there

    return Scene(seconds, at)


SCENES = {
    "swap": places((6, "Ada"), (6, "stranger 1"), (6, "Bea"), (6, "stranger 2"), (6, "Ada")),
    "gap": places((5, "Ada"), (0.5, None), (5, "stranger 1"), (0.5, None), (5, "Bea"), (0.5, None), (5, "Ada")),
    "crossing, two known": crossing("Ada", "Bea"),
    "crossing, one known": crossing("Ada", "stranger 1"),
    "crowd": crowd(),
}
SLOW = "slow device (3 frames a second of 30)"


@dataclass
class Actors:
    """Stands for a recognizer and a gallery: finds and names whom the scene has at the frame's time."""

    scene: Scene
    has_faults: bool = True
    enrolled: set[str] = field(default_factory=lambda: set(KNOWN))
    looks: int = 0
    seconds: float = 0.0
    model: object = None

    @property
    def detector(self) -> SimpleNamespace:
        return SimpleNamespace(detect=self.detect)

    def chance(self, *what: object) -> float:
        """0 to 1, the same for the same words."""
        return zlib.crc32(repr(what).encode()) % 100_000 / 100_000

    def detect(self, image: np.ndarray) -> list[Face]:
        self.seconds = float(image.reshape(-1).view(np.float32)[0])
        found: list[Face] = []
        for who, x, y in self.scene.at(self.seconds):
            box = np.array([x, y, x + SIDE, y + SIDE], np.float32)
            if any(shared(box, face.box) > 0.5 for face in found):
                continue
            if self.has_faults and self.chance("detect", who, self.seconds) < 0.05:
                continue
            points = (TEMPLATE * (SIDE / 112) + np.array([x, y])).astype(np.float32)
            found.append(Face(box, 0.99, points))
        return found

    def identify(
        self, image: object, gallery: object, far: float, *, threshold: object, faces: list[Face]
    ) -> list[Identity]:
        self.looks += len(faces)
        there = self.scene.at(self.seconds)
        found = []
        for face in faces:
            who = max(there, key=lambda one: shared(face.box, np.array([*one[1:], one[1] + SIDE, one[2] + SIDE])))[0]
            name: str | None = who if who in self.enrolled else None
            if self.has_faults and name and self.chance("spell", who, int(self.seconds / 0.4)) < 1 / 12:
                name = None
            if self.has_faults and who not in self.enrolled and self.chance("look", who, self.seconds) < 1 / 200:
                name = KNOWN[0]
            score = LIMIT + 0.2 + 0.1 * self.chance("score", who, self.seconds) if name else LIMIT - 0.2
            found.append(Identity(name, score, tuple(map(float, face.box)), 0.99, LIMIT, None))  # type: ignore[arg-type]
        return found

    def __len__(self) -> int:
        return len(self.enrolled)


def shared(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes of one size."""
    wide, high = (max(0.0, SIDE - abs(float(a[axis] - b[axis]))) for axis in (0, 1))
    return wide * high / (2 * SIDE * SIDE - wide * high)


def frames(scene: Scene, fps: float, index_step: int = 1) -> Iterator[Frame]:
    """Frames whose first pixels hold the time."""
    for index in range(int(scene.seconds * fps)):
        seconds = index / fps
        pixels = np.zeros((1, 4, 3), np.uint8)
        pixels.reshape(-1).view(np.float32)[0] = seconds
        yield Frame(index * index_step, seconds, pixels)


@dataclass
class Measured:
    present: float = 0.0
    """Person-seconds."""
    wrong: float = 0.0
    """Person-seconds under another's name."""
    longest: float = 0.0
    """The longest that one person was under one wrong name, seconds."""
    twice: float = 0.0
    """Seconds in which a name was on two faces."""
    waits: list[float] = field(default_factory=list)
    """Seconds until somebody who is known was named rightly, for each coming."""
    right: float = 0.0
    known: float = 0.0
    """Person-seconds of known people, and those under the right name."""
    looks: int = 0
    visits: int = 0
    """``appeared`` events."""
    comings: int = 0


def measure(scene: Scene, fps: float, index_step: int = 1) -> Measured:
    """One scene at one rate, with the default settings."""
    actors, said, step = Actors(scene), Measured(), 1 / fps
    spells: dict[str, tuple[str, float]] = {}
    waiting: dict[str, float] = {}
    before: set[str] = set()
    for result in watch(frames(scene, fps, index_step), actors, actors):  # type: ignore[arg-type]
        seconds = result.frame.seconds
        there = scene.at(seconds)
        said.visits += sum(event.kind == "appeared" for event in result.events)
        shown: dict[str, str] = {}
        for person in result.people:
            if person.name is None or not there:
                continue
            near = max(there, key=lambda one: shared(np.array(one[1:]), np.array(person.box)))
            if shared(np.array(near[1:]), np.array(person.box)) > 0.3:
                shown[near[0]] = person.name
        names = [person.name for person in result.people if person.name]
        said.twice += step * (len(set(names)) < len(names))
        here = {who for who, *_ in there}
        for who in here - before:
            said.comings += 1
            waiting[who] = seconds
        for who in here:
            said.present += step
            said.known += step * (who in KNOWN)
            name = shown.get(who)
            if name == who:
                said.right += step
                if who in waiting:
                    said.waits.append(seconds - waiting.pop(who))
            if name is None or name == who:
                spells.pop(who, None)
                continue
            said.wrong += step
            if spells.get(who, ("", 0.0))[0] != name:
                spells[who] = (name, seconds)
            said.longest = max(said.longest, seconds + step - spells[who][1])
        for who in before - here:
            waiting.pop(who, None)
            spells.pop(who, None)
        before = here
    said.looks = actors.looks
    return said


def table() -> dict[str, dict[str, float]]:
    """Of each scene the worst figure over all rates."""
    rows = {}
    for name, scene in SCENES.items():
        found = [figures(measure(scene, fps)) for fps in RATES]
        rows[name] = {key: (min if key == "right" else max)(row[key] for row in found) for key in HEADS}
    joined = Scene(60.0, lambda s: SCENES["swap"].at(s) if s < 30 else SCENES["gap"].at(s - 30))
    rows[SLOW] = figures(measure(joined, 3, 10))
    return rows


def figures(said: Measured) -> dict[str, float]:
    return {
        "wrong": 100 * said.wrong / said.present,
        "longest": said.longest,
        "twice": said.twice,
        "wait": float(np.mean(said.waits)) if said.waits else math.nan,
        "right": 100 * said.right / said.known,
        "looks": said.looks / said.present,
        "visits": said.visits / said.comings,
    }


HEADS = {
    "wrong": "person-seconds under a wrong name, %",
    "longest": "longest, s",
    "twice": "one name on two faces, s",
    "wait": "until the right name, s",
    "right": "known people under their name, %",
    "looks": "looks a person-second",
    "visits": "visits told for each",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path)
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    new = table()
    if options.json:
        print(json.dumps(new))
        return
    old: dict[str, dict[str, float]] = {}
    if options.old:
        roots = [str(options.old / part) for part in ("", "export", "devices", "runtime")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
        command = [sys.executable, str(Path(__file__).resolve()), "--json"]
        done = subprocess.run(command, env=environment, cwd=options.old, check=True, stdout=subprocess.PIPE, text=True)
        old = json.loads(done.stdout)
    print("| scene | " + " | ".join(HEADS.values()) + " |")
    print("| --- |" + " ---: |" * len(HEADS))
    for name, row in new.items():
        cells = [f"{old[name][key]:.2f} → {row[key]:.2f}" if old else f"{row[key]:.2f}" for key in HEADS]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
