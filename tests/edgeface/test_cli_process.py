"""The command as a process of its own: files that are none, terminals that lack letters, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer, Gallery
from edgeface_runtime.testing import fake_photo, fake_recognizer

if TYPE_CHECKING:
    from conftest import Trained

EDGEFACE = [sys.executable, "-m", "edgeface"]


@pytest.mark.parametrize(
    "line",
    [
        "identify pipe.jpg -g g -m net.onnx --threshold 0.5",
        "identify pipe.jpg grey.png -g g -m net.onnx --threshold 0.5 --csv",
        "identify grey.png -g g -m pipe.onnx",
        "enroll grey.png -n Ada -g pipe.gallery -m net.onnx",
        "enroll pipe.jpg -n Ada -g g -m net.onnx",
        "verify pipe.jpg grey.png -m net.onnx --threshold 0.5",
        "inspect pipe.onnx",
        "gallery import new pipe.json",
        "gallery list pipe.gallery",
    ],
)
def test_a_pipe_is_refused_at_once(tmp_path: Path, tiny_onnx: Path, line: str):
    (tmp_path / "net.onnx").symlink_to(tiny_onnx)
    Gallery(tmp_path / "g", FaceRecognizer(tiny_onnx)).close()
    Image.new("L", (99, 99)).save(tmp_path / "grey.png")
    for suffix in ("jpg", "onnx", "gallery", "json"):
        os.mkfifo(tmp_path / f"pipe.{suffix}")
    command = [sys.executable, "-m", "edgeface", *line.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert any(word in done.stdout + done.stderr for word in ("a pipe, a device or a socket", "not a gallery"))
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("encoding", "name"), [("ascii", r"Zo\u00eb"), ("latin-1", "Zoë"), ("cp1251", r"Zo\u00eb")])
def test_what_a_terminal_lacks_is_escaped(tmp_path: Path, encoding: str, name: str):
    fake = fake_recognizer()
    with Gallery(tmp_path / "g", fake) as gallery:
        gallery.enroll("Zoë", fake_photo(1))
        gallery.enroll("Łukasz", fake_photo(2))

    def say(*words: str) -> bytes:
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        command = [sys.executable, "-m", "edgeface", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True
        ).stdout

    table = say("gallery", "list", "g").decode(encoding)
    assert name in table
    assert r"\u0141ukasz" in table
    # What says of itself that it is ASCII gets UTF-8 from typer.
    document = json.loads(say("gallery", "list", "g", "--json").decode("utf-8" if encoding == "ascii" else encoding))
    assert {photo["name"] for photo in document["photos"]} == {"Zoë", "Łukasz"}


def test_debug_shows_the_traceback(tmp_path: Path):
    environment = os.environ | {"EDGEFACE_DEBUG": "1"}
    command = [*EDGEFACE, "inspect", "none.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode not in (0, 2)
    assert "Traceback" in done.stderr
    assert "ModelError: none.onnx: no such file" in done.stderr


def test_a_reader_that_went_away_is_no_error(tmp_path: Path):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([*EDGEFACE, "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    line = f"{' '.join(EDGEFACE)} train --help | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: edgeface train")


def test_ctrl_c_exits_130(trained: Trained, tmp_path: Path):
    line = [
        *EDGEFACE,
        "train",
        str(trained.photos),
        "-o",
        str(tmp_path / "run"),
        "--epochs",
        "500",
        "--set",
        "batch_size=16",
    ]
    child = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(12_000):
            if (tmp_path / "run" / "last.safetensors").exists() or child.poll() is not None:
                break
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=600)
    finally:
        child.kill()
    assert (child.returncode, out) == (130, "")
    assert "Traceback" not in err
    go_on = f"go on with: edgeface train --resume -o {tmp_path / 'run'}"
    assert err.splitlines()[-2:] == [f"stopped; the epochs that are done are kept, {go_on}", "interrupted"]


@pytest.mark.parametrize(
    ("number", "code", "line"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "edgeface: ended by SIGTERM")]
)
@pytest.mark.parametrize("inside", ["exec(WORDS)", "signal.raise_signal(signal.{number})"])
def test_a_signal_is_one_line_and_an_exit_code(inside: str, number: str, code: int, line: str, tmp_path: Path):
    """Also where it comes while a text is executed, as dataclasses do: Python would end ``-m`` by the signal then."""
    module = f"""
import signal
import edgeface.cli.models

WORDS = "signal.raise_signal(signal.{number})"

def models():
    {inside.format(number=number)}

edgeface.cli.models.models = models
edgeface.cli.main()
"""
    (tmp_path / "stopped.py").write_text(module)
    done = subprocess.run(
        [sys.executable, "-m", "stopped", "models"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{line}\n")
