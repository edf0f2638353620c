"""Boxes and names drawn into frames, and where the frames go: a video, a folder of JPEG files or a window."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeface_runtime import Frame, Person, Source, UsageError
from edgeface_runtime.files import check_target, is_unused, make_folder, remove_leftovers, replacing, write_whole
from edgeface_runtime.streams.captures import opencv

if TYPE_CHECKING:
    from cv2 import VideoWriter

Write = Callable[[Frame, NDArray[np.uint8]], None]
_KNOWN, _UNKNOWN = (46, 160, 67), (219, 109, 40)
_QUIT = (27, ord("q"))


def drawn(pixels: NDArray[np.uint8], people: Sequence[Person]) -> NDArray[np.uint8]:
    """A copy of (H, W, 3) uint8 RGB pixels with each person's box, name and score."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    size = max(12, image.height // 40)
    font = ImageFont.load_default(size)
    for person in people:
        colour = _UNKNOWN if person.name is None else _KNOWN
        x0, y0, x1, y1 = person.box
        draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=max(2, size // 8))
        score = "" if person.name is None or person.score is None else f" {person.score:.2f}"
        text = f"{person.name or 'unknown'}{score}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        wide, high = right - left + size // 2, bottom - top + size // 2
        # Kept inside the frame, above the box where there is room.
        x = min(max(x0, 0), max(image.width - wide, 0))
        y = y0 - high if y0 >= high else min(max(y0, 0), max(image.height - high, 0))
        draw.rectangle((x, y, x + wide, y + high), fill=colour)
        draw.text((x + size // 4 - left, y + size // 4 - top), text, fill="white", font=font)
    return np.asarray(image)


@contextlib.contextmanager
def pictures(
    source: int | str | Path, opened: Source, output: Path | None, show: bool
) -> Iterator[Callable[[Frame, Sequence[Person]], bool]]:
    """Draws each frame to where it is wanted; what it gives is False once the window was closed.

    Raises:
        UsageError: the output does not fit the source, or this OpenCV has no windows.
        MissingExtraError: OpenCV is absent.
    """
    if output and opened.kind == "folder" and output.suffix.lower() == ".mp4":
        raise UsageError(f"{output}: photos differ in size; name a folder")
    if (
        output
        and opened.kind != "camera"
        and output.exists()
        and Path(str(source)).exists()
        and output.samefile(str(source))
    ):
        raise UsageError(f"{output}: is what is to be watched; name another file")
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(writer(output, opened.fps, live=opened.kind == "camera")) if output else None
        display = stack.enter_context(window("edgeface")) if show else None

        def draw(frame: Frame, people: Sequence[Person]) -> bool:
            if not write and not display:
                return True
            picture = drawn(frame.pixels, people)
            if write:
                write(frame, picture)
            return display is None or display(picture)

        yield draw


@contextlib.contextmanager
def writer(path: Path, fps: float, *, live: bool) -> Iterator[Write]:
    """Writes frames to a .mp4 file, whole or not at all, or as JPEG files to a new or empty folder.

    Args:
        path: the file or folder.
        fps: frames a second of the video.
        live: True: frames come when they come, and one is repeated until the next one's time.

    Raises:
        UsageError: another suffix, a folder that is not empty, or it cannot be written.
        MissingExtraError: OpenCV is absent; videos need it.
    """
    if path.suffix.lower() == ".mp4":
        with _video(path, fps, live=live) as write:
            yield write
        return
    if path.suffix and not path.is_dir():
        raise UsageError(f"{path}: name a .mp4 file or a folder")
    make_folder(path)
    if not is_unused(path):
        raise UsageError(f"{path}: is not empty; name another folder")

    def write_jpeg(frame: Frame, pixels: NDArray[np.uint8]) -> None:
        name = frame.name or f"{frame.index:06d}"
        name = name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"
        file = path / (f"{name}.jpg" if (path / name).exists() else name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as part:
                write_whole(part, partial(Image.fromarray(pixels).save, format="JPEG", quality=90))
        except OSError as error:
            raise UsageError(f"{file}: cannot be written ({error.strerror or error})") from error

    yield write_jpeg


@contextlib.contextmanager
def _video(path: Path, fps: float, *, live: bool) -> Iterator[Write]:
    check_target(path)
    cv2 = opencv()
    remove_leftovers(path.parent)
    written, mode = 0, 0
    output: VideoWriter | None = None
    part = path
    with contextlib.ExitStack() as stack:

        def write(frame: Frame, pixels: NDArray[np.uint8]) -> None:
            nonlocal written, output, part, mode
            if output is None:
                part = stack.enter_context(replacing(path))
                try:
                    mode = _made_private(part)
                except OSError as error:
                    raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
                height, width = pixels.shape[:2]
                output = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*"mp4v"), fps, (width, height))
                stack.callback(output.release)
            due = int(frame.seconds * fps) + 1 if live else written + 1
            while written < due:
                output.write(pixels[..., ::-1])
                written += 1

        yield write
        if output is not None:
            output.release()
            # OpenCV does not say that a write has failed. Ctrl-C may come between a write and its count.
            if _frames(cv2, part) < written:
                raise UsageError(f"{path}: cannot be written; is the disk full?")
            part.chmod(mode)


def _made_private(path: Path) -> int:
    """Makes an empty file that its owner alone can read; the permissions that it would have had by the umask."""
    path.touch(exist_ok=False)
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o600)
    return mode


def _frames(cv2: ModuleType, path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()


@contextlib.contextmanager
def window(title: str) -> Iterator[Callable[[NDArray[np.uint8]], bool]]:
    """A window; what it gives shows (H, W, 3) uint8 RGB pixels and is False once somebody has pressed q or Escape.

    Raises:
        UsageError: this OpenCV has no windows.
        MissingExtraError: there is no OpenCV.
    """
    cv2 = opencv()
    gui = [line.split()[-1] for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")]
    if gui in ([], ["NONE"]):
        raise UsageError(
            "this OpenCV shows no windows; leave --show out and write with --output, or replace the package "
            "opencv-python-headless by opencv-python"
        )

    def show(pixels: NDArray[np.uint8]) -> bool:
        cv2.imshow(title, pixels[..., ::-1])
        return cv2.waitKey(1) & 0xFF not in _QUIT

    try:
        yield show
    finally:
        cv2.destroyAllWindows()
