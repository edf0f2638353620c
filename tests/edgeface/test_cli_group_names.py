"""Numbers and names of ``edgeface group`` from run to run: naming twice is naming once."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeface.cli import run
from edgeface.grouping.run import group_photos
from edgeface_runtime import FaceRecognizer, Gallery, UsageError

Say = Callable[..., tuple[int, dict[str, Any], str]]
Photo = Callable[[int, int], Image.Image]
PEOPLE = (1, 2, 3, 4, 5, 6)


@pytest.fixture(scope="module")
def grouped(photo: Photo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people in four photos each, and their groups."""
    folder = tmp_path_factory.mktemp("grouped")
    (folder / "photos").mkdir()
    for person in PEOPLE:
        for take in range(1, 5):
            photo(person, take).save(folder / "photos" / f"{person}-{take}.png")
    assert run(["group", str(folder / "photos"), "-o", str(folder / "groups"), "--folders", "none"]) == 0
    return folder


@pytest.fixture(scope="module")
def recognizer() -> FaceRecognizer:
    return FaceRecognizer()


@pytest.fixture
def here(grouped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(grouped / "groups", tmp_path / "groups")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def say(say: Say) -> Say:
    return partial(say, "group", "--folders", "none")


def people(found: dict[str, Any]) -> dict[int, tuple[str | None, set[int]]]:
    """Of each group's number, the name, and whom the photos show."""
    return {
        group["group"]: (group["name"], {int(Path(face["photo"]).stem[0]) for face in group["faces"]})
        for group in found["groups"]
    }


def names(**given: str) -> list[str]:
    """``g3="Ada"`` as ``--name 3=Ada``."""
    return [word for group, name in given.items() for word in ("--name", f"{group[1:]}={name}")]


def test_names_given_again_with_a_gallery_enroll_the_same_people(say: Say, here: Path):
    before = people(say()[1])
    given = names(g2="Ada", g3="Ben", g5="Dom", g6="Dom")
    first = people(say(*given)[1])
    assert {number: name for number, (name, _) in first.items() if name} == {2: "Ada", 3: "Ben", 5: "Dom"}
    code, found, _ = say(*given, "--gallery", "people.gallery")
    assert (code, people(found)) == (0, first)
    of = {"Ada": before[2][1], "Ben": before[3][1], "Dom": before[5][1] | before[6][1]}
    with Gallery("people.gallery") as gallery:
        enrolled = {(entry.name, int(Path(entry.source).stem[0])) for entry in gallery.photos()}
    assert {name for name, _ in enrolled} == of.keys()
    assert all(person in of[name] for name, person in enrolled)


def test_joining_typed_twice_takes_nobody_more(say: Say, here: Path):
    first = people(say(*names(g1="Ada", g2="Ada"))[1])
    assert first.keys() == {1, 3, 4, 5, 6}
    assert people(say(*names(g1="Ada", g2="Ada"))[1]) == first
    assert people(say(*names(g2="Ada"))[1]) == first
    assert people(say()[1]) == first


@pytest.mark.parametrize("seed", range(12))
def test_naming_twice_is_naming_once(here: Path, recognizer: FaceRecognizer, seed: int):
    rng = random.Random(seed)
    folder = here / "groups"

    def state() -> dict[int, tuple[str | None, frozenset[int]]]:
        found = group_photos(None, folder, recognizer, folders="none")
        return {group.number: (group.name, frozenset(face.id for face in group.faces)) for group in found.groups}

    whose = {number: faces for number, (_, faces) in state().items()}
    for _ in range(3):
        given: dict[int | str, str] = {
            number: rng.choice(("Ada", "Ben", "Dom")) for number in rng.sample(range(1, 7), rng.randint(1, 3))
        }
        before = state()
        shown = {number: next(key for key, (_, faces) in before.items() if whose[number] <= faces) for number in whose}
        wanted = {(shown[int(number)], name) for number, name in given.items()}
        named = any(before[group][0] not in (None, name) for group, name in wanted)
        if named or len({group for group, _ in wanted}) < len(wanted):
            with pytest.raises(UsageError, match=r"already|cannot be both"):
                group_photos(None, folder, recognizer, names=given, folders="none")
            assert state() == before  # a refusal names nobody
            continue
        group_photos(None, folder, recognizer, names=given, folders="none")
        once = state()
        for number, name in given.items():
            (group,) = (key for key, (_, faces) in once.items() if whose[int(number)] <= faces)
            assert once[group][0] == name
            assert group <= int(number)
        assert all(whose[number] <= faces for number, (_, faces) in once.items())
        group_photos(None, folder, recognizer, names=given, folders="none")
        assert state() == once


def test_a_named_group_is_not_named_otherwise_unasked(say: Say, here: Path):
    first = people(say(*names(g1="Ada", g2="Ben"))[1])
    code, _, err = say(*names(g3="Cy", g2="Eve"))
    assert (code, err) == (2, "edgeface: group 2 is named Ben already; --name Ben=Eve renames it\n")
    assert people(say()[1]) == first  # Cy neither
    renamed = people(say("--name", "Ben=Eve")[1])
    assert renamed == {**first, 2: ("Eve", first[2][1])}
    code, _, err = say("--name", "Ben=Eve")
    assert (code, err) == (2, "edgeface: nobody is named Ben: groups/groups.html shows who has which name\n")
    swapped = people(say("--name", "Ada=Eve", "--name", "Eve=Ada")[1])
    assert swapped == {**first, 1: ("Eve", first[1][1]), 2: ("Ada", first[2][1])}
    joined = people(say("--name", "Ada=Eve")[1])
    assert joined[1] == ("Eve", first[1][1] | first[2][1])
    assert 2 not in joined
    assert "group 2, part of group 1, is named Eve already" in say(*names(g2="Ben"))[2]


def test_one_group_gets_one_name(say: Say, here: Path):
    before = people(say()[1])
    for given in (("--name", "1=Ada", "--name", "1=Ben"), ("--name", "1=Ada", "--name", "01=Ben")):
        code, _, err = say(*given)
        assert code == 2
        assert "cannot be both Ada and Ben" in err
        assert err.count("\n") == 1
    assert people(say()[1]) == before


def test_numbers_stay_when_photos_come_and_go(say: Say, grouped: Path, here: Path, photo: Photo):
    shutil.rmtree("groups")
    shutil.copytree(grouped / "photos", "photos")
    first = people(say("photos")[1])
    (small,) = first[6][1]
    (gone,) = first[1][1]
    for take in range(5, 10):
        photo(small, take).save(here / "photos" / f"{small}-{take}.png")
        photo(7, take).save(here / "photos" / f"7-{take}.png")
    for path in (here / "photos").glob(f"{gone}-*"):
        path.unlink()
    found = say("photos")[1]
    assert found["groups"][0]["group"] == 6  # the largest comes first, with the number that it had
    assert people(found) == {**{number: first[number] for number in range(2, 7)}, 7: (None, {7})}
    assert say(*names(g1="Ada"))[2] == "edgeface: no group 1: see groups/groups.html\n"
    for take in range(1, 5):
        photo(gone, take).save(here / "photos" / f"{gone}-{take}.png")
    assert people(say("photos")[1])[8] == (None, {gone})  # not 1, which meant the group before


def test_the_folder_of_photos_takes_no_results(say: Say, grouped: Path, here: Path):
    shutil.copytree(grouped / "photos", "mixed")
    before = sorted(Path("mixed").iterdir())
    for output in ("mixed", "mixed/../mixed"):
        code, _, err = say("mixed/", "-o", output)
        assert code == 2
        assert err == "edgeface: mixed: holds the photos and cannot take the results; name another --output\n"
    assert sorted(Path("mixed").iterdir()) == before


def test_threshold_and_far_do_not_go_together(say: Say, here: Path):
    code, _, err = say("--threshold", 0.5, "--far", 0.001)
    assert code == 2
    assert err == "edgeface: --threshold is the score itself, --far the rate that it follows from: give one of them\n"
