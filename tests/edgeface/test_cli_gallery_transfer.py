"""``edgeface gallery`` merge, import, backup and move, on the AT&T faces and the bundled models."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface.cli import run
from edgeface_runtime import FaceRecognizer, Gallery
from edgeface_runtime.model import shipped

NEW = "mobilefacenet-tiny"
Say = Callable[..., tuple[int, dict[str, Any], str]]
pytestmark = pytest.mark.skipif(not shipped(), reason="needs the bundled models")


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, att: Path, say: Say) -> Path:
    """Three people with three photos each, enrolled in ``g``; of s3's last photo the face at the right was taken."""
    folder = tmp_path / "family"
    for person in (1, 2, 3):
        (folder / f"s{person}").mkdir(parents=True)
        for take in (1, 2, 3):
            shutil.copy(att / f"s{person}" / f"{take}.pgm", folder / f"s{person}")
    two = [np.asarray(Image.open(att / name)) for name in ("s9/1.pgm", "s3/5.pgm")]
    Image.fromarray(np.concatenate(two, axis=1)).save(folder / "s3" / "two.png")
    monkeypatch.chdir(tmp_path)
    for person in (1, 2, 3):
        plain = [folder / f"s{person}" / f"{take}.pgm" for take in (1, 2, 3)]
        assert say("enroll", *plain, "-n", f"s{person}", "-g", "g")[0] == 0
    assert say("enroll", folder / "s3" / "two.png", "-n", "s3", "-g", "g", "--face", "138,60")[0] == 0
    return folder


def photos(path: str) -> list[tuple[str, str]]:
    with Gallery.open(path) as gallery:
        return [(photo.name, photo.source) for photo in gallery.photos()]


def test_an_older_gallery_which_holds_faces_without_mirror_images_is_moved(say: Say, family: Path):
    recognizer = FaceRecognizer()
    with Gallery.open("g") as gallery:
        listed = list(zip(*gallery.contents(), strict=True))
    with sqlite3.connect("g") as db:
        for photo, kept in listed:
            rows = recognizer.embed(family / photo.name / photo.source)
            alone = rows[(rows @ kept).argmax()]
            assert 0.9 < alone @ kept < 0.9999
            db.execute("UPDATE photo SET embedding = ? WHERE id = ?", (alone.astype("<f4").tobytes(), photo.id))
    code, found, _ = say("gallery", "move", "g", "family", "-o", "new", "-m", NEW)
    assert (code, [row["moved"] for row in found["people"]]) == (0, [3, 3, 4])


def test_a_gallery_is_moved_to_another_model(say: Say, family: Path, att: Path):
    before = Path("g").read_bytes()
    code, found, err = say("gallery", "move", "g", "family", "-o", "new", "-m", NEW)
    assert (code, err) == (0, "")
    assert found == {
        "schema": 1,
        "gallery": "new",
        "people": [{"name": f"s{n}", "moved": count, "photos": count} for n, count in ((1, 3), (2, 3), (3, 4))],
        "refused": [],
    }
    assert sorted(photos("new")) == sorted(photos("g"))
    assert Path("g").read_bytes() == before
    recognizer = FaceRecognizer(NEW)
    with Gallery.open("new", recognizer) as gallery:
        # The face that was enrolled of the photo of two, not the other one.
        right = np.asarray(Image.open(att / "s3" / "5.pgm"))
        (found,) = gallery.search(recognizer.embed(right, recognizer.faces(right)[:1]))
        assert (found[0].name, found[0].score > 0.8) == ("s3", True)


def test_who_has_no_photo_is_named_and_stays_in_the_old_file(say: Say, family: Path, att: Path):
    shutil.rmtree(family / "s1")
    (family / "s2" / "2.pgm").unlink()
    shutil.copy(att / "s9" / "2.pgm", family / "s2" / "3.pgm")  # another photo under the name of an enrolled one
    shutil.copy(att / "s9" / "3.pgm", family / "s2" / "9.pgm")  # never enrolled
    code, found, err = say("gallery", "move", "g", "family", "-o", "new", "-m", NEW)
    assert code == 1
    assert [(row["name"], row["moved"], row["photos"]) for row in found["people"]] == [
        ("s1", 0, 3),
        ("s2", 1, 3),
        ("s3", 4, 4),
    ]
    assert err.splitlines()[1:] == [
        "s1: 3 of 3 photos not moved, which g still has",
        "s2: 2 of 3 photos not moved, which g still has",
    ]
    assert "family/s2/3.pgm: not the photo that was enrolled (score " in err.splitlines()[0]
    assert len(photos("g")) == 10
    assert len(photos("new")) == 5


def test_small_faces_are_found_again_where_they_are_looked_for(say: Say, att: Path, tmp_path: Path):
    """A face of 20 pixels, which was enrolled with ``--min-face``, for the commands that look at its photo again."""
    shapes = np.random.default_rng(7).integers(60, 200, (6, 8, 3)).astype(np.uint8)
    photo = Image.fromarray(shapes).resize((1280, 960), Image.Resampling.BICUBIC)
    photo.paste(Image.open(att / "s1" / "1.pgm").convert("RGB").resize((20, 24), Image.Resampling.LANCZOS), (600, 500))
    folder, g = tmp_path / "far", tmp_path / "g"
    (folder / "Ann").mkdir(parents=True)
    photo.save(folder / "Ann" / "far.png")
    small = ("--min-face", 16)
    assert say("enroll", folder, "-g", g, "--force", *small)[0] == 0
    move = ("gallery", "move", g, folder, "-m", NEW, "-o")
    code, found, err = say(*move, tmp_path / "new")
    assert (code, found["people"]) == (1, [{"name": "Ann", "moved": 0, "photos": 1}])
    assert "far.png: no face found" in err
    assert say(*move, tmp_path / "new2", *small)[0] == 0
    check = ("gallery", "check", g, "--photos", folder)
    assert [bool(say(*check, *more)[2]) for more in ((), small)] == [True, False]
    group = ("group", folder, "-o", tmp_path / "groups")
    assert [say(*group, *more)[1].get("faces") for more in ((), (*small, "--forget"))] == [0, 1]
    code, _, err = say(*group)
    assert code == 2
    assert "made with mobilefacenet int8 and yunet --min-face 16" in err


