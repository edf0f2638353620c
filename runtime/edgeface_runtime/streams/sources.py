"""Frames of a camera, a video file or a folder of photos, one after the other.

Files give every frame, in order. A camera gives its newest frame whenever one is asked for: what came in between is
skipped, so that a slow reader is never behind.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import InitVar, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import Color, described, is_bgr, number, path_of
from edgeface_runtime.engines import muted_stderr
from edgeface_runtime.errors import ImageError, MissingExtraError, UsageError
from edgeface_runtime.images import SUFFIXES, open_rgb, shown, swapped

FPS = 25.0
"""Frames a second where a source does not say."""
_LET_GO = 5.0  # seconds to wait for a camera that hangs


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a source: ``Frame(index, seconds, pixels, name="", color="rgb")``.

    ``pixels`` may be an array of any kind that ``open_rgb`` takes, its channels in the order ``color``; it becomes
    (H, W, 3) uint8 RGB.

    Raises:
        ImageError: ``pixels`` is no photo, such as the None of a camera that has failed.
        UsageError: no such ``color``.
    """

    index: int
    """0, 1, 2 …; skipped frames are counted."""
    seconds: float
    """Since the first frame. Of a photo in a folder: its index."""
    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    name: str = ""
    """Of the photo's file."""
    color: InitVar[Color] = "rgb"
    """The order of the channels of the ``pixels`` that are given: ``"rgb"``, or ``"bgr"`` as OpenCV has them."""

    def __post_init__(self, color: Color) -> None:
        try:
            object.__setattr__(self, "pixels", open_rgb(self.pixels, color=color))
        except ImageError as error:
            raise ImageError(f"frame {self.index}: {error}") from error

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        name = f", {self.name}" if self.name else ""
        return f"<Frame {self.index}, {self.seconds:.3f} s, {width} × {height} px{name}>"


@dataclass(frozen=True, eq=False)
class Source:
    """An opened source. Iterate over ``frames`` once; ``frames.close()`` lets go of it before its end."""

    kind: Literal["camera", "video", "folder"]
    frames: Generator[Frame]
    fps: float
    """Frames a second that it gives by itself."""


def open_source(source: int | str | Path, report: Callable[[str], None] | None = None, *, turn: int = 0) -> Source:
    """Opens a camera, a video file or a folder of photos.

    Args:
        source: a camera's number, or a path. Photos come by name.
        report: is told in one line of a photo that cannot be read, which is passed over; None raises ImageError.
        turn: degrees clockwise by which each frame is turned, 0, 90, 180 or 270: makes upright what a camera on its
            side sees.

    Raises:
        UsageError: nothing there, no video, a folder without photos, or another ``turn``.
        MissingExtraError: OpenCV is absent; cameras and videos need it (extra ``camera``).
    """
    if turn not in (0, 90, 180, 270):
        raise UsageError(f"turn is {turn}; a frame is turned by 0, 90, 180 or 270 degrees")
    if isinstance(source, int):
        capture = _capture(source, f"camera {source}: cannot be opened; is it there, and may you use it?")
        return Source("camera", _newest(_reader(capture, turn), capture.release), _fps(capture))
    path = path_of("the source", source)
    if path.is_dir():
        photos = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not photos:
            raise UsageError(f"{shown(path)}: no photo in it")
        return Source("folder", _photos(photos, report, turn), 1.0)
    if not path.is_file():
        raise UsageError(f"{shown(path)}: no such file or folder")
    capture = _capture(str(path), f"{shown(path)}: not a video that can be read")
    return Source("video", _every(_reader(capture, turn), capture.release, _fps(capture)), _fps(capture))


def in_turn(images: Iterable[NDArray[Any]], fps: float = FPS, *, color: Color = "rgb") -> Iterator[Frame]:
    """Frames of arrays that come from elsewhere, at an even rate.

    Args:
        images: arrays as ``open_rgb`` takes them: grey, three or four channels, uint8 or uint16.
        fps: how many there are in a second.
        color: the order of their channels: ``"bgr"`` for frames of OpenCV and for picamera2's "RGB888".

    Raises:
        ImageError: one of them is no photo, such as the None of a camera that has failed.
        UsageError: ``fps`` is not above 0, no such ``color``, or ``images`` cannot be iterated over.
    """
    if not (rate := number("fps", fps)) > 0:
        raise UsageError(f"fps is {rate:g}; it must be above 0")
    is_bgr(color)
    if not isinstance(images, Iterable):
        raise UsageError(f"images is {described(images)}; it must be a series of arrays")
    return (Frame(index, index / rate, image, color=color) for index, image in enumerate(images))


def opencv() -> ModuleType:
    """OpenCV, which does not talk of its own accord.

    Raises:
        MissingExtraError: it is absent.
    """
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError("cv2", "camera") from error
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what is wrong with a file, we say
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    module: ModuleType = cv2
    return module


def _capture(source: int | str, failed: str) -> Any:
    cv2 = opencv()
    with muted_stderr():  # FFmpeg takes its level once, which may have been before ours was set
        capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        capture.release()
        raise UsageError(failed)
    return capture


def _fps(capture: Any) -> float:
    fps = float(capture.get(opencv().CAP_PROP_FPS))
    return fps if 1 <= fps <= 1000 else FPS  # cameras and damaged files say 0, infinity or 90000


def _turned(pixels: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rot90(pixels, -degrees // 90)) if degrees else pixels


def _reader(capture: Any, turn: int) -> Callable[[], NDArray[np.uint8] | None]:
    """Gives the next frame in RGB, None at the end."""

    def read() -> NDArray[np.uint8] | None:
        ok, bgr = capture.read()
        return _turned(swapped(bgr), turn) if ok else None

    return read


def _photos(paths: list[Path], report: Callable[[str], None] | None, turn: int) -> Generator[Frame]:
    for index, path in enumerate(paths):
        try:
            pixels = _turned(open_rgb(path), turn)
        except ImageError as error:
            if report is None:
                raise
            report(str(error))
            continue
        yield Frame(index, float(index), pixels, shown(path.name))


def _every(read: Callable[[], NDArray[np.uint8] | None], release: Callable[[], None], fps: float) -> Generator[Frame]:
    try:
        index = 0
        while (pixels := read()) is not None:
            yield Frame(index, index / fps, pixels)
            index += 1
    finally:
        release()


def _newest(read: Callable[[], NDArray[np.uint8] | None], release: Callable[[], None]) -> Generator[Frame]:
    """A thread reads without pause and keeps one frame: the newest that nobody has taken."""
    changed = threading.Condition()
    waiting: list[Frame] = []
    ended = threading.Event()

    def grab() -> None:
        index, began = 0, time.monotonic()
        try:
            while not ended.is_set() and (pixels := read()) is not None:
                with changed:
                    waiting[:] = [Frame(index, time.monotonic() - began, pixels)]
                    changed.notify()
                index += 1
        finally:
            with changed:
                ended.set()
                changed.notify()

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
        release()
