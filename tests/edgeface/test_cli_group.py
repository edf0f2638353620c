"""``edgeface group``: people found in photos, shown, named, enrolled; runs that are stopped and repeated."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface.cli import run
from edgeface_runtime import Gallery

Say = Callable[..., tuple[int, dict[str, Any], str]]
Photo = Callable[[int, int], Image.Image]
PEOPLE = (1, 2, 3, 4, 5)
STRANGERS = (21, 22, 23)


@pytest.fixture(scope="session")
def album(photo: Photo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people in four photos each and two of them in a photo of both, three strangers, a blur, and no photo."""
    folder = tmp_path_factory.mktemp("album")
    for person in PEOPLE:
        (folder / "deep" / f"week{person % 2}").mkdir(parents=True, exist_ok=True)
        for take in range(1, 5):
            photo(person, take).save(folder / "deep" / f"week{person % 2}" / f"{person}-{take}.png")
    for person in STRANGERS:
        photo(person, 1).save(folder / f"stranger-{person}.png")
    both = Image.new("L", (400, 240), 90)
    both.paste(photo(1, 5), (8, 8))
    both.paste(photo(2, 5), (208, 8))
    both.save(folder / "both-1-2.png")
    photo(3, 9).resize((18, 22)).resize((184, 224), Image.Resampling.BICUBIC).save(folder / "blurred-3.png")
    (folder / "broken.jpg").write_bytes(b"nothing")
    return folder


@pytest.fixture
def here(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(album, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def say(say: Say) -> Say:
    return partial(say, "group")


def who(path: str) -> str:
    """Whom a photo of the album shows, by its file's name."""
    return Path(path).stem.split("-")[0]


def test_people_are_found_with_nobody_enrolled(say: Say, here: Path):
    before = {path: path.read_bytes() for path in (here / "photos").rglob("*.*")}
    code, found, err = say("photos")
    assert code == 1  # one photo cannot be read
    assert err == "photos/broken.jpg: not an image that can be read\n"
    assert {"schema": 1, "output": "groups", "photos": 26, "faces": 26, "far": 1e-4}.items() <= found.items()
    assert [group["photos"] for group in found["groups"]] == [5, 5, 4, 4, 4]
    for group in found["groups"]:
        people = {who(face["photo"]) for face in group["faces"]} - {"both"}
        assert len(people) == 1
        assert all(found["threshold"] < face["score"] <= 1 for face in group["faces"])
    assert sorted(Path(face["photo"]).name for face in found["seen_once"]) == [f"stranger-{n}.png" for n in STRANGERS]
    assert [face["photo"] for face in found["unclear"]] == ["photos/blurred-3.png"]
    assert found["refused"] == [{"photo": "photos/broken.jpg", "reason": err.strip()}]
    kept = json.loads((here / "groups" / "groups.json").read_text())
    assert kept == {key: found[key] for key in kept}
    assert found.keys() - kept.keys() == {"enrolled", "not_enrolled", "notice"}
    assert {path: path.read_bytes() for path in (here / "photos").rglob("*.*")} == before
    for name in ("groups.html", "groups.json", "faces.csv", "faces.db"):
        assert (here / "groups" / name).stat().st_mode & 0o777 == 0o600
    assert (here / "groups").stat().st_mode & 0o777 == 0o700


def test_the_table_has_a_row_for_each_face_and_no_formula(say: Say, here: Path):
    (here / "photos" / "stranger-21.png").rename(here / "=cmd.png")
    found = say("photos", "=cmd.png")[1]
    say("--name", "1=@SUM(A1)")
    with (here / "groups" / "faces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["faces"] + len(found["refused"])
    assert {row["name"] for row in rows} == {"", "'@SUM(A1)"}
    assert sum(row["photo"] == "'=cmd.png" for row in rows) == 1
    assert {row["note"] for row in rows if not row["group"]} >= {"seen once", "too small or blurred"}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "@"))]


