"""Cameras in the network that drop and come back, the camera module, and the times that a video's file gives."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import UsageError, in_turn, open_source
from edgeface_runtime.streams import sources
from edgeface_runtime.streams.captures import is_camera, opencv, without_secrets

pytest.importorskip("cv2")
SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM = "/usr/bin/python3"
CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_FIRST_WAIT", 0.05)
    monkeypatch.setattr(sources, "_LONGEST_WAIT", 0.2)


class Mjpeg(ThreadingHTTPServer):
    """A camera that gives a JPEG file after the other; ``drop`` ends all its connections."""

    daemon_threads = True
    allow_reuse_address = True
    shade = 10
    drops = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """The reader went away."""


class Handler(BaseHTTPRequestHandler):
    server: Mjpeg

    def do_GET(self) -> None:
        drops = self.server.drops
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        while drops == self.server.drops:
            out = io.BytesIO()
            Image.new("RGB", (64, 48), (self.server.shade, 0, 0)).save(out, "JPEG", quality=95)
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % out.tell())
            self.wfile.write(out.getvalue() + b"\r\n")
            time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def mjpeg(port: int = 0) -> Iterator[Mjpeg]:
    server = Mjpeg(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.drops += 1
        server.shutdown()
        server.server_close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_mjpeg_camera_gives_its_newest_frame():
    with mjpeg() as server:
        url = f"http://ada:secret@127.0.0.1:{server.server_port}/video?key=secret"
        source = open_source(url)
        assert (source.kind, source.name) == ("camera", f"http://127.0.0.1:{server.server_port}/video")
        first = next(source.frames)
        assert first.pixels.shape == (48, 64, 3)
        server.shade = 200
        late = next(frame for frame in source.frames if frame.pixels[0, 0, 0] > 150)
        assert late.pixels[..., 1].max() < 30  # red comes first
        assert late.seconds > first.seconds
        source.frames.close()


def test_a_camera_that_drops_fifty_times_comes_back_each_time(quick: None):
    told: list[str] = []
    with mjpeg() as server:
        source = open_source(f"http://127.0.0.1:{server.server_port}/", state=told.append)
        held: list[tuple[int, int, int]] = []
        for drop in range(1, 51):
            server.shade = 4 * drop
            server.drops += 1
            dark, light = 4 * drop - 3, 4 * drop + 3
            next(f for f in source.frames if dark <= f.pixels[0, 0, 0] <= light and len(told) >= 2 * drop)
            held.append((threading.active_count(), descriptors(), resident()))
        source.frames.close()
    assert [word for word in told if word != "waiting"] == ["lost", "back"] * 50
    (_, files, memory), (_, last_files, last_memory) = held[9], held[-1]
    assert last_files <= files + 3
    assert last_memory - memory < 10_000_000


def test_frames_end_at_once_where_a_camera_is_not_to_be_opened_again():
    with mjpeg() as server:
        source = open_source(f"http://127.0.0.1:{server.server_port}/", reconnect=False)
        next(source.frames)
        server.drops += 1
        assert len(list(source.frames)) < 1000


def test_a_reader_can_be_told_to_stop_while_the_camera_is_away(quick: None):
    with mjpeg() as server:
        source = open_source(f"http://127.0.0.1:{server.server_port}/")
        next(source.frames)
    threading.Timer(0.5, source.stop).start()
    assert len(list(source.frames)) < 1000


@pytest.fixture
def rtsp() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    done = subprocess.run([SYSTEM, "-c", compile_check()], capture_output=True) if Path(SYSTEM).exists() else None
    if done is None or done.returncode:
        pytest.skip("no RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{good,ugly}")
    port = free_port()
    process = serve(port)
    try:
        yield port, process
    finally:
        end(process)


def compile_check() -> str:
    return (
        "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst; Gst.init(None);"
        "assert all(Gst.ElementFactory.find(e) for e in ('x264enc', 'rtph264pay', 'videotestsrc', 'rtpbin'))"
    )


def serve(port: int) -> subprocess.Popen[str]:
    command = [SYSTEM, str(SERVER), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def test_an_rtsp_camera_is_watched_dies_and_comes_back(
    rtsp: tuple[int, subprocess.Popen[str]], quick: None, capfd: pytest.CaptureFixture[str]
):
    port, process = rtsp
    told: list[str] = []
    source = open_source(f"rtsp://ada:secret@127.0.0.1:{port}/door", state=told.append)
    assert (source.kind, source.name, source.fps) == ("camera", f"rtsp://127.0.0.1:{port}/door", 10)
    frames = list(itertools.islice(source.frames, 3))
    assert frames[0].pixels.shape == (120, 160, 3)
    assert frames[0].pixels.mean() > 200
    end(process)
    second: list[subprocess.Popen[str]] = []
    back = threading.Timer(1.0, lambda: second.append(serve(port)))
    back.start()
    try:
        next(frame for frame in source.frames if "back" in told)
        assert [word for word in told if word != "waiting"] == ["lost", "back"]
        source.frames.close()
    finally:
        back.join()
        for process in second:
            end(process)
    assert "secret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://ada:se@cret@door.local:554/live", "rtsp://door.local:554/live"),
        ("HTTP://door.local/video?user=ada&password=secret", "HTTP://door.local/video"),
        ("https://ada@door.local#secret", "https://door.local"),
        ("rtsp://door.local/ch/1", "rtsp://door.local/ch/1"),
        (0, "0"),
        ("/dev/video0", "/dev/video0"),
        ("door?.mp4", "door?.mp4"),
    ],
)
def test_what_is_shown_of_an_address_has_no_login(source: int | str, shown: str):
    assert without_secrets(source) == shown
    assert is_camera(source) == (source != "door?.mp4")


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_no_stream_is_said_in_one_line_without_the_login(scheme: str, capfd: pytest.CaptureFixture[str]):
    port = free_port()
    with pytest.raises(UsageError) as caught:
        open_source(f"{scheme}://ada:secret@127.0.0.1:{port}/door")
    expected = f"{scheme}://127.0.0.1:{port}/door: no stream there; is the camera on, and the login right?"
    assert str(caught.value) == expected
    assert capfd.readouterr() == ("", "")


def test_a_device_that_is_not_there():
    with pytest.raises(UsageError, match="camera /dev/video99: cannot be opened"):
        open_source("/dev/video99")


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind, data[at + 8 : at + size]
        at += size


def retimed(data: bytes, steps: list[int]) -> bytes:
    """An MP4 file (ISO/IEC 14496-12) whose frame i lasts ``steps[i]`` units."""
    out = b""
    for kind, body in boxes(data):
        if kind in CONTAINERS:
            body = retimed(body, steps)
        elif kind == b"stts":
            body = body[:4] + struct.pack(">I", len(steps)) + b"".join(struct.pack(">II", 1, step) for step in steps)
        elif kind == b"edts":
            kind = b"free"
        out += struct.pack(">I4s", len(body) + 8, kind) + body
    return out


def test_a_video_whose_frame_rate_sinks_keeps_its_times(tmp_path: Path):
    """As a phone's in the dark: from 30 to 10 frames a second."""
    cv2, count = opencv(), 120
    writer = cv2.VideoWriter(str(tmp_path / "even.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (96, 64))
    for shade in range(count):
        writer.write(np.full((64, 96, 3), shade, np.uint8))
    writer.release()
    data = (tmp_path / "even.mp4").read_bytes()
    (units,) = struct.unpack(">I", data[data.index(b"mdhd") + 16 :][:4])
    steps = [round(units / (30 - 20 * i / count)) for i in range(count)]
    (tmp_path / "sinking.mp4").write_bytes(retimed(data, steps))
    frames = list(open_source(tmp_path / "sinking.mp4").frames)
    expected = np.cumsum([0, *steps[:-1]]) / units
    assert expected[-1] > 6
    np.testing.assert_allclose([frame.seconds for frame in frames], expected, atol=0.001)


def test_so_does_one_whose_frames_are_stored_out_of_order(tmp_path: Path):
    needs = "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst; Gst.init(None);"
    needs += "assert all(Gst.ElementFactory.find(e) for e in ('x264enc', 'h264parse', 'mp4mux'))"
    if not Path(SYSTEM).exists() or subprocess.run([SYSTEM, "-c", needs], capture_output=True).returncode:
        pytest.skip("no encoder: apt-get install python3-gi gstreamer1.0-plugins-{base,good,bad,ugly}")
    command = [SYSTEM, str(SERVER.with_name("sinking_video.py")), str(tmp_path / "phone.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = [float(line) for line in done.stdout.split()]
    frames = list(open_source(tmp_path / "phone.mp4").frames)
    assert len(frames) > 100
    shades = [frame.pixels[20, 20].mean() for frame in frames]
    assert np.all(np.diff(shades) >= 0)
    np.testing.assert_allclose([f.seconds for f in frames], expected[: len(frames)], atol=0.05)


def test_frames_from_elsewhere_have_the_times_that_are_given():
    images = [np.zeros((4, 4, 3), np.uint8)] * 4
    assert [frame.seconds for frame in in_turn(images, times=[7, 7.5, 9, 9.25])] == [0, 0.5, 2, 2.25]
    ticks = iter([3.0, 4.0, 6.0, 10.0])
    assert [frame.seconds for frame in in_turn(images, times=lambda: next(ticks))] == [0, 1, 3, 7]
    with pytest.raises(UsageError, match="times is 5"):
        in_turn(images, times=5)  # type: ignore[arg-type]


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
