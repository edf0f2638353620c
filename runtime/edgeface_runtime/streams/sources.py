"""Frames of a camera, a video file or a folder of photos, one after the other.

Files give every frame, in order. A camera gives its newest frame whenever one is asked for: what came in between is
skipped, so that a slow reader is never behind. One that fails is opened again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import path_of
from edgeface_runtime.errors import ImageError, UsageError
from edgeface_runtime.images import SUFFIXES, open_rgb, shown
from edgeface_runtime.streams.captures import Capture, is_address, is_camera, open_capture, opencv, without_secrets
from edgeface_runtime.streams.frames import FPS, Frame, in_turn

__all__ = ["FPS", "Frame", "Source", "State", "in_turn", "open_source", "opencv"]

State: TypeAlias = Literal["lost", "waiting", "back"]
"""Of a camera that is opened again: it has failed, is about to be tried, gives frames again."""
_Read: TypeAlias = Callable[[], NDArray[np.uint8] | None]
_LET_GO = 5.0  # seconds to wait for a camera that hangs
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0  # seconds until a camera that has failed is opened again; each wait is twice


@dataclass(frozen=True, eq=False)
class Source:
    """An opened source. Iterate over ``frames`` once; ``frames.close()`` lets go of it before its end.

    ``frames`` of a video that has none that can be read raise UsageError.
    """

    kind: Literal["camera", "video", "folder"]
    frames: Generator[Frame]
    fps: float
    """Frames a second that it gives by itself."""
    name: str = ""
    """What it is, without user, password and query of an address."""
    stop: Callable[[], None] = lambda: None
    """Ends a camera's ``frames``, which may be waiting for one in another thread."""


def open_source(
    source: int | str | Path,
    report: Callable[[str], None] | None = None,
    *,
    turn: int = 0,
    reconnect: bool = True,
    state: Callable[[State], None] | None = None,
) -> Source:
    """Opens a camera, a video file or a folder of photos.

    Args:
        source: a camera's number, its device (``/dev/video0``), its address (``rtsp://``, ``http://`` with MJPEG),
            ``picamera2`` or ``picamera2:1280x720`` for the camera module of a Raspberry Pi; or a path. Photos come by
            name.
        report: is told in one line of a photo that cannot be read, which is passed over; None raises ImageError.
        turn: degrees clockwise by which each frame is turned, 0, 90, 180 or 270: makes upright what a camera on its
            side sees.
        reconnect: True: a camera that fails is opened again, after waits that grow to ten seconds, until it gives
            frames; False: its frames end.
        state: is told when a camera is lost, before each try to open it again, and when it is back; from another
            thread.

    Raises:
        UsageError: nothing there, no video, a folder without photos, or another ``turn``.
        MissingExtraError: OpenCV is absent; cameras and videos need it (extra ``camera``).
    """
    _check_turn(turn)
    name = without_secrets(source)
    if is_camera(source):
        capture = open_capture(source)
        if is_address(source) and getattr(capture, "is_file", bool)():
            return Source("video", _every(capture, turn, name), capture.fps, name)
        ended = threading.Event()
        read, small, release = _steady(source, capture, reconnect, state or (lambda _: None), ended)
        frames, stop = _newest(lambda: _turned(read(), turn), release, ended, lambda: _turned(small(), turn))
        return Source("camera", frames, capture.fps, name, stop)
    path = path_of("the source", source)
    if path.is_dir():
        photos = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not photos:
            raise UsageError(f"{shown(path)}: no photo in it")
        return open_photos(photos, path, report, turn=turn)
    if not path.is_file():
        raise UsageError(f"{shown(path)}: no such file or folder")
    capture = open_capture(path)
    return Source("video", _every(capture, turn, name), capture.fps, name)


def open_photos(
    photos: Sequence[Path], folder: Path, report: Callable[[str], None] | None = None, *, turn: int = 0
) -> Source:
    """A source of photos, in the order given.

    Args:
        photos: their files, at whatever depth of ``folder``.
        folder: what a frame's name is relative to.
        report: as in ``open_source``.
        turn: as in ``open_source``.

    Raises:
        UsageError: another ``turn``.
    """
    _check_turn(turn)
    return Source("folder", _photos(photos, folder, report, turn), 1.0, without_secrets(folder))