@pytest.mark.parametrize("folders", ["link", "copy", "none"])
def test_folders_of_people(say: Say, here: Path, folders: str):
    found = say("photos", "--folders", folders)[1]
    people = here / "groups" / "people"
    if folders == "none":
        assert not people.exists()
        return
    for group in found["groups"]:
        made = sorted((people / f"group {group['group']:03d}").iterdir())
        assert sorted(path.name for path in made) == sorted({Path(face["photo"]).name for face in group["faces"]})
        assert all(path.is_symlink() == (folders == "link") for path in made)
        sources = {Path(face["photo"]).name: Path(face["photo"]) for face in group["faces"]}
        assert all(path.read_bytes() == sources[path.name].read_bytes() for path in made)
    (people / "group 001" / "mine.txt").write_text("kept")
    say("photos", "--folders", "none")
    assert [path.name for path in people.rglob("*.*")] == ["mine.txt"]


def test_photos_of_one_name_in_two_folders_do_not_hide_each_other(say: Say, here: Path):
    for path in (here / "photos" / "deep").rglob("1-*.png"):
        (here / "photos" / path.stem).mkdir()
        path.rename(here / "photos" / path.stem / "face.png")
    found = say("photos")[1]
    group = next(group for group in found["groups"] if "face" in {who(face["photo"]) for face in group["faces"]})
    made = [path.name for path in (here / "groups" / "people" / f"group {group['group']:03d}").iterdir()]
    assert sorted(made) == ["both-1-2.png", "face-2.png", "face-3.png", "face-4.png", "face.png"]


