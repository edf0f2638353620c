"""Whose face is enrolled: of several in a photo, and of photos that disagree."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer, Gallery

Say = Callable[..., tuple[int, dict[str, Any], str]]


def test_a_wrong_photo_first_keeps_nobody_out(say: Say, att: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One photo of s8 among seven of s1, which comes first; and a folder with nothing but one more of s8."""
    monkeypatch.chdir(tmp_path)
    for folder, person, photos in (("s1", 1, range(2, 8)), ("s8", 8, range(2, 8)), ("a8", 8, (9,))):
        Path("family", folder).mkdir(parents=True)
        for number in photos:
            shutil.copy(att / f"s{person}" / f"{number}.pgm", Path("family", folder))
    shutil.copy(att / "s8" / "1.pgm", "family/s1/1.pgm")
    code, found, err = say("enroll", "family", "-g", "g")
    assert code == 1
    assert [(row["name"], row["photo"]) for row in found["refused"]] == [
        ("s1", "family/s1/1.pgm"),
        ("a8", "family/a8/9.pgm"),
    ]
    assert sorted(Counter(row["name"] for row in found["enrolled"]).items()) == [("s1", 6), ("s8", 6)]
    assert "not like the other photos of s1" in err
    assert "family/a8/9.pgm: not enrolled as a8: looks like s8" in err


@pytest.fixture
def group(att: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """s1 and s2 side by side, s2 larger."""
    monkeypatch.chdir(tmp_path)
    left, right = (Image.open(att / f"s{person}" / "1.pgm").convert("RGB") for person in (1, 2))
    photo = Image.new("RGB", (420, 260), "gray")
    photo.paste(left, (20, 70))
    photo.paste(right.resize((184, 224)), (200, 18))
    photo.save("group.png")
    return att


@pytest.mark.parametrize(("face", "person"), [("largest", 2), ("66,130", 1), ("290 130", 2), ("200,20,380,240", 2)])
def test_one_face_of_a_group_photo_is_enrolled(say: Say, group: Path, face: str, person: int):
    assert say("enroll", "group.png", "-n", "Ada", "-g", "g")[0] == 1
    code, found, err = say("enroll", "group.png", "-n", "Ada", "-g", "g", "--face", face)
    assert (code, err, len(found["enrolled"])) == (0, "", 1)
    for other in (1, 2):
        (who,) = say("identify", group / f"s{other}" / "1.pgm", "-g", "g")[1]["faces"]
        assert who["name"] == ("Ada" if other == person else None)


def test_a_face_that_identify_returned_is_enrolled(say: Say, group: Path):
    say("enroll", group / "s1" / "1.pgm", "-n", "s1", "-g", "g")
    unknown = [face for face in say("identify", "group.png", "-g", "g")[1]["faces"] if face["name"] is None]
    assert len(unknown) == 1
    say("enroll", "group.png", "-n", "s2", "-g", "g", "--face", " ".join(map(str, unknown[0]["box"])))
    names = {face["name"] for face in say("identify", "group.png", "-g", "g")[1]["faces"]}
    assert names == {"s1", "s2"}


def test_verify_says_which_of_several_faces_was_compared(say: Say, group: Path, capsys: pytest.CaptureFixture[str]):
    photo = group / "s1" / "1.pgm"
    code, found, err = say("verify", "group.png", photo)
    assert (code, found["same"], found["faces"]) == (1, False, [2, 1])
    box = " ".join(f"{side:.0f}" for side in found["boxes"][0])
    assert found["boxes"][0][0] > 190  # the larger one, on the right
    assert f"group.png: 2 faces; compared the largest central one, in the box {box}" in err
    assert len(err.splitlines()) == 1
    assert say("verify", photo, photo)[2] == ""


@pytest.mark.parametrize("more", [[], ["--face", "1,1"]])
def test_where_nobody_was_enrolled_no_gallery_is_left(say: Say, tmp_path: Path, more: list[str]):
    for name in ("a.png", "b.png"):
        Image.new("L", (99, 99)).save(tmp_path / name)
    code, _, err = say("enroll", tmp_path / "a.png", tmp_path / "b.png", "--name", "Ada", "-g", tmp_path / "new", *more)
    assert code == (2 if more else 1)
    assert ("new: not made, since nobody was enrolled" in err) == (code == 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_gallery_that_was_there_stays_though_nobody_is_in_it(say: Say, tmp_path: Path):
    Gallery(tmp_path / "g", FaceRecognizer()).close()
    Image.new("L", (99, 99)).save(tmp_path / "a.png")
    assert say("enroll", tmp_path / "a.png", "--name", "Ada", "-g", tmp_path / "g")[0] == 1
    assert (tmp_path / "g").exists()
    for line in (["identify", tmp_path / "a.png"], ["run", "--folder", tmp_path]):
        code, _, err = say(*line, "-g", tmp_path / "g")
        assert (code, "nobody is enrolled in the gallery" in err) == (0, True)
