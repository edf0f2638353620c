"""Watches cameras or a video, or identifies the photos of a folder: draws who is there and tells what happens."""

from __future__ import annotations

import contextlib
import functools
import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType

import numpy as np

from edgeface.drawing import pictures
from edgeface.notify import notify
from edgeface.presence import Presence
from edgeface.snapshots import Snapshots
from edgeface_runtime import (
    Event,
    Face,
    FaceRecognizer,
    Frame,
    FrameResult,
    Gallery,
    Identity,
    Person,
    Source,
    TrackingConfig,
    UsageError,
    open_source,
    watch,
)
from edgeface_runtime.images import shown
from edgeface_runtime.quality import face_crop, face_size, pose, sharpness
from edgeface_runtime.streams.captures import without_secrets
from edgeface_runtime.streams.sources import State, open_photos

KEPT = 10_000
"""Of so many events the latest are reported, so that memory stays flat."""


@dataclass(frozen=True)
class Row:
    """An event as it is reported."""

    event: str
    """``appeared``, ``named``, ``unknown`` and ``left`` of a person, ``lost`` and ``back`` of a camera."""
    time: str
    """Time of day when it was told, ISO 8601."""
    camera: str
    """Which one, or the video, without the login of an address."""
    track: int | None = None
    """Number of the visit; each camera counts for itself."""
    name: str | None = None
    score: float | None = None
    threshold: float | None = None
    frame: int | None = None
    seconds: float | None = None
    """Since the camera's or the video's first frame."""
    box: tuple[float, ...] | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None
    quality: dict[str, float] | None = None
    """Sharpness, face size, yaw and pitch, as in a gallery; None where the face is not in this frame."""
    snapshot: str | None = None
    """The file with the best picture of the visit so far."""


@dataclass(frozen=True)
class Report:
    """What a run did."""

    frames: int
    """That were looked at."""
    skipped: int
    """That were not: a camera's while one was looked at, photos that cannot be read."""
    seconds: float
    """That it took."""
    fps: float
    """Frames a second."""
    events: tuple[Row, ...]
    """The latest ``KEPT``."""
    events_left_out: int
    interrupted: bool
    """True where Ctrl-C or SIGTERM ended it; what was done until then is whole."""