def test_a_gallery_of_a_model_of_ones_own_is_moved_by_the_rules_of_enrollment(
    say: Say, family: Path, make_onnx: Callable[..., Path]
):
    make_onnx(Path("net.onnx"))
    assert say("enroll", "family", "-g", "own", "-m", "net.onnx", "--face", "largest", "--force")[0] == 0
    code, found, err = say("gallery", "move", "own", "family", "-o", "new", "-m", NEW)
    assert (code, [row["moved"] for row in found["people"]]) == (1, [3, 3, 3])
    assert "two.png: not enrolled as s3: 2 faces" in err
    code, found, _ = say("gallery", "move", "own", "family", "-o", "new2", "-m", NEW, "--from", "net.onnx", "--int8")
    assert (code, [row["moved"] for row in found["people"]]) == (0, [3, 3, 4])


def test_merge_and_import_and_backup_on_the_command_line(
    say: Say, family: Path, att: Path, capsys: pytest.CaptureFixture[str]
):
    assert say("gallery", "backup", "g", "copy")[:2] == (0, {"schema": 1, "path": "copy", "photos": 10})
    say("gallery", "rename", "copy", "s1", "Ada")  # one person under two names
    say("enroll", att / "s4" / "1.pgm", "-n", "s4", "-g", "copy")
    code, found, err = say("gallery", "merge", "g", "copy")
    assert (code, found["schema"], found["gallery"]) == (1, 1, "g")
    (merged,) = found["merged"]
    assert (merged["source"], merged["added"], merged["already_there"]) == ("copy", 1, 7)
    assert [refusal["name"] for refusal in merged["refused"]] == ["Ada"]
    assert err == "copy: Ada is left out: looks like s1 (score 1.00); rename one of them, or force (--force)\n"

    assert say("gallery", "export", "g", "g.csv")[0] == 0
    code, found, err = say("gallery", "import", "new", "g.csv", "-m", "mobilefacenet", "--int8")
    assert (code, found["merged"][0]["added"], err) == (0, 11, "")
    code, found, _ = say("gallery", "import", "new", "copy", "--force")
    assert (code, found["merged"][0]["added"]) == (0, 3)
    with Gallery.open("new") as gallery:
        assert gallery.precision == "int8"
    assert len(photos("new")) == 14
    assert run(["gallery", "merge", "new", "g"]) == 0
    assert run(["gallery", "backup", "new", "new2"]) == 0
    out = capsys.readouterr().out
    assert "already there" in out
    assert out.endswith("new2\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("merge g nowhere", "nowhere: no such gallery"),
        ("merge g family/s1/1.pgm", "1.pgm: not a gallery"),
        ("merge g other", "their embeddings cannot be compared: enroll the photos again (edgeface gallery move)"),
        ("import g family/s1/1.pgm", "1.pgm: not a gallery"),
        ("import new g.csv", "does not say which model made its embeddings: name it (model=, --model)"),
        ("import new g.csv -m mobilefacenet-tiny", "has 128"),
        ("import g g.csv -m mobilefacenet-tiny", "made with mobilefacenet int8"),
        ("import g g --int8", "g: stores float32 embeddings, not int8"),
        ("backup g other", "other: is there already; name another file"),
        ("backup g void/new", "void/new: Not a directory"),
        ("move g family -o other -m mobilefacenet-tiny", "other: is there already; name another file"),
        ("move g other-photos -o new -m mobilefacenet-tiny", "g: none of its photos is there"),
        ("move g family -o new -m mobilefacenet-tiny --from mobilefacenet-tiny", "g: made with mobilefacenet int8"),
        ("move g family -o new", "Missing option '--model'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    family: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
):
    Gallery.open("other", FaceRecognizer(NEW)).close()
    Path("void").touch()
    shutil.copytree(family / "s1", "other-photos/s7")
    Path("g.csv").write_text("name,e0,e1\nAda,0.6,0.8\n")
    capsys.readouterr()
    before = sorted(Path().rglob("*"))
    contents = [Path(name).read_bytes() for name in ("g", "other")]
    assert run(["gallery", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(Path().rglob("*")) == before
    assert [Path(name).read_bytes() for name in ("g", "other")] == contents


def test_a_kill_while_a_gallery_is_moved_leaves_the_old_one_alone(say: Say, family: Path):
    before = Path("g").read_bytes()
    command = [sys.executable, "-m", "edgeface", "gallery", "move", "g", "family", "-o", "new", "-m", NEW]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(Path().glob(".new.*")):
        time.sleep(0.001)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(Path().glob(".new.*"))
    assert not Path("new").exists()
    assert Path("g").read_bytes() == before
    assert say("gallery", "move", "g", "family", "-o", "new", "-m", NEW)[0] == 0
    assert not list(Path().glob(".new.*"))
