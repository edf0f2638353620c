from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from edgeface.cli import run
from edgeface.photo_folders import NamedPhotos, named_photos
from edgeface_runtime import FaceRecognizer, Gallery, UsageError
from edgeface_runtime.thresholds import threshold_for

THRESHOLDS = {"0.01": {"value": 0.995, "high": 0.996}, "0.001": {"value": 0.998, "high": 0.999}}
Say = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_onnx: Callable[..., Path], att: Path) -> Path:
    """A model, a family of three, a photo of two and one of nobody, in the current folder."""
    make_onnx(tmp_path / "net.onnx", thresholds=THRESHOLDS)
    make_onnx(tmp_path / "other.onnx", seed=1)
    for person in (1, 2, 3):
        (tmp_path / "family" / f"s{person}").mkdir(parents=True)
        shutil.copy(att / f"s{person}" / "1.pgm", tmp_path / "family" / f"s{person}")
    stranger, known = (np.asarray(Image.open(att / f"s{person}" / "1.pgm")) for person in (9, 2))
    Image.fromarray(known).save(tmp_path / "s2.png")
    Image.fromarray(stranger).save(tmp_path / "stranger.png")
    Image.fromarray(known).filter(ImageFilter.GaussianBlur(3)).save(tmp_path / "blurred.png")
    Image.fromarray(np.zeros((99, 99), np.uint8)).save(tmp_path / "nobody.png")
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def enrolled(say: Say, *more: object) -> tuple[int, dict[str, Any], str]:
    return say("enroll", "family", "-g", "g", "-m", "net.onnx", *more)


def test_enroll_identify_list_export_remove(say: Say, place: Path):
    code, found, err = enrolled(say)
    assert (code, err, found["schema"], found["gallery"], found["refused"]) == (0, "", 1, "g", [])
    assert [(row["name"], row["source"]) for row in found["enrolled"]] == [(f"s{n}", "1.pgm") for n in (1, 2, 3)]

    code, found, err = say("identify", "s2.png", "-g", "g", "-m", "net.onnx")
    recognizer = FaceRecognizer("net.onnx")
    limit = threshold_for(recognizer.model.contract, 0.01, 3)
    (face,) = found["faces"]
    assert (code, found["schema"], face["name"], face["far"], face["threshold"]) == (0, 1, "s2", 0.01, limit.value)
    assert set(face) == {"box", "detection", "name", "score", "threshold", "far", "extrapolated"}
    (alone,), (kept,) = (recognizer.embed("s2.png", mirror=mirror) for mirror in (False, True))
    assert face["score"] == pytest.approx(float(alone @ kept), abs=1e-6)
    assert face["box"] == pytest.approx(recognizer.faces("s2.png")[0].box.tolist())
    assert err == ""

    code, found, _ = say("gallery", "list", "g")
    assert (code, found["model"]["name"]) == (0, "tiny")
    assert [row["name"] for row in found["photos"]] == ["s1", "s2", "s3"]

    assert found["embeddings"] == "float32"

    code, found, _ = say("gallery", "rename", "g", "s3", "Ada Lovelace")
    assert (code, found) == (0, {"schema": 1, "gallery": "g", "name": "Ada Lovelace", "was": "s3"})
    assert [row["name"] for row in say("gallery", "list", "g")[1]["photos"]] == ["Ada Lovelace", "s1", "s2"]
    assert say("gallery", "rename", "g", "Ada Lovelace", "s3")[0] == 0

    code, found, _ = say("gallery", "export", "g", "out.csv")
    assert (code, found) == (0, {"schema": 1, "path": "out.csv", "photos": 3})
    assert len(Path("out.csv").read_text().splitlines()) == 4

    code, found, _ = say("gallery", "remove", "g", "s2")
    assert (code, found) == (0, {"schema": 1, "gallery": "g", "name": "s2", "removed": 1})
    assert (
        say("identify", "s2.png", "-g", "g", "-m", "net.onnx", "--threshold", "0.9999")[1]["faces"][0]["name"] is None
    )
    assert say("gallery", "remove", "g", "s3", "--photo", "3")[1]["removed"] == 1
    assert [row["name"] for row in say("gallery", "list", "g")[1]["photos"]] == ["s1"]