class Stop:
    """Ctrl-C and SIGTERM, heeded between two frames; a second Ctrl-C does not wait."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.asked = threading.Event()
        self._ends: list[Callable[[], None]] = []
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._heed)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _heed(self, number: int, _: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        self.now()

    def also(self, end: Callable[[], None]) -> None:
        """``end`` is called when it is time to stop, to wake what waits."""
        self._ends.append(end)

    def now(self) -> None:
        """Asks everybody to stop."""
        self.asked.set()
        for end in self._ends:
            end()


@dataclass
class _Run:
    """What the watched cameras share. Their threads take turns to tell."""

    tell: Callable[[Row], None]
    stop: Stop
    snapshots: Snapshots | None
    grace: float
    """Seconds that a camera may be lost until nobody is taken to be before it any more."""
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=KEPT))
    told: int = 0
    frames: int = 0
    given: int = 0
    """Frames that the sources gave, those included that nobody looked at."""
    failed: BaseException | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _alive: float = 0.0
    _presence: Presence = field(default_factory=Presence)
    _lost: dict[str, float] = field(default_factory=dict)
    """Cameras that are lost, and since when."""

    def follow(
        self, name: str, opened: Source, results: Iterator[FrameResult], draw: Callable[[Frame, Sequence[Person]], bool]
    ) -> None:
        """One source, to its end."""
        last = -1
        try:
            for result in results:
                with self._turn:
                    last, self.frames = result.frame.index, self.frames + 1
                    self.alive()
                    self._take(name, result)
                    if not draw(result.frame, result.people):
                        self.stop.now()
                if self.stop.asked.is_set():
                    break
            with self._turn:
                self._end(name)
        except BaseException as error:
            self.failed = self.failed or error
            self.stop.now()
        finally:
            # Here, since only the thread that takes the frames may close them.
            opened.frames.close()
            self.given += last + 1

    def alive(self) -> None:
        """Tells systemd's watchdog so, at most once a second."""
        now = time.monotonic()
        if now - self._alive >= 1:
            notify("WATCHDOG=1" if self._alive else "READY=1\nWATCHDOG=1")
            self._alive = now

    def camera(self, name: str, state: State) -> None:
        """A camera is lost, about to be tried again, or back."""
        try:
            with self._turn:
                self.alive()
                if state != "waiting":
                    self._say(Row(state, _now(), name))
                if state == "back":
                    self._lost.pop(name, None)
                elif time.monotonic() - self._lost.setdefault(name, time.monotonic()) >= self.grace:
                    self._end(name)
        except BaseException as error:  # in the camera's thread, where nobody hears of it
            self.failed = self.failed or error
            self.stop.now()

    def _take(self, camera: str, result: FrameResult) -> None:
        if self.snapshots:
            self.snapshots.see(camera, result)
        frame = result.frame
        for event in self._presence.take(camera, result):
            quality = None if event.kind == "left" else _quality(frame, event.person)
            self._happened(camera, event, frame.index, frame.seconds, quality)

    def _end(self, camera: str) -> None:
        """Nobody is before the camera any more, as far as can be said."""
        for event, index, seconds in self._presence.end(camera):
            self._happened(camera, event, index, seconds, None)

    def _happened(
        self, camera: str, event: Event, index: int, seconds: float, quality: dict[str, float] | None
    ) -> None:
        who = event.person
        picture = self.snapshots.written(camera, event) if self.snapshots else None
        place = (who.track, who.name, who.score, who.threshold, index, seconds, who.box, who.landmarks)
        self._say(Row(event.kind, _now(), camera, *place, quality, picture))

    def _say(self, row: Row) -> None:
        self.rows.append(row)
        self.told += 1
        self.tell(row)


def run(
    sources: Sequence[int | str | Path],
    recognizer: FaceRecognizer,
    gallery: Gallery,
    *,
    far: float,
    threshold: float | None,
    config: TrackingConfig,
    output: Path | None = None,
    show: bool = False,
    snapshots: Path | None = None,
    seconds: float | None = None,
    turn: int = 0,
    stop: Stop | None = None,
    tell: Callable[[Row], None],
) -> Report:
    """Watches cameras or a video until their end, or until Ctrl-C or SIGTERM.

    Args:
        sources: cameras and videos as ``open_source`` takes them; several are watched side by side.
        recognizer: finds and embeds faces.
        gallery: the people who are known.
        far: as in ``watch``.
        threshold: as in ``watch``.
        config: as in ``watch``.
        output: a .mp4 file or a folder to draw to; of one source alone.
        show: draw to a window; one source alone.
        snapshots: folder for the best picture of each visit.
        seconds: stop after so many seconds of the source.
        turn: as in ``open_source``.
        stop: asks it to stop; one of its own where None.
        tell: is called with each event when it happens, by one thread at a time.

    Raises:
        UsageError: a source, the output or an option does not fit.
        GalleryError: the gallery was made with another model.
        MissingExtraError: OpenCV is absent.
    """
    if len(sources) > 1 and (output or show):
        raise UsageError("--output and --show draw one camera; watch the others with another `edgeface run`")
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(Stop())
        work = _Run(tell, stop, Snapshots(snapshots) if snapshots else None, config.patience)
        opened: list[Source] = []
        names = camera_names(sources)
        for name, source in zip(names, sources, strict=True):
            state = functools.partial(work.camera, name)
            opened.append(open_source(source, turn=turn, state=state))
            stack.callback(opened[-1].frames.close)
            stop.also(opened[-1].stop)
        draw = stack.enter_context(pictures(sources[0], opened[0], output, show))

        def results(one: Source) -> Iterator[FrameResult]:
            frames = one.frames if seconds is None else itertools.takewhile(_before(seconds), one.frames)
            return watch(frames, recognizer, gallery, far, threshold=threshold, config=config)

        began = time.perf_counter()
        if len(opened) == 1:
            work.follow(names[0], opened[0], results(opened[0]), draw)
        else:
            each = zip(names, opened, map(results, opened), itertools.repeat(draw))
            threads = [threading.Thread(target=work.follow, args=one) for one in each]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        took = time.perf_counter() - began
        notify("STOPPING=1")
        if work.snapshots:
            work.snapshots.close()
        # Where nobody reads what is told any more, what was drawn is whole.
        if work.failed is not None and not isinstance(work.failed, BrokenPipeError):
            raise work.failed
    if work.failed is not None:
        raise work.failed
    skipped, left_out = work.given - work.frames, work.told - len(work.rows)
    interrupted = stop.signal is not None
    return Report(work.frames, skipped, took, work.frames / took, tuple(work.rows), left_out, interrupted)


