"""One frame of a stream, and frames of arrays that come from elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import Color, described, is_bgr, number
from edgeface_runtime.errors import ImageError, UsageError
from edgeface_runtime.images import open_rgb

FPS = 25.0
"""Frames a second where a source does not say."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a source: ``Frame(index, seconds, pixels, name="", color="rgb", small=None)``.

    ``pixels`` and ``small`` may be arrays of any kind that ``open_rgb`` takes, their channels in the order ``color``;
    they become (H, W, 3) uint8 RGB.

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
    small: NDArray[np.uint8] | None = field(default=None, kw_only=True)
    """The same picture at fewer pixels, where a camera gives it in two sizes: ``watch`` looks for faces in it."""

    def __post_init__(self, color: Color) -> None:
        try:
            for name in ("pixels", "small") if self.small is not None else ("pixels",):
                object.__setattr__(self, name, open_rgb(getattr(self, name), color=color))
        except ImageError as error:
            raise ImageError(f"frame {self.index}: {error}") from error

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        name = f", {self.name}" if self.name else ""
        return f"<Frame {self.index}, {self.seconds:.3f} s, {width} × {height} px{name}>"


def in_turn(
    images: Iterable[NDArray[Any]],
    fps: float = FPS,
    *,
    times: Iterable[float] | Callable[[], float] | None = None,
    color: Color = "rgb",
) -> Iterator[Frame]:
    """Frames of arrays that come from elsewhere, at an even rate or with the times that you give.

    Args:
        images: arrays as ``open_rgb`` takes them: grey, three or four channels, uint8 or uint16.
        fps: how many there are in a second.
        times: seconds of each frame, or a clock that is read as each one comes, such as ``time.monotonic``; in place
            of ``fps``. They count from the first one.
        color: the order of their channels: ``"bgr"`` for frames of OpenCV and for picamera2's "RGB888".

    Raises:
        ImageError: one of them is no photo, such as the None of a camera that has failed.
        UsageError: ``fps`` is not above 0, no such ``color``, or ``images`` or ``times`` cannot be iterated over.
    """
    if not (rate := number("fps", fps)) > 0:
        raise UsageError(f"fps is {rate:g}; it must be above 0")
    is_bgr(color)
    if not isinstance(images, Iterable):
        raise UsageError(f"images is {described(images)}; it must be a series of arrays")
    if times is None:
        return (Frame(index, index / rate, image, color=color) for index, image in enumerate(images))
    if not (callable(times) or isinstance(times, Iterable)):
        raise UsageError(f"times is {described(times)}; it must be a series of seconds, or a clock")
    return _timed(images, iter(times, None) if callable(times) else iter(times), color)


def _timed(images: Iterable[NDArray[Any]], times: Iterator[float], color: Color) -> Iterator[Frame]:
    first: float | None = None
    for index, image, seconds in zip(itertools.count(), images, times):  # a clock has no end
        first = seconds if first is None else first
        yield Frame(index, seconds - first, image, color=color)
