"""Cameras in the network that drop and come back."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from edgeface_runtime import UsageError, open_source
from edgeface_runtime.streams.captures import is_camera, without_secrets

pytest.importorskip("cv2")
SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM = "/usr/bin/python3"


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


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
