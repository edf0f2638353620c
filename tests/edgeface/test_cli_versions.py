"""The commands beside an older version of the bundled model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeface.cli import run

OLD = "mobilefacenet-0.2"
Say = Callable[..., tuple[int, dict[str, Any], str]]
WAYS = f"name the first (--model {OLD}), or enroll the photos anew (edgeface gallery move)"
TAKEN = (
    f"door: belongs to {OLD}, an older version, which is taken: name it (--model {OLD}) or enroll the photos anew with "
    "mobilefacenet (edgeface gallery move)\n"
)


@pytest.fixture
def place(upgraded: Path, monkeypatch: pytest.MonkeyPatch, att: Path, say: Say) -> Path:
    """Three people in ``door``, a gallery of the older version, and another photo of the second."""
    here = upgraded.parent
    for person in (1, 2, 3):
        (here / "family" / f"s{person}").mkdir(parents=True)
        for take in (1, 2):
            shutil.copy(att / f"s{person}" / f"{take}.pgm", here / "family" / f"s{person}")
    shutil.copy(att / "s2" / "3.pgm", here / "s2.pgm")
    monkeypatch.chdir(here)
    assert say("enroll", "family", "-g", "door", "-m", OLD)[0] == 0
    return here


@pytest.mark.parametrize(
    "line",
    [
        "identify s2.pgm -g door",
        "identify s2.pgm family -g door --json-lines",
        "run --folder family -g door",
        "enroll s2.pgm -n s2 -g door",
        "gallery check door",
        "group family -g door",
    ],
)
def test_a_gallery_goes_on_with_its_version_unless_a_model_is_named(
    place: Path, line: str, capsys: pytest.CaptureFixture[str]
):
    code = run([*line.split(), "-m", OLD])
    named = capsys.readouterr()
    assert (code, named.err) == (0, "")
    shutil.rmtree("groups", ignore_errors=True)
    assert run([*line.split(), "-m", "mobilefacenet"]) == 2
    assert f"cannot be compared: {WAYS}" in capsys.readouterr().err
    assert run(line.split()) == 0
    untold = capsys.readouterr()
    assert untold.err == TAKEN
    assert untold.out == named.out or line.startswith(("run", "enroll"))


def test_both_ways_on(place: Path, say: Say):
    code, found, err = say("identify", "s2.pgm", "-g", "door", "-m", OLD)
    assert (code, err, found["faces"][0]["name"]) == (0, "", "s2")
    code, found, err = say("gallery", "move", "door", "family", "--output", "new", "--model", "mobilefacenet")
    assert (code, err) == (0, "")
    assert found["people"] == [{"name": f"s{n}", "moved": 2, "photos": 2} for n in (1, 2, 3)]
    code, found, err = say("identify", "s2.pgm", "-g", "new")
    assert (code, err, found["faces"][0]["name"]) == (0, "", "s2")


def test_a_new_gallery_is_of_the_newest(place: Path, say: Say, capsys: pytest.CaptureFixture[str]):
    assert say("enroll", "family", "-g", "new")[0] == 0
    assert [say("gallery", "list", name)[1]["belongs_to"] for name in ("new", "door")] == ["mobilefacenet", OLD]
    for name, called in (("new", "mobilefacenet int8 ("), ("door", f"{OLD} int8 (")):
        assert run(["gallery", "list", name]) == 0
        assert capsys.readouterr().out.startswith(f"{name}: {called}")
    code, _, err = say("gallery", "merge", "new", "door")
    assert code == 2
    assert f"door: made with {OLD} int8" in err
    assert "but new is of mobilefacenet int8" in err


def test_groups_go_on_with_their_version(place: Path, say: Say):
    assert say("group", "family", "-m", OLD)[0] == 0
    code, _, err = say("group", "family")
    anew = "--model mobilefacenet --forget looks at all photos anew"
    assert (code, err) == (0, f"groups: made with {OLD}, an older version, which is taken; {anew}\n")
    code, _, err = say("group", "family", "-m", "mobilefacenet")
    assert code == 2
    assert f"groups: made with {OLD} int8 and yunet" in err
    assert say("group", "family", "--forget")[::2] == (0, "")
    assert say("group", "family")[::2] == (0, "")


def test_models_lists_older_versions_last(upgraded: Path, say: Say, capsys: pytest.CaptureFixture[str]):
    rows = say("models")[1]["models"]
    assert [row["older_version_of"] for row in rows] == [None, None, "mobilefacenet", "mobilefacenet"]
    assert run(["models"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{OLD}: an older version, kept for galleries made with it"
    assert run(["inspect", OLD]) == 0


def test_the_weights_of_an_older_version_are_found_by_its_name(
    upgraded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("torch")
    from edgeface.training import checkpoints
    from edgeface_runtime import UsageError, load

    source = checkpoints.find_checkpoint(Path("mobilefacenet"))
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    with pytest.raises(UsageError, match=r"weights/mobilefacenet-0\.2\.safetensors"):
        checkpoints.load_checkpoint(OLD)
    shutil.copyfile(source, tmp_path / f"{OLD}.safetensors")
    for found in (checkpoints.load_checkpoint(OLD), checkpoints.own_checkpoint(OLD)):
        assert found is not None
        assert found.sha256 == load(OLD).contract.parent_sha256
