"""What gives a camera's or a video's pictures: OpenCV, or picamera2 for the camera module of a Raspberry Pi."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime.engines import muted_stderr
from edgeface_runtime.errors import ImageError, MissingExtraError, UsageError
from edgeface_runtime.images import open_rgb, shown, swapped
from edgeface_runtime.streams.frames import FPS

PICAMERA = "picamera2"
"""The camera module of a Raspberry Pi, perhaps with a size: ``picamera2:1280x720``."""
_SIZE = (640, 480)
_LONGEST = 640  # pixels of the longer side that faces are looked for in
_ADDRESS = re.compile(r"(rtsps?|https?)://", re.IGNORECASE)
_PATIENCE = 10_000  # milliseconds that a camera in the network may take to answer, and from one frame to the next


class Capture(Protocol):
    """An opened camera or video."""

    fps: float
    """Frames a second that it says it gives."""
    small: NDArray[np.uint8] | None
    """The frame that was read once more, as (h, w, 3) RGB of fewer pixels; None where the camera makes no such."""

    def read(self) -> NDArray[np.uint8] | None:
        """(H, W, 3) RGB, None where there is no more."""
        ...

    def seconds(self) -> float | None:
        """When the frame that was read is to be shown, as the file says; None where it does not."""
        ...

    def release(self) -> None:
        """Lets go of it."""
        ...


def is_address(source: object) -> bool:
    """True for ``rtsp://``, ``rtsps://``, ``http://`` and ``https://``."""
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def is_camera(source: object) -> bool:
    """True for what is opened as a camera: a number, a device, an address or picamera2."""
    text = str(source)
    is_device = text.startswith(("/dev/video", "/dev/v4l/")) and not Path(text).is_file()
    return isinstance(source, int) or is_address(source) or is_device or text.split(":")[0] == PICAMERA


def without_secrets(source: int | str | Path) -> str:
    """The source as it may be shown: of an address neither user nor password nor query."""
    if not is_address(source):
        return shown(str(source))
    scheme, rest = str(source).split("://", 1)
    place, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def open_capture(source: int | str | Path) -> Capture:
    """Opens a camera or a video file.

    Raises:
        UsageError: it cannot be opened.
        MissingExtraError: OpenCV or picamera2 is absent.
    """
    text = str(source)
    if text.split(":")[0] == PICAMERA:
        return _Picamera(text)
    cv2 = opencv()
    name = without_secrets(source)
    if is_address(source):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _PATIENCE]
        return _OpenCv(
            (text, cv2.CAP_FFMPEG, limits), f"{name}: no stream there; is the camera on, and the login right?"
        )
    if is_camera(source):
        failed = f"camera {name}: cannot be opened; is it there, and may you use it?"
        return _OpenCv((source,) if isinstance(source, int) else (text, cv2.CAP_V4L2), failed)
    return _OpenCv((text,), f"{name}: not a video that can be read")


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


class _OpenCv:
    small: NDArray[np.uint8] | None = None

    def __init__(self, arguments: tuple[object, ...], failed: str) -> None:
        self._cv2 = opencv()
        with muted_stderr():  # FFmpeg takes its level once, which may have been before ours was set
            self._capture = self._cv2.VideoCapture(*arguments)
        if not self._capture.isOpened():
            self._capture.release()
            raise UsageError(failed)
        fps = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        self.fps = fps if 1 <= fps <= 1000 else FPS  # cameras and damaged files say 0, infinity or 90000

    def is_file(self) -> bool:
        """True where it has an end: a video, though it may come from an address."""
        return 0 < float(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)) < 1e9

    def read(self) -> NDArray[np.uint8] | None:
        ok, bgr = self._capture.read()
        return swapped(bgr) if ok else None

    def seconds(self) -> float | None:
        found = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000
        return found if np.isfinite(found) and found >= 0 else None

    def release(self) -> None:
        self._capture.release()


class _Picamera:
    """picamera2's names of formats say the order of bytes in a word: "RGB888" is B, G, R in memory."""

    fps = FPS

    def __init__(self, source: str) -> None:
        size = re.fullmatch(rf"{PICAMERA}(?::(\d+)x(\d+))?", source)
        if size is None:
            raise UsageError(f"{source}: name {PICAMERA}, or {PICAMERA}:1280x720 for frames of another size")
        try:
            module = importlib.import_module(PICAMERA)
        except ImportError as error:
            raise UsageError(
                f"picamera2 cannot be imported ({error}); it comes with Raspberry Pi OS: sudo apt install "
                "python3-picamera2, in an environment made with --system-site-packages"
            ) from error
        wanted = (int(size[1]), int(size[2])) if size[1] else _SIZE
        self.small: NDArray[np.uint8] | None = None
        self._streams = ["main"]
        streams: dict[str, object] = {"main": {"format": "RGB888", "size": wanted}}
        if max(wanted) > _LONGEST:
            # Of all boards' formats of this stream, the one that each of them has.
            less = [2 * round(side * _LONGEST / max(wanted) / 2) for side in wanted]
            streams["lores"] = {"format": "YUV420", "size": tuple(less)}
            self._streams.append("lores")
        try:
            self._camera = module.Picamera2()
            # Without a queue each frame is one that was taken after it was asked for.
            self._camera.configure(self._camera.create_video_configuration(**streams, queue=False))
            self._camera.start()
        except (RuntimeError, IndexError, OSError, ValueError) as error:
            raise UsageError(f"{source}: the camera cannot be opened ({error}); does rpicam-hello see it?") from error

    def read(self) -> NDArray[np.uint8] | None:
        try:
            (main, *less), _ = self._camera.capture_arrays(self._streams)
            if less:
                self.small = _from_yuv420(less[0], self._camera.stream_configuration("lores")["size"])
            return open_rgb(main, color="bgr")
        except (RuntimeError, OSError, ImageError):  # unplugged, or the camera's process is gone
            return None

    def seconds(self) -> float | None:
        return None

    def release(self) -> None:
        self._camera.stop()
        self._camera.close()


def _from_yuv420(planes: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 3) RGB of (1.5 height, stride) uint8: rows of Y, then those of U and of V at half the stride.

    ITU-R BT.601 in its limited range, Y from 16 to 235. A stream that is BT.709 comes out a little off in hue.
    """
    (width, height), stride = size, planes.shape[1]
    halves = planes[height:].reshape(2, height // 2, stride // 2)[..., : width // 2]
    steps = np.arange(256)
    luma, chroma = ((steps - 16) * 255 / 219, (steps - 128) * 255 / 224 + 128)
    to_full = [np.clip(levels, 0, 255).round().astype(np.uint8) for levels in (luma, chroma)]
    bands = [Image.fromarray(to_full[0][planes[:height, :width]])]
    bands += [Image.fromarray(to_full[1][half]).resize(size, Image.Resampling.NEAREST) for half in halves]
    return np.asarray(Image.merge("YCbCr", bands).convert("RGB"))
