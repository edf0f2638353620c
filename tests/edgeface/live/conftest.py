"""Cameras that are real servers, a model and a gallery, and ``edgeface run`` as a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer, Gallery

THRESHOLDS = {"0.01": {"value": 0.995, "high": 0.996}, "0.001": {"value": 0.998, "high": 0.999}}


@pytest.fixture
def place(tmp_path: Path, make_onnx: Callable[..., Path], att: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and a gallery of s1 and s2, in the current folder."""
    monkeypatch.chdir(tmp_path)
    make_onnx(tmp_path / "net.onnx", thresholds=THRESHOLDS)
    with Gallery.open("g", FaceRecognizer("net.onnx")) as gallery:
        for person in (1, 2):
            gallery.enroll(f"s{person}", scene(att / f"s{person}" / "1.pgm"))
    return tmp_path


def scene(face: Path | None) -> bytes:
    image = Image.new("RGB", (320, 240), (128, 128, 128))
    if face:
        image.paste(Image.open(face).convert("RGB"), (100, 60))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()


class Camera(ThreadingHTTPServer):
    """Gives MJPEG at 20 frames a second: ``picture``, until it is told to drop its readers."""

    daemon_threads = True
    allow_reuse_address = True
    picture = b""
    is_off = False
    posted: list[tuple[str, Any]]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/live"

    def handle_error(self, *_: object) -> None:
        """The reader went away."""


class Handler(BaseHTTPRequestHandler):
    server: Camera

    def do_GET(self) -> None:
        if self.server.is_off:
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        while not self.server.is_off:
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
            self.wfile.write(head % len(self.server.picture) + self.server.picture + b"\r\n")
            time.sleep(0.05)

    def do_POST(self) -> None:
        self.server.posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self.send_response(204 if len(self.server.posted) > 1 else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def camera(picture: bytes = b"") -> Iterator[Camera]:
    server = Camera(("127.0.0.1", 0), Handler)
    server.picture, server.posted = picture, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.is_off = True
        server.shutdown()
        server.server_close()


def started(*words: object, **options: Any) -> subprocess.Popen[str]:
    code = "from edgeface.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "-g", "g", "-m", "net.onnx", "--threshold", "0.997", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def until(process: subprocess.Popen[str], kind: str) -> list[dict[str, Any]]:
    """The events up to one of a kind, as they come; a process that tells none for a minute or two is ended."""
    assert process.stdout
    found: list[dict[str, Any]] = []
    timer = threading.Timer(120, process.kill)
    timer.start()
    try:
        while not found or found[-1]["kind"] != kind:
            text = process.stdout.readline()
            assert text, process.communicate()[1]
            found.append(json.loads(text))
    finally:
        timer.cancel()
    return found


def video(path: Path, face: Path) -> None:
    from edgeface_runtime.streams.captures import opencv

    cv2 = opencv()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (320, 240))
    for number in range(36):
        with Image.open(io.BytesIO(scene(face if 3 <= number < 18 else None))) as picture:
            writer.write(np.ascontiguousarray(np.asarray(picture)[..., ::-1]))
    writer.release()


@pytest.fixture
def live() -> Iterator[types.SimpleNamespace]:
    """The functions above; what was started and still runs is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: object, **options: Any) -> subprocess.Popen[str]:
        processes.append(started(*words, **options))
        return processes[-1]

    yield types.SimpleNamespace(camera=camera, scene=scene, started=start, until=until, video=video)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()
