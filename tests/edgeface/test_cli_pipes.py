"""What is no regular file: a pipe that nobody writes to would be waited for without an end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer, Gallery


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
