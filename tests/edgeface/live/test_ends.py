"""How ``edgeface run`` ends: by signals, by what it cannot write or read, by those who listen and go away."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeface.cli import run
from edgeface_runtime import open_source

pytest.importorskip("cv2")


def test_what_a_kill_leaves_is_for_the_owner_alone_and_goes_with_the_next_run(live: Any, place: Path, att: Path):
    before = os.umask(0o022)
    try:
        with live.camera(live.scene(att / "s2" / "1.pgm")) as server:
            process = live.started("--camera", server.address, "--json-lines", "-o", "out.mp4", "--snapshots", "faces")
            live.until(process, "named")
            (part,) = place.glob(".out.*.mp4")
            assert part.stat().st_mode & 0o777 == 0o600
            process.kill()
            process.communicate()
            (place / "faces" / f".x.{process.pid}.edgeface.jpg").touch()
            assert not (place / "out.mp4").exists()
            process = live.started("--camera", server.address, "--json-lines", "-o", "out.mp4", "--snapshots", "faces")
            live.until(process, "named")
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
    live: Any, place: Path, att: Path, ends: int
):
    chance, watched = random.Random(ends), 0
    with live.camera(live.scene(att / "s2" / "1.pgm")) as server:
        for number in range(ends):
            name = f"{number}.mp4"
            process = live.started("--camera", server.address, "--json-lines", "-o", name, "--snapshots", "faces")
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


def test_a_reader_that_goes_away_leaves_the_video_whole(live: Any, place: Path, att: Path):
    with live.camera(live.scene(att / "s2" / "1.pgm")) as server:
        process = live.started("--camera", server.address, "--json-lines", "-o", "out.mp4")
        live.until(process, "named")
        assert process.stdout
        process.stdout.close()
        server.picture = live.scene(None)  # she leaves, which nobody hears
        assert process.wait(timeout=60) == 0
        assert process.stderr
        assert process.stderr.read() == "the reader of the output is gone: stopped\n"
        process.stderr.close()
    assert len(list(open_source(place / "out.mp4").frames)) > 5
    assert not list(place.glob(".*"))


def test_a_full_disk_is_one_line(live: Any, place: Path, att: Path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    live.video(place / "door.mp4", att / "s2" / "1.pgm")
    for words in (["--json-lines"], ["--json"], []):
        command = [sys.executable, "-m", "edgeface", "run", "--video", "door.mp4", "-g", "g", "-m", "net.onnx", *words]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == "edgeface: stdout: No space left on device"


def test_what_an_engine_says_is_one_line_and_leaves_nothing(
    live: Any, place: Path, att: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from edgeface_runtime import Model, ModelError

    def fails(*_: object, **__: object) -> None:
        raise ModelError("net.onnx: the engine failed")

    live.video(place / "door.mp4", att / "s2" / "1.pgm")
    monkeypatch.setattr(Model, "embed", fails)
    assert run(["run", "--video", "door.mp4", "-g", "g", "-m", "net.onnx", "-o", "out.mp4"]) == 2
    _, err = capsys.readouterr()
    assert err == "edgeface: net.onnx: the engine failed\n"
    assert not [path for path in place.iterdir() if "out" in path.name]
