"""The command as a process of its own: files that are none, and terminals that lack letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer, Gallery
from edgeface_runtime.testing import fake_photo, fake_recognizer


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
