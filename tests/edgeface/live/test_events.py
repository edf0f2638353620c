"""What leaves ``edgeface run`` while it runs, from cameras that are real servers."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface.cli import run
from edgeface_runtime import open_source

pytest.importorskip("cv2")
KEYS = {
    "kind", "time", "camera", "track", "name", "score", "threshold", "frame", "seconds", "box", "landmarks", "quality",
    "snapshot",
}  # fmt: skip


def test_a_camera_s_events_come_as_they_happen_and_sigterm_ends_it_well(live: Any, place: Path, att: Path):
    with (
        live.camera(live.scene(att / "s2" / "1.pgm")) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind("notify")
        url = server.address.replace("//", "//ada:secret@") + "?key=secret"
        environment = {**os.environ, "NOTIFY_SOCKET": str(place / "notify")}
        process = live.started(
            "--camera", url, "--json-lines", "-o", "out.mp4", "--snapshots", "faces", env=environment
        )
        try:
            appeared, named = live.until(process, "named")
            assert all(set(row) == KEYS for row in (appeared, named))
            assert {row["camera"] for row in (appeared, named)} == {server.address}
            assert (appeared["name"], named["name"], named["threshold"]) == (None, "s2", 0.997)
            assert named["track"] == appeared["track"] == 1
            assert named["score"] > 0.9
            assert np.allclose(named["box"], [100, 60, 192, 172], atol=30)
            assert np.array(named["landmarks"]).shape == (5, 2)
            assert set(named["quality"]) == {"sharpness", "size", "yaw", "pitch"}
            assert named["time"] > "2026"
            with Image.open(named["snapshot"]) as best:
                assert best.size[0] > 80
            server.picture = live.scene(None)
            (left,) = live.until(process, "left")
            assert (left["name"], left["snapshot"]) == ("s2", named["snapshot"])
            server.is_off = True
            (lost,) = live.until(process, "lost")
            assert (lost["camera"], lost["track"]) == (server.address, None)
            server.is_off = False
            assert live.until(process, "back")[0]["camera"] == server.address
            server.picture = live.scene(att / "s9" / "1.pgm")
            assert [row["name"] for row in live.until(process, "unknown")][-1] is None
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


def test_who_is_there_has_left_where_the_camera_is_lost_for_good_and_where_the_run_ends(
    live: Any, place: Path, att: Path
):
    with live.camera(live.scene(att / "s2" / "1.pgm")) as server:
        process = live.started("--camera", server.address, "--json-lines", "--snapshots", "faces", "--patience", "0.6")
        rows = live.until(process, "named")
        server.is_off = True
        lost, left = live.until(process, "left")
        assert lost["kind"] == "lost"
        there, same = rows[-1], ("track", "name", "snapshot", "score")
        assert [left[key] for key in same] == [there[key] for key in same]
        assert left["name"] == "s2"
        since = [datetime.fromisoformat(row["time"]) for row in (lost, left)]
        assert 0.6 <= (since[1] - since[0]).total_seconds() < 3
        server.is_off = False
        rows = live.until(process, "named")
        # Told once: the visit that was ended does not end again, and she who is there again is another visit.
        track = there["track"] + 1
        assert [(row["kind"], row["track"]) for row in rows] == [("back", None), ("appeared", track), ("named", track)]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        rest = [json.loads(text) for text in out.splitlines()]
        assert [(row["kind"], row["track"], row["name"]) for row in rest] == [("left", track, "s2")]
    live.video(place / "door.mp4", att / "s2" / "1.pgm")
    process = live.started("--video", "door.mp4", "--seconds", "1.5", "--json-lines", "--threshold", "0.9")
    out, err = process.communicate(timeout=60)
    rows = [json.loads(text) for text in out.splitlines()]
    assert [(row["kind"], row["name"]) for row in rows] == [("appeared", None), ("named", "s2"), ("left", "s2")]
    assert rows[-1]["seconds"] == pytest.approx(1.4)


def test_a_camera_that_is_lost_for_a_moment_costs_no_visit(live: Any, place: Path, att: Path):
    with live.camera(live.scene(att / "s2" / "1.pgm")) as server:
        process = live.started("--camera", server.address, "--json-lines", "--patience", "20")
        track = live.until(process, "named")[-1]["track"]
        server.is_off = True
        live.until(process, "lost")
        server.is_off = False
        live.until(process, "back")
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert [(row["kind"], row["track"]) for row in map(json.loads, out.splitlines())] == [("left", track)]


def first_visits(rows: list[dict[str, Any]]) -> dict[str, int]:
    """The number of each camera's first visit."""
    return {row["camera"]: row["track"] for row in reversed(rows) if row["kind"] == "appeared"}


def named(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Who was named by which camera."""
    return {(row["camera"], row["name"]) for row in rows if row["kind"] == "named"}


def test_two_cameras_at_once_and_the_events_say_which(live: Any, place: Path, att: Path):
    with live.camera(live.scene(att / "s1" / "1.pgm")) as one, live.camera(live.scene(att / "s2" / "1.pgm")) as two:
        (place / "second").write_text(two.address + "\n")
        process = live.started("--camera", one.address, "--camera", "@second", "--json-lines")
        rows: list[dict[str, Any]] = []
        while len(named(rows)) < 2:
            rows += live.until(process, "named")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert first_visits(rows) == {one.address: 1, two.address: 1}
        assert named(rows) == {(one.address, "s1"), (two.address, "s2")}
        # Two channels of one recorder differ in what is not shown.
        channels = [f"{one.address}?channel={number}" for number in (1, 2)]
        process = live.started("--camera", channels[0], "--camera", channels[1], "--json-lines")
        rows = []
        while len(named(rows)) < 2:
            rows += live.until(process, "named")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert first_visits(rows) == {one.address: 1, f"{one.address} (2)": 1}
        assert named(rows) == {(one.address, "s1"), (f"{one.address} (2)", "s1")}
        process = live.started("--camera", one.address, "--camera", two.address, "-o", "both.mp4")
        assert process.communicate(timeout=60)[1].startswith("edgeface: --output and --show draw one camera")


def test_a_command_and_a_web_hook_get_every_event(
    live: Any, place: Path, att: Path, capsys: pytest.CaptureFixture[str]
):
    script = place / "told.sh"
    script.write_text(
        '#!/bin/sh\necho "$EDGEFACE_KIND $EDGEFACE_NAME" >> said\ncat >> lines\n[ $EDGEFACE_KIND != left ]\n'
    )
    script.chmod(0o755)
    live.video(place / "door.mp4", att / "s2" / "1.pgm")
    with live.camera() as server:
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
