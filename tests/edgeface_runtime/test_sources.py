from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import ImageError, MissingExtraError, UsageError, open_source
from edgeface_runtime.streams import sources
from edgeface_runtime.streams.sources import FPS, in_turn, opencv
from edgeface_runtime.streams.sources import _newest as newest


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve frames at 10 a second, each of one shade, the left half red."""
    pytest.importorskip("cv2")
    cv2 = opencv()
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for shade in range(12):
        frame = np.full((64, 96, 3), 20 * shade, np.uint8)
        frame[:, :48, 2] = 255
        writer.write(frame)
    writer.release()
    return path


def test_a_video_gives_every_frame_in_rgb(video: Path):
    source = open_source(video)
    frames = list(source.frames)
    assert (source.kind, source.fps) == ("video", 10)
    assert [(frame.index, frame.seconds) for frame in frames] == [(i, i / 10) for i in range(12)]
    for frame in frames:
        assert (frame.pixels.shape, frame.pixels.dtype) == ((64, 96, 3), np.uint8)
        assert frame.pixels[:, 60:].mean() == pytest.approx(20 * frame.index, abs=4)
        assert frame.pixels[:, :36, 0].mean() > frame.pixels[:, :36, 2].mean()  # red comes first
    assert [frame.pixels.tobytes() for frame in open_source(str(video)).frames] == [f.pixels.tobytes() for f in frames]


def test_a_video_is_let_go_of(video: Path, monkeypatch: pytest.MonkeyPatch):
    cv2 = pytest.importorskip("cv2")
    released: list[str] = []
    capture = cv2.VideoCapture

    class Watched:
        def __init__(self, path: str) -> None:
            self.path, self.capture = path, capture(path)

        def __getattr__(self, name: str) -> object:
            return getattr(self.capture, name)

        def release(self) -> None:
            released.append(self.path)
            self.capture.release()

    monkeypatch.setattr(cv2, "VideoCapture", Watched)
    frames = open_source(video).frames
    next(frames)
    frames.close()
    assert released == [str(video)]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_frames_are_turned_clockwise(video: Path, turn: int):
    Image.fromarray(next(open_source(video).frames).pixels).save(video.parent / "a.png")
    for source in (video, video.parent):
        plain, turned = (list(open_source(source, turn=degrees).frames) for degrees in (0, turn))
        assert len(plain) == len(turned)
        for before, after in zip(plain, turned, strict=True):
            expected = Image.fromarray(before.pixels).rotate(-turn, expand=True)
            np.testing.assert_array_equal(after.pixels, np.asarray(expected))
            assert after.pixels.flags.c_contiguous


def test_no_other_turn(tmp_path: Path):
    with pytest.raises(UsageError, match="turn is 45"):
        open_source(tmp_path, turn=45)


def test_a_folder_gives_its_photos_by_name(tmp_path: Path):
    for name, shade in (("b.png", 1), ("a.png", 2), ("C.PNG", 3), ("notes.txt", 0)):
        Image.new("L", (20, 10), shade).save(tmp_path / name, "PNG")
    source = open_source(tmp_path)
    found = [(frame.index, frame.seconds, frame.name, int(frame.pixels[0, 0, 0])) for frame in source.frames]
    assert (source.kind, found) == ("folder", [(0, 0, "C.PNG", 3), (1, 1, "a.png", 2), (2, 2, "b.png", 1)])


def test_a_broken_photo_is_reported_and_passed_over(tmp_path: Path):
    Image.new("L", (20, 10)).save(tmp_path / "b.png")
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    told: list[str] = []
    assert [frame.index for frame in open_source(tmp_path, told.append).frames] == [1]
    assert told == [f"{tmp_path / 'a.jpg'}: not an image that can be read"]
    with pytest.raises(ImageError, match="not an image"):
        list(open_source(tmp_path).frames)


def test_images_from_elsewhere():
    frames = list(in_turn([np.zeros((4, 4, 3), np.uint8)] * 3))
    assert [(frame.index, frame.seconds) for frame in frames] == [(0, 0), (1, 1 / FPS), (2, 2 / FPS)]


def test_a_slow_reader_of_a_camera_gets_the_newest_frame():
    """The camera goes on while a frame is worked on; what it gave meanwhile is skipped but for the last."""
    allowed, given = threading.Semaphore(0), threading.Semaphore(0)
    numbers = iter(range(20))
    released: list[bool] = []

    def read() -> np.ndarray | None:
        given.release()  # asked for one more: the one before is where the reader finds it
        allowed.acquire()
        number = next(numbers, None)
        return None if number is None else np.full((2, 2, 3), number, np.uint8)

    def let(count: int) -> None:
        for _ in range(count):
            allowed.release()
            given.acquire()

    frames, _ = newest(read, lambda: released.append(True), threading.Event())
    allowed.release()
    seen = [next(frames)]  # starts the thread
    given.acquire()
    given.acquire()
    for count in (1, 5, 3, 10):
        let(count)
        seen.append(next(frames))
    assert [frame.index for frame in seen] == [0, 1, 6, 9, 19]
    assert [int(frame.pixels[0, 0, 0]) for frame in seen] == [0, 1, 6, 9, 19]
    assert [frame.seconds for frame in seen] == sorted(frame.seconds for frame in seen)
    assert not released
    allowed.release()
    assert list(frames) == []
    assert released == [True]


def test_a_camera_says_no_rate_and_gives_rgb(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("cv2")
    asked: list[object] = []

    class Camera:
        frames = 3

        def __init__(self, number: int) -> None:
            asked.append(number)

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def get(self, what: int) -> float:
            return 0.0

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.frames -= 1
            return (True, np.full((2, 2, 3), (1, 2, 3), np.uint8)) if self.frames >= 0 else (False, None)

        def release(self) -> None:
            asked.append("released")

    monkeypatch.setattr(opencv(), "VideoCapture", Camera)
    source = open_source(7, reconnect=False)
    assert (source.kind, source.fps) == ("camera", FPS)
    *_, last = source.frames
    assert (last.index, last.pixels[0, 0].tolist()) == (2, [3, 2, 1])
    assert asked == [7, "released"]


def test_a_camera_is_let_go_of_when_the_reader_has_enough():
    released = threading.Event()
    before = threading.active_count()
    frames, _ = newest(lambda: np.zeros((2, 2, 3), np.uint8), released.set, threading.Event())
    next(frames)
    frames.close()
    assert released.is_set()
    assert threading.active_count() == before


def test_a_camera_that_hangs_is_not_let_go_of_under_its_reader(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "_LET_GO", 0.1)
    hangs, goes_on, released = threading.Event(), threading.Event(), threading.Event()
    numbers = iter(range(2))

    def read() -> np.ndarray | None:
        if next(numbers, None) is None:
            hangs.set()
            goes_on.wait()
            return None
        return np.zeros((2, 2, 3), np.uint8)

    frames, _ = newest(read, released.set, threading.Event())
    next(frames)
    hangs.wait()
    frames.close()
    assert not released.is_set()
    goes_on.set()
    assert released.wait(30)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.mp4", "nowhere.mp4: no such file or folder"),
        ("void", "void: no photo in it"),
        ("text.mp4", "text.mp4: not a video that can be read"),
        ("empty.mp4", "empty.mp4: not a video that can be read"),
        ("cut.mp4", "cut.mp4: not a video that can be read"),
        (99, "camera 99: cannot be opened; is it there, and may you use it?"),
    ],
)
def test_what_is_no_source(
    source: int | str, message: str, video: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(video.parent)
    Path("void").mkdir()
    Path("text.mp4").write_text("no video")
    Path("empty.mp4").touch()
    whole = video.read_bytes()
    Path("cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        open_source(source)
    assert capfd.readouterr().err == ""


def test_without_opencv_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "a.mp4").touch()
    for source in (0, tmp_path / "a.mp4"):
        with pytest.raises(MissingExtraError, match=r"pip install 'edgeface\[camera\]'"):
            open_source(source)
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    assert len(list(open_source(tmp_path).frames)) == 1


def test_what_has_no_frame_is_no_video(tmp_path: Path):
    pytest.importorskip("cv2")
    text = tmp_path / "a.jpg"
    text.write_text("no picture")
    with pytest.raises(UsageError, match=r"a\.jpg: no frame in it that can be read"):
        list(open_source(text).frames)