def camera_names(sources: Sequence[int | str | Path]) -> list[str]:
    """What events call each source: without the login of an address, and numbered where several look alike then."""
    shown_as = [without_secrets(source) for source in sources]
    count = [shown_as[: index + 1].count(name) for index, name in enumerate(shown_as)]
    return [name if number == 1 else f"{name} ({number})" for name, number in zip(shown_as, count, strict=True)]


@dataclass(frozen=True)
class PhotoResult:
    """What one photo of a folder shows."""

    photo: str
    faces: tuple[Identity, ...] = ()
    error: str | None = None
    """Why it could not be read."""


def identify_folder(
    folder: Path,
    photos: Sequence[Path],
    recognizer: FaceRecognizer,
    gallery: Gallery,
    *,
    far: float,
    threshold: float | None,
    output: Path | None = None,
    show: bool = False,
    turn: int = 0,
    stop: Stop,
    tell: Callable[[PhotoResult], None],
) -> tuple[int, int, float]:
    """Identifies the faces of each photo of a folder by itself.

    Args:
        folder: what answers call photos by their paths in.
        photos: those of the folder, at whatever depth.
        recognizer: finds and embeds faces.
        gallery: the people who are known.
        far: as in ``identify``.
        threshold: as in ``identify``.
        output: a folder to draw to.
        show: draw to a window.
        turn: as in ``open_source``.
        stop: asks it to stop.
        tell: is called with the answer for each photo, in their order.

    Returns:
        How many photos were looked at, how many could not be read, and the seconds that it took.

    Raises:
        UsageError: the folder, the output or an option does not fit.
        GalleryError: the gallery was made with another model.
    """
    failed: list[str] = []

    names = sorted((shown(path.relative_to(folder)) for path in photos), key=len, reverse=True)

    def report(line: str) -> None:
        failed.append(line)
        photo = next((name for name in names if line.startswith(f"{shown(folder / name)}: ")), line)
        tell(PhotoResult(photo, error=line))

    opened = open_photos(photos, folder, report, turn=turn)
    began, count = time.perf_counter(), 0
    with contextlib.closing(opened.frames), pictures(folder, opened, output, show) as draw:
        for frame in opened.frames:
            found = recognizer.identify(frame.pixels, gallery, far, threshold=threshold)
            count += 1
            people = [Person(index, face.name, face.score, face.box, 1) for index, face in enumerate(found, 1)]
            goes_on = draw(frame, people)
            tell(PhotoResult(frame.name, tuple(found)))  # once it is drawn: what was told of is there after a kill
            if not goes_on or stop.asked.is_set():
                break
    return count, len(failed), time.perf_counter() - began


def _before(seconds: float) -> Callable[[Frame], bool]:
    return lambda frame: frame.seconds < seconds


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def _quality(frame: Frame, who: Person) -> dict[str, float]:
    face = Face(np.array(who.box, np.float32), 1.0, np.array(who.landmarks, np.float32))
    turn = pose(face.landmarks)
    return {
        "sharpness": round(sharpness(face_crop(frame.pixels, face)), 1),
        "size": round(face_size(face), 1),
        "yaw": round(turn.yaw, 1),
        "pitch": round(turn.pitch, 1),
    }
