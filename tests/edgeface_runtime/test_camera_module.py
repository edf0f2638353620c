"""The camera module, by a stand-in for picamera2, which is for a Raspberry Pi alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from edgeface_runtime import UsageError, open_source

pytest.importorskip("cv2")


class Picamera2:
    """Shapes, formats, methods and refusals of picamera2 0.3.31.

    RGB888 is B, G, R in memory; rows of YUV420 are padded. It sees red on the left and a dark blue on the right.
    """

    made: ClassVar[list[Picamera2]] = []
    frames_until_it_fails = 3

    def __init__(self, camera_num: int = 0) -> None:
        self.calls: list[str] = []
        self.made.append(self)

    def create_video_configuration(
        self,
        main: dict[str, Any] | None = None,
        lores: dict[str, Any] | None = None,
        raw: dict[str, Any] | None = None,
        buffer_count: int = 6,
        queue: bool = True,
    ) -> dict[str, Any]:
        return {"use_case": "video", "main": main, "lores": lores, "buffer_count": buffer_count, "queue": queue}

    def configure(self, camera_config: dict[str, Any]) -> None:
        for name in ("main", "lores"):
            stream = camera_config[name]
            if stream is not None:
                width, height = stream["size"]
                if width % 2 or height % 2:
                    raise RuntimeError("width and height should be even")
                per_pixel = {"RGB888": 3, "YUV420": 1}[stream["format"]]
                stream["stride"] = -(-width * per_pixel // 64) * 64
        self.config = camera_config

    def stream_configuration(self, name: str = "main") -> dict[str, Any]:
        return dict(self.config[name])

    def start(self, config: object = None, show_preview: bool = False) -> None:
        self.calls.append("start")

    def capture_arrays(self, names: Sequence[str] = ("main",), wait: object = None) -> tuple[list[np.ndarray], dict]:
        if type(self).frames_until_it_fails == 0:
            type(self).frames_until_it_fails = 3
            raise RuntimeError("Camera __init__ sequence did not complete.")
        type(self).frames_until_it_fails -= 1
        return [self.make_array(name) for name in names], {"SensorTimestamp": 1}

    def make_array(self, name: str) -> np.ndarray:
        (width, height), stride = self.config[name]["size"], self.config[name]["stride"]
        if name == "main":
            picture = np.empty((height, width, 3), np.uint8)
            picture[:, : width // 2], picture[:, width // 2 :] = (30, 20, 220), (90, 10, 10)
            return picture
        flat = np.full(height * 3 // 2 * stride, 77, np.uint8)
        # BT.601 in its limited range, of the two colors.
        for at, high, wide, (left, right) in (
            (0, height, stride, ((85, 30))),
            (height * stride, height // 2, stride // 2, ((100, 165))),
            (height * stride * 5 // 4, height // 2, stride // 2, ((220, 120))),
        ):
            plane = flat[at : at + high * wide].reshape(high, wide)
            middle = width * wide // stride // 2
            plane[:, :middle], plane[:, middle : 2 * middle] = left, right
        return flat.reshape(height * 3 // 2, stride)

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def module_camera(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    module = ModuleType("picamera2")
    module.Picamera2 = Picamera2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    Picamera2.made.clear()
    Picamera2.frames_until_it_fails = 3


@pytest.mark.parametrize(
    ("source", "size", "small"),
    [
        ("picamera2", (480, 640), None),
        ("picamera2:320x240", (240, 320), None),
        ("picamera2:1280x720", (720, 1280), (360, 640)),
        ("picamera2:1200x1600", (1600, 1200), (640, 480)),
        ("picamera2:1920x1076", (1076, 1920), (358, 640)),
    ],
)
def test_the_camera_module_is_opened_by_name(
    source: str, size: tuple[int, int], small: tuple[int, int] | None, module_camera: None
):
    told: list[str] = []
    opened = open_source(source, turn=90, state=told.append)
    assert (opened.kind, opened.name) == ("camera", source)
    frame = next(frame for frame in opened.frames if "back" in told)
    opened.frames.close()
    assert frame.pixels.shape == (size[1], size[0], 3)
    # Turned clockwise: what was left is above.
    assert frame.pixels[0, 0].tolist() == [220, 20, 30]
    assert frame.pixels[-1, -1].tolist() == [10, 10, 90]
    assert (frame.small is None) == (small is None)
    if small and frame.small is not None:
        assert frame.small.shape == (small[1], small[0], 3)
        for row in (0, small[1] // 2 - 2, small[1] // 2 + 1, small[1] - 1):
            wanted = (220, 20, 30) if row < small[1] // 2 else (10, 10, 90)
            np.testing.assert_allclose(frame.small[row, small[0] // 2], wanted, atol=8)
    assert len(Picamera2.made) >= 2
    assert all(camera.calls == ["start", "stop", "close"] for camera in Picamera2.made)
    assert Picamera2.made[0].config["queue"] is False


def test_a_size_that_the_camera_module_refuses_is_one_line(module_camera: None):
    with pytest.raises(UsageError, match=r"picamera2:641x480: the camera cannot be opened \(width and height"):
        open_source("picamera2:641x480")


def test_without_picamera2_it_says_where_it_comes_from():
    with pytest.raises(UsageError, match="sudo apt install python3-picamera2"):
        open_source("picamera2")
    with pytest.raises(UsageError, match="name picamera2, or picamera2:1280x720"):
        open_source("picamera2:big")
