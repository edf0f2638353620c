"""Watches a camera, a video or a folder: draws who is there and tells who comes and goes."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeface.drawing import drawn, window, writer
from edgeface_runtime import (
    Event,
    FaceRecognizer,
    Frame,
    FrameResult,
    Gallery,
    Source,
    TrackingConfig,
    UsageError,
    open_source,
    watch,
)

KEPT = 10_000
"""Of so many events the latest are reported, so that memory stays flat."""


@dataclass(frozen=True)
class Row:
    """An event as it is reported."""

    event: str
    track: int
    name: str | None
    score: float | None
    frame: int
    seconds: float
    photo: str
    """Name of the photo's file; empty for a camera and a video."""


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
    """True where Ctrl-C ended it; what was done until then is whole."""


def run(
    source: int | Path,
    recognizer: FaceRecognizer,
    gallery: Gallery,
    *,
    far: float,
    threshold: float | None,
    every: int,
    output: Path | None = None,
    show: bool = False,
    seconds: float | None = None,
    turn: int = 0,
    tell: Callable[[Row], None],
    report: Callable[[str], None],
) -> Report:
    """Watches a source until its end, or until Ctrl-C.

    Args:
        source: a camera's number, a video file or a folder of photos.
        recognizer: finds and embeds faces.
        gallery: the people who are known.
        far: as in ``watch``.
        threshold: as in ``watch``.
        every: look for faces in every so-many-th frame; each photo of a folder is looked at.
        output: a .mp4 file or a folder to draw to.
        show: draw to a window.
        seconds: stop after so many seconds of the source.
        tell: is called with each event when it happens.
        report: is called with a line for each photo that cannot be read.

    Raises:
        UsageError: the source, the output or an option does not fit.
        GalleryError: the gallery was made with another model.
        MissingExtraError: OpenCV is absent, which all but folders need.
    """
    opened = open_source(source, report, turn=turn)
    with contextlib.ExitStack() as stack:
        stack.callback(opened.frames.close)
        config = TrackingConfig.photos() if opened.kind == "folder" else TrackingConfig(every=every)
        draw = stack.enter_context(_pictures(source, opened, output, show))
        frames = opened.frames if seconds is None else itertools.takewhile(_before(seconds), opened.frames)
        rows: deque[Row] = deque(maxlen=KEPT)
        count = told = 0
        last = -1
        interrupted = False
        began = time.perf_counter()
        try:
            for result in watch(frames, recognizer, gallery, far, threshold=threshold, config=config):
                count, last = count + 1, result.frame.index
                for event in result.events:
                    rows.append(_row(event, result.frame))
                    told += 1
                    tell(rows[-1])
                if not draw(result):
                    break
        except KeyboardInterrupt:
            interrupted = True
        took = time.perf_counter() - began
    return Report(count, last + 1 - count, took, count / took, tuple(rows), told - len(rows), interrupted)


@contextlib.contextmanager
def _pictures(
    source: int | Path, opened: Source, output: Path | None, show: bool
) -> Iterator[Callable[[FrameResult], bool]]:
    """Draws each result to where it is wanted; False once the window was closed."""
    if output and opened.kind == "folder" and output.suffix.lower() == ".mp4":
        raise UsageError(f"{output}: photos differ in size; name a folder")
    if output and not isinstance(source, int) and output.exists() and output.samefile(source):
        raise UsageError(f"{output}: is what is to be watched; name another file")
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(writer(output, opened.fps, live=opened.kind == "camera")) if output else None
        display = stack.enter_context(window("edgeface")) if show else None

        def draw(result: FrameResult) -> bool:
            if not write and not display:
                return True
            picture = drawn(result.frame.pixels, result.people)
            if write:
                write(result.frame, picture)
            return display is None or display(picture)

        yield draw


def _before(seconds: float) -> Callable[[Frame], bool]:
    return lambda frame: frame.seconds < seconds


def _row(event: Event, frame: Frame) -> Row:
    who = event.person
    return Row(event.kind, who.track, who.name, who.score, frame.index, frame.seconds, frame.name)