def test_tables_for_people(place: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["enroll", "family", "-g", "g", "-m", "net.onnx"]) == 0
    assert run(["gallery", "list", "g"]) == 0
    assert run(["identify", "s2.png", "-g", "g", "-m", "net.onnx"]) == 0
    assert run(["identify", "stranger.png", "-g", "g", "-m", "net.onnx", "--threshold", "1"]) == 0
    assert run(["gallery", "export", "g", "out.json"]) == 0
    assert run(["gallery", "remove", "g", "s2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^s2 +│ +2 │ +1\.pgm │ \d{4}-\d\d-\d\d │", out, re.MULTILINE), (
        "a row in a line, with the date alone"
    )
    for words in ("tiny fp32", "s2  │ 1.000", "unknown │", "out.json", "removed 1 photo of s2"):
        assert words in out


@pytest.mark.parametrize(
    ("words", "far"),
    [
        (("identify", "s2.png", "-g", "g"), 0.0025),
        (("verify", "s2.png", "s2.png"), 0.0007),
        (("run", "--folder", "family/s2", "-g", "g"), 0.0025),
    ],
)
def test_an_extrapolated_threshold_is_said(say: Say, place: Path, words: tuple[str, ...], far: float):
    enrolled(say)
    code, found, err = say(*words, "-m", "net.onnx", "--far", far)
    assert code == 0
    assert re.search(
        rf"the threshold 0.99\d for a rate of {far}( over 3 photos)? is extrapolated, .*: a larger far", err
    )
    assert all(face["extrapolated"] for face in found.get("faces", []) if isinstance(face, dict))
    assert "extrapolated" not in say(*words, "-m", "net.onnx", "--threshold", 0.5)[2]


@pytest.mark.parametrize("detector", ["blazeface", "yunet"])
def test_smaller_faces_on_demand(say: Say, place: Path, detector: str):
    enrolled(say, "--detector", detector, "--min-face", "20")
    shapes = np.random.default_rng(7).integers(60, 200, (6, 8, 3)).astype(np.uint8)
    photo = Image.fromarray(shapes).resize((1280, 960), Image.Resampling.BICUBIC)
    photo.paste(Image.open("family/s1/1.pgm").convert("RGB").resize((36, 44), Image.Resampling.LANCZOS), (600, 500))
    photo.save("far.png")
    words = ("-m", "net.onnx", "--detector", detector, "--min-face")
    assert [len(say("identify", "far.png", "-g", "g", *words, least)[1]["faces"]) for least in (16, 300)] == [1, 0]
    assert say("verify", "far.png", "s2.png", "--threshold", -1, *words, 16)[0] == 0
    code, _, err = say("identify", "far.png", "-g", "g", *words, 5)
    assert (code, "--min-face" in err) == (2, True)


def test_verify_answers_with_its_exit_code(say: Say, place: Path):
    code, found, _ = say("verify", "s2.png", "family/s2/1.pgm", "-m", "net.onnx")
    assert (code, found["same"], found["threshold"], found["far"]) == (0, True, 0.998, 0.001)
    assert set(found) == {"schema", "same", "score", "threshold", "far", "boxes", "faces", "extrapolated"}
    code, found, _ = say("verify", "s2.png", "stranger.png", "-m", "net.onnx", "--threshold", "0.9999")
    assert (code, found["same"], found["far"]) == (1, False, None)


def test_verify_in_words(place: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["verify", "s2.png", "s2.png", "-m", "net.onnx"]) == 0
    assert run(["verify", "s2.png", "stranger.png", "-m", "net.onnx", "--threshold", "0.9999"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "same person (score 1.000, threshold 0.998)"
    assert lines[1].startswith("not the same person (score 0.")


def test_a_score_and_the_threshold_that_it_misses_are_told_apart(
    say: Say, place: Path, capsys: pytest.CaptureFixture[str]
):
    enrolled(say)
    score = say("verify", "s2.png", "stranger.png", "-m", "net.onnx", "--threshold", 1)[1]["score"]
    limit = str(score + 2e-5)
    assert run(["verify", "s2.png", "stranger.png", "-m", "net.onnx", "--threshold", limit]) == 1
    shown = re.fullmatch(r"not the same person \(score (\S+), threshold (\S+)\)\n", capsys.readouterr().out)
    assert shown
    assert float(shown[1]) < float(shown[2])
    (face,) = say("identify", "stranger.png", "-g", "g", "-m", "net.onnx", "--threshold", 1)[1]["faces"]
    limit = str(face["score"] + 2e-5)
    assert run(["identify", "stranger.png", "-g", "g", "-m", "net.onnx", "--threshold", limit]) == 0
    who, low, high, _ = (word.strip() for word in capsys.readouterr().out.splitlines()[-1].split("│"))
    assert who == "unknown"
    assert float(low) < float(high)


def test_refused_photos_are_passed_over_and_said(say: Say, place: Path):
    code, found, err = say(
        "enroll", "blurred.png", "s2.png", "broken.jpg", "nobody.png", "-n", "Ada", "-g", "g", "-m", "net.onnx"
    )
    assert code == 1
    assert [row["source"] for row in found["enrolled"]] == ["s2.png"]
    assert [row["photo"] for row in found["refused"]] == ["blurred.png", "broken.jpg", "nobody.png"]
    for words in ("blurred.png: not enrolled as Ada: blurred", "broken.jpg: not an image", "nobody.png: no face found"):
        assert words in err
    code, found, _ = say("enroll", "blurred.png", "-n", "Ada", "-g", "g", "-m", "net.onnx", "--force")
    assert (code, len(found["enrolled"])) == (0, 1)


def test_embeddings_in_eight_bits(say: Say, place: Path):
    assert enrolled(say, "--int8", "--force")[0] == 0  # a net of chance may find two people alike
    assert say("gallery", "list", "g")[1]["embeddings"] == "int8"
    (face,) = say("identify", "s2.png", "-g", "g", "-m", "net.onnx")[1]["faces"]
    assert face["name"] == "s2"
    (alone,), (kept,) = (FaceRecognizer("net.onnx").embed("s2.png", mirror=mirror) for mirror in (False, True))
    assert face["score"] == pytest.approx(float(alone @ kept), abs=1e-3)


def test_who_is_on_which_photo(place: Path):
    family = [(f"s{n}", Path(f"family/s{n}/1.pgm")) for n in (1, 2, 3)]
    assert named_photos([Path("family")]) == NamedPhotos(family)
    assert named_photos([Path("family/s2")]).photos == family[1:2]
    assert named_photos([Path("family/s2"), Path("s2.png")], "Ada").photos == [
        ("Ada", Path("family/s2/1.pgm")),
        ("Ada", Path("s2.png")),
    ]
    os.chdir("family/s2")
    assert named_photos([Path()]).photos == [("s2", Path("1.pgm"))]
    assert named_photos([Path("..")]).photos == [(f"s{n}", Path(f"../s{n}/1.pgm")) for n in (1, 2, 3)]
    with pytest.raises(UsageError, match="say whom it shows with --name"):
        named_photos([place / "s2.png"])


def test_photos_of_other_suffixes_are_enrolled(say: Say, place: Path):
    """Each kind of file that Pillow both writes and reads whole, and none of those that hold no photos."""
    photo = Image.open("s2.png").convert("RGB")
    for suffix in (".jfif", ".JPE", ".avif", ".jp2", ".tga", ".pnm", ".dib", ".apng"):
        (place / "kinds" / "Ada").mkdir(parents=True, exist_ok=True)
        photo.save(place / "kinds" / "Ada" / f"{suffix[1:]}{suffix}", **({"quality": 95} if suffix == ".avif" else {}))
    code, found, err = say("enroll", "kinds", "-g", "g", "-m", "net.onnx")
    assert (code, err) == (0, "")
    assert len(found["enrolled"]) + len(found["already_there"]) == 8


def test_a_photo_beside_the_folders_hides_nobody(say: Say, place: Path):
    shutil.copy("stranger.png", "family/cover.png")
    (place / "family" / "notes.txt").write_text("Sunday")
    (place / "family" / ".hidden.png").write_bytes(b"")
    code, found, err = enrolled(say)
    assert code == 1
    assert [row["name"] for row in found["enrolled"]] == ["s1", "s2", "s3"]
    assert [row["path"] for row in found["passed_over"]] == ["family/cover.png", "family"]
    assert "family/cover.png: passed over: beside the folders of people" in err
    assert "family: passed over: no photos: notes.txt" in err
    (place / "family" / "cover.png").unlink()
    assert enrolled(say)[0] == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Path("family/Bob/2021").mkdir(parents=True), "family/Bob: passed over: no photo in it"),
        (
            lambda: shutil.copytree("family/s1", "family/Bob B/2021"),
            "family/Bob B/2021: passed over: deeper than <name>/<photo>; if it shows Bob B: "
            "enroll 'family/Bob B' --name 'Bob B'",
        ),
        (lambda: shutil.copytree("family/s1", "family/s1/old"), "family/s1/old: passed over: deeper than"),
        (lambda: shutil.copytree("family/s1", "family/" + 201 * "b"), "a person's name is 1 to 200"),
    ],
)
def test_a_person_who_is_left_out_is_named(say: Say, place: Path, make: Callable[[], None], words: str):
    make()
    code, found, err = enrolled(say)
    assert code == 1
    assert [row["name"] for row in found["enrolled"]] == ["s1", "s2", "s3"]
    assert words in err
    assert len(err.splitlines()) == len(found["passed_over"]) == 1


