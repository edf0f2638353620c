"""The times of frames: those that a video's file gives, and those that an app does."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import UsageError, in_turn, open_source
from edgeface_runtime.streams.captures import opencv

pytest.importorskip("cv2")
SYSTEM = "/usr/bin/python3"
CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}


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
    command = [SYSTEM, str(Path(__file__).with_name("sinking_video.py")), str(tmp_path / "phone.mp4")]
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