class Pictures(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_the_faces_and_escapes_names(say: Say, here: Path):
    say("photos")
    say("--name", "1=<b>Ann & Co</b>")
    page = Pictures((here / "groups" / "groups.html").read_text())
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 22 + 3 + 1
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") and image["alt"] for image in images)
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert len(links) == len(images)
    assert all(link.startswith("file:///") for link in links)
    assert "<b>Ann & Co</b>" in page.text
    assert not [tag for tag, _ in page.tags if tag in ("b", "script", "link")]
    assert "edgeface group --output groups --name 2=NAME --gallery people.gallery" in page.text


def test_groups_are_named_enrolled_and_then_identified(
    say: Say, here: Path, photo: Photo, capsys: pytest.CaptureFixture[str]
):
    first = say("photos")[1]
    code, found, _ = say("--name", "1=Anna", "--name", "2=Ben", "--gallery", "people.gallery", "--photos-each", 3)
    assert code == 1
    assert [group["name"] for group in found["groups"]] == ["Anna", "Ben", None, None, None]
    places = [[face["photo"] for face in group["faces"]] for group in found["groups"]]
    assert places == [[face["photo"] for face in group["faces"]] for group in first["groups"]]
    assert [(row["name"], row["new"]) for row in found["enrolled"]] == [("Anna", True)] * 3 + [("Ben", True)] * 3
    persons = [({who(face["photo"]) for face in group["faces"]} - {"both"}).pop() for group in found["groups"]]
    with Gallery("people.gallery") as gallery:
        assert {photo.name for photo in gallery.photos()} == {"Anna", "Ben"}
        assert {who(photo.source) for photo in gallery.photos() if photo.name == "Anna"} <= {persons[0], "both"}
    again = say("--name", "1=Anna", "--gallery", "people.gallery", "--photos-each", 3)[1]
    assert [row["new"] for row in again["enrolled"]] == [False] * 3
    photo(int(persons[0]), 8).save("new.png")
    capsys.readouterr()
    assert run(["identify", "new.png", "-g", "people.gallery", "--json"]) == 0
    assert [face["name"] for face in json.loads(capsys.readouterr().out)["faces"]] == ["Anna"]
    assert sorted(path.name for path in (here / "groups" / "people").iterdir())[:2] == ["Anna", "Ben"]


def test_somebody_without_a_good_photo_is_not_enrolled_and_said(say: Say, here: Path, photo: Photo):
    shutil.rmtree(here / "photos")
    (here / "photos").mkdir()
    for take in (1, 2, 3):  # enough light to be grouped, too little to be enrolled
        photo(4, take).point(lambda light: light // 6).save(here / "photos" / f"4-{take}.png")
    found = say("photos")[1]
    assert [group["photos"] for group in found["groups"]] == [3]
    code, found, err = say("--name", "1=Dan", "--gallery", "people.gallery")
    assert (code, found["enrolled"]) == (1, [])
    assert err.startswith("Dan: none of 3 photos can be enrolled; the first: dark")
    assert [row["name"] for row in found["not_enrolled"]] == ["Dan"]


def test_a_name_stays_and_new_photos_of_the_person_join_it(say: Say, here: Path, photo: Photo):
    found = say("photos")[1]
    person = next(int(who(face["photo"])) for face in found["groups"][4]["faces"] if who(face["photo"]) != "both")
    say("--name", "5=Eve")
    for take in (6, 7, 8):
        photo(person, take).save(here / "photos" / f"{person}-{take}.png")
    groups = say("photos")[1]["groups"]
    assert (groups[0]["name"], groups[0]["photos"]) == ("Eve", 7)


def test_two_groups_of_one_name_become_one(say: Say, here: Path):
    before = say("photos")[1]["groups"]
    groups = say("--name", "3=Cleo", "--name", "4=Cleo")[1]["groups"]
    assert len(groups) == len(before) - 1
    cleo = next(group for group in groups if group["name"] == "Cleo")
    assert cleo["photos"] == before[2]["photos"] + before[3]["photos"]


def test_the_order_of_the_photos_changes_nothing(say: Say, here: Path):
    files = sorted(str(path) for path in (here / "photos").rglob("*.png"))
    first = say(*files, "-o", "one", "--seed", 5)[1]
    random.Random(0).shuffle(files)
    second = say(*files, "-o", "two", "--seed", 5)[1]
    assert first["groups"] == second["groups"]


def test_a_second_run_looks_at_new_and_changed_photos_alone(say: Say, here: Path, photo: Photo):
    say("photos")
    rows = "SELECT path, min(id) FROM face GROUP BY path"
    with sqlite3.connect(here / "groups" / "faces.db") as db:
        before = dict(db.execute(rows).fetchall())
    photo(1, 9).save(here / "photos" / "stranger-21.png")
    photo(1, 8).save(here / "photos" / "1-8.png")
    (here / "photos" / "stranger-22.png").unlink()
    found = say("photos")[1]
    with sqlite3.connect(here / "groups" / "faces.db") as db:
        after = dict(db.execute(rows).fetchall())
    changed = {b"photos/stranger-21.png", b"photos/1-8.png"}
    assert {path for path in after if before.get(path) != after[path]} == changed
    assert before.keys() - after.keys() == {b"photos/stranger-22.png"}
    assert max(group["photos"] for group in found["groups"]) == 7


def test_what_was_removed_is_not_in_the_file(say: Say, here: Path):
    say("photos")
    with sqlite3.connect(here / "groups" / "faces.db") as db:
        query = "SELECT embedding, tile FROM face WHERE path = ?"
        gone = db.execute(query, (b"photos/stranger-23.png",)).fetchone()
        kept = db.execute(query, (b"photos/stranger-22.png",)).fetchone()
    (here / "photos" / "stranger-23.png").unlink()
    say("photos")
    data = (here / "groups" / "faces.db").read_bytes()
    middles = [[piece[len(piece) // 2 :][:32] for piece in pieces] for pieces in (gone, kept)]
    assert [[middle in data for middle in pieces] for pieces in middles] == [[False, False], [True, True]]
    assert b"stranger-23" not in data


def test_names_go_when_told_and_not_before(say: Say, here: Path):
    say("photos")
    say("--name", "1=Ada")
    (here / "photos").rename(here / "away")
    (here / "more").mkdir()
    shutil.copy(next((here / "away").iterdir()), here / "more")
    for words in ([], ["more"]):
        code, _, err = say(*words)
        assert code == 2
        assert "all photos of Ada are changed, gone or not among these" in err
    (here / "away").rename(here / "photos")
    assert "Ada" in {group["name"] for group in say("photos")[1]["groups"]}
    assert say("more", "--forget")[1]["photos"] == 1
    assert say("--forget")[0] == 2


def test_another_model_looks_anew_when_told(say: Say, here: Path, make_onnx: Callable[..., Path]):
    say("photos")
    make_onnx(here / "net.onnx", thresholds={"0.0001": {"value": 0.999, "high": 0.9995}})
    code, _, err = say("photos", "-m", "net.onnx")
    assert code == 2
    assert "made with mobilefacenet int8 and yunet" in err
    code, found, _ = say("photos", "-m", "net.onnx", "--forget")
    assert code == 1
    assert found["threshold"] == 0.999
    with sqlite3.connect(here / "groups" / "faces.db") as db:
        assert {len(row[0]) for row in db.execute("SELECT embedding FROM face")} == {8 * 4}


def test_the_folder_of_results_is_not_looked_at(say: Say, here: Path):
    shutil.move(here / "photos", here / "groups_of_mine")
    first = say("groups_of_mine", "-o", "groups_of_mine/out", "--folders", "copy")[1]
    second = say("groups_of_mine", "-o", "groups_of_mine/out", "--folders", "copy")[1]
    assert first["photos"] == second["photos"] == 26


def test_a_killed_run_goes_on(here: Path, say: Say):
    command = [sys.executable, "-m", "edgeface", "group", "photos"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file = here / "groups" / "faces.db"

    def count(table: str) -> int:
        try:
            with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
                return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        except sqlite3.Error:
            return 0

    for _ in range(3000):
        if count("photo") >= 3:
            break
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = count("photo")
    assert 3 <= done <= 26
    with sqlite3.connect(file) as db:
        before = dict(db.execute("SELECT path, min(id) FROM face GROUP BY path").fetchall())
    assert say("--name", "1=Anna")[2].startswith("edgeface: no group 1: groups has no groups")
    found = say("photos")[1]
    with sqlite3.connect(file) as db:
        after = dict(db.execute("SELECT path, min(id) FROM face GROUP BY path").fetchall())
    assert before.items() <= after.items()
    assert [group["photos"] for group in found["groups"]] == [5, 5, 4, 4, 4]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "groups: nothing was grouped there yet; run `edgeface group PHOTOS` first"),
        (("photos", "--name", "1=Anna"), "groups: nothing was grouped there yet"),
        (("nowhere",), "nowhere: no such file or folder"),
        (("empty",), "empty: no photo in it"),
        (("photos", "--name", "Anna"), "a group's number on the page and a name, 3=Anna"),
        (("photos", "--name", "1="), "a person's name is 1 to 200 printable characters"),
        (("photos", "--folders", "move"), "link, copy or none"),
        (("photos", "--far", "2"), "must lie between 0 and 1"),
        (("photos", "--output", "file"), "file"),
    ],
)
def test_what_does_not_fit_is_one_line(say: Say, here: Path, words: tuple[str, ...], line: str):
    (here / "empty").mkdir()
    (here / "file").write_text("here already")
    for path in (here / "photos").iterdir():  # a few are enough
        shutil.rmtree(path) if path.is_dir() else path.name.startswith("both") or path.unlink()
    code, found, err = say(*words)
    assert (code, found) == (2, {})
    assert err.count("\n") == 1
    assert line in err
    assert (here / "file").read_text() == "here already"


def test_a_file_of_another_kind_is_not_touched(say: Say, here: Path):
    (here / "groups").mkdir()
    with sqlite3.connect(here / "groups" / "faces.db") as db:
        db.execute("PRAGMA application_id = 7")
        db.execute("CREATE TABLE mine (a)")
    assert say("photos")[2] == "edgeface: groups/faces.db: not a file of `edgeface group`; name another --output\n"
    (here / "groups" / "faces.db").write_bytes(b"no database at all" * 100)
    code, _, err = say("photos")
    assert code == 2
    assert err.startswith("edgeface: groups/faces.db: file is not a database")


def test_photos_without_any_face(say: Say, here: Path):
    Image.fromarray(np.zeros((99, 99), np.uint8)).save("black.png")
    code, found, _ = say("black.png")
    assert (code, found["groups"], found["faces"], found["photos"]) == (0, [], 0, 1)
    assert "Who is in 1 photo" in (here / "groups" / "groups.html").read_text()


def test_a_folder_that_may_not_be_written_to(say: Say, here: Path):
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    (here / "locked").mkdir(mode=0o500)
    code, _, err = say("photos", "-o", "locked")
    assert code == 2
    assert err.count("\n") == 1


def test_the_table_for_people(here: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["group", "photos"]) == 1
    assert run(["group", "--name", "2=Ben", "-g", "people.gallery"]) == 1
    out = capsys.readouterr().out
    for words in (
        "group 1 │",
        "Ben     │",
        "groups/groups.html shows them",
        "3 faces seen once, 1 too small or blurred",
    ):
        assert words in out