def test_with_a_name_all_photos_of_a_folder_are_one_persons(say: Say, place: Path):
    shutil.copytree("family/s1", "ada/2021/summer")
    shutil.copy("blurred.png", "ada/cover.png")
    Path("ada/loop").symlink_to("..", target_is_directory=True)
    code, found, err = say("enroll", "ada", "--name", "Ada", "-g", "g", "-m", "net.onnx", "--force")
    assert (code, err) == (0, "")
    assert [(row["name"], row["source"]) for row in found["enrolled"]] == [("Ada", "cover.png"), ("Ada", "1.pgm")]


def test_a_second_run_says_that_all_are_there(say: Say, place: Path, capsys: pytest.CaptureFixture[str]):
    first = enrolled(say)[1]
    code, found, _ = enrolled(say)
    assert (code, found["enrolled"]) == (0, [])
    assert found["already_there"] == first["enrolled"]
    assert run(["enroll", "family", "-g", "g", "-m", "net.onnx"]) == 0
    _, header, _, *rows = capsys.readouterr().out.splitlines()
    assert [word.strip() for word in header.split("┃")] == ["person", "enrolled", "already there", "refused"]
    assert [[word.strip() for word in row.split("│")] for row in rows] == [[f"s{n}", "0", "1", "0"] for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("enroll nowhere -g g -m net.onnx", "nowhere: no such file or folder"),
        ("enroll s2.png -g g -m net.onnx", "s2.png: say whom it shows with --name"),
        ("enroll void -g g -m net.onnx", "void: no photo in it, nor in its folders"),
        ("enroll s2.png -n Ada -g g -m net.onnx --face left", "'left': largest, or numbers"),
        ("enroll s2.png -n Ada -g g -m net.onnx --face 1,2,3", "a point (x, y), a box"),
        ("enroll family -g g -m net.onnx --face 1,2", "there are 3 photos: name one, or take the largest"),
        ("enroll s2.png -n \x01 -g g -m net.onnx", "a person's name is 1 to 200"),
        ("enroll family -g g -m nowhere.onnx", "nowhere.onnx"),
        ("enroll family -g broken.jpg -m net.onnx", "broken.jpg: not a gallery"),
        ("enroll family -g made -m other.onnx", "name the first (--model FILE), or enroll the photos anew"),
        ("enroll family -m net.onnx", "--gallery"),
        ("identify s2.png -g nowhere -m net.onnx", "nowhere: no such gallery; `edgeface enroll` makes one"),
        ("identify broken.jpg -g made -m net.onnx", "broken.jpg: not an image that can be read"),
        ("identify s2.png -g made -m other.onnx", "name the first (--model FILE), or enroll the photos anew"),
        ("identify s2.png -g made -m net.onnx --far 2", "must lie between 0 and 1"),
        ("identify s2.png -g made -m net.onnx --far 1e-9", "give a threshold (--threshold)"),
        ("identify s2.png -g made -m net.onnx --threshold 2", "--threshold"),
        ("identify s2.png -g made -m net.onnx --threshold 0.4 --far 0.01", "--far has no effect beside --threshold"),
        ("verify s2.png s2.png -m net.onnx --threshold 0.4 --far 0.01", "--far has no effect beside --threshold"),
        ("verify s2.png nobody.png -m net.onnx", "nobody.png: no face found"),
        ("verify s2.png stranger.png -m other.onnx", "has no measured thresholds"),
        ("verify s2.png -m net.onnx", "Missing argument"),
        ("gallery list nowhere", "nowhere: no such gallery"),
        ("gallery list broken.jpg", "broken.jpg: not a gallery"),
        ("gallery remove made Nobody", "made: nobody called Nobody"),
        ("gallery remove made s1 --photo 99", "made: no photo 99 of s1"),
        ("gallery rename made Nobody Ada", "made: nobody called Nobody"),
        ("gallery rename made s1 \x07", "a person's name is 1 to 200 printable characters"),
        ("enroll family -g made -m net.onnx --int8", "made: stores float32 embeddings, not int8; make a new gallery"),
        ("gallery export made out.txt", "out.txt: name a .json or a .csv file"),
        ("gallery rubbish", "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    place: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
):
    (place / "void").mkdir()
    with Gallery.open("made", FaceRecognizer("net.onnx")) as gallery:
        gallery.enroll("s1", "family/s1/1.pgm")
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_stopped_enrolment_goes_on(say: Say, place: Path):
    """Killed after the first photo, the same command ends with all of them, each once."""
    command = [sys.executable, "-m", "edgeface", "enroll", "family", "-g", "g", "-m", "net.onnx"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (place / "g").exists():
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert enrolled(say)[0] == 0
    assert enrolled(say)[0] == 0
    assert [row["name"] for row in say("gallery", "list", "g")[1]["photos"]] == ["s1", "s2", "s3"]