def _check_turn(turn: int) -> None:
    if turn not in (0, 90, 180, 270):
        raise UsageError(f"turn is {turn}; a frame is turned by 0, 90, 180 or 270 degrees")


def _turned(pixels: NDArray[np.uint8] | None, degrees: int) -> NDArray[np.uint8] | None:
    return np.ascontiguousarray(np.rot90(pixels, -degrees // 90)) if degrees and pixels is not None else pixels


def _photos(paths: Sequence[Path], folder: Path, report: Callable[[str], None] | None, turn: int) -> Generator[Frame]:
    for index, path in enumerate(paths):
        try:
            pixels = _turned(open_rgb(path), turn)
        except ImageError as error:
            if report is None:
                raise
            report(str(error))
            continue
        assert pixels is not None
        yield Frame(index, float(index), pixels, shown(path.relative_to(folder)))


def _every(capture: Capture, turn: int, name: str) -> Generator[Frame]:
    """Each frame at its own time: a phone's video has fewer frames a second in the dark."""
    try:
        index, seconds = 0, 0.0
        first: float | None = None
        while (pixels := _turned(capture.read(), turn)) is not None:
            said = capture.seconds()
            first = said if first is None else first
            due = seconds + 1 / capture.fps if index else 0.0
            # A file that gives no times, or the same one again, has an even rate.
            seconds = round(said - first, 6) if said and first is not None and said - first > seconds else due
            yield Frame(index, seconds, pixels)
            index += 1
        if not index:  # OpenCV opens whatever has the name of a picture
            raise UsageError(f"{name}: no frame in it that can be read; is it a video?")
    finally:
        capture.release()


def _steady(
    source: int | str | Path,
    capture: Capture,
    reconnect: bool,
    state: Callable[[State], None],
    ended: threading.Event,
) -> tuple[_Read, _Read, Callable[[], None]]:
    """How to read a camera that may fail, the same frame at fewer pixels, and how to let go of it.

    ``ended`` ends the tries to open it again.
    """
    held: list[Capture] = [capture]

    def read() -> NDArray[np.uint8] | None:
        wait, is_lost = _FIRST_WAIT, False
        while not ended.is_set():
            if held:
                pixels = held[0].read()
                if pixels is not None:
                    if is_lost:
                        state("back")
                    return pixels
                held.pop().release()
            if not reconnect:
                return None
            state("waiting" if is_lost else "lost")
            is_lost = True
            if ended.wait(wait):
                return None
            wait = min(2 * wait, _LONGEST_WAIT)
            try:
                held.append(open_capture(source))
            except UsageError:
                continue
        return None

    def small() -> NDArray[np.uint8] | None:
        return held[0].small if held else None

    def release() -> None:
        while held:
            held.pop().release()

    return read, small, release


def _newest(
    read: _Read, release: Callable[[], None], ended: threading.Event, small: _Read = lambda: None
) -> tuple[Generator[Frame], Callable[[], None]]:
    """A thread reads without pause and keeps one frame: the newest that nobody has taken. And what ends it."""
    changed = threading.Condition()
    waiting: list[Frame] = []

    def grab() -> None:
        index, began = 0, time.monotonic()
        try:
            while not ended.is_set() and (pixels := read()) is not None:
                with changed:
                    waiting[:] = [Frame(index, time.monotonic() - began, pixels, small=small())]
                    changed.notify()
                index += 1
        finally:
            release()  # by the thread that reads: FFmpeg does not survive it from another one
            stop()

    def stop() -> None:
        ended.set()
        with changed:
            changed.notify()

    def frames() -> Generator[Frame]:
        thread = threading.Thread(target=grab, daemon=True)
        thread.start()
        try:
            while True:
                with changed:
                    changed.wait_for(lambda: waiting or ended.is_set())
                    if not waiting:
                        return
                    frame = waiting.pop()
                yield frame
        finally:
            ended.set()
            thread.join(_LET_GO)

    return frames(), stop
