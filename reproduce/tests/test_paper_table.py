"""``reproduce/paper_table.py``: the paper's number of photos and split, whole commands, cells of what was run."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgeface.backbones import parse_backbone
from edgeface.cli import run
from edgeface.data.dataset import load_data
from edgeface.training.config import load_config
from reproduce import paper_table


@pytest.mark.parametrize("row", paper_table.ROWS, ids=lambda row: row.name)
def test_each_row_is_a_command_that_edgeface_takes(row: paper_table.Row):
    words = paper_table.command(row, Path("faces"), Path("work"))
    assert words[:2] == [row.verb, "faces"]
    assert words[-2:] == ["-o", str(Path("work") / "runs" / row.name)]
    given = dict(itertools.pairwise(words))
    settings = [value for key, value in itertools.pairwise(words) if key == "--set"]
    recipe = Path(given["--config"]) if "--config" in given else None
    assert (recipe == Path("paper")) == row.name.startswith("paper-")
    config = load_config(recipe, settings, backbone=given.get("--backbone"))
    parse_backbone(config.model.backbone)


@pytest.fixture(scope="module")
def prepared(att_people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight AT&T people, prepared."""
    folder = tmp_path_factory.mktemp("prepared") / "faces"
    assert run(["data", "prepare", str(att_people), str(folder), "--workers", "1", "--licence", "test"]) == 0
    return folder


def test_photos_are_drawn_with_a_seed_and_split_as_the_paper_does(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(paper_table, "PHOTOS", 50)
    first, again, other = (
        load_data(paper_table.draw(prepared, tmp_path / name, seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert len(first.faces) == 50
    assert first.sha256 == again.sha256
    assert set(first.paths) != set(other.paths)
    assert set(first.paths) <= set(load_data(prepared).paths)
    parts = Counter(first.split.tolist())
    assert 4 <= parts["test"] <= 8  # a tenth, of whole photos a person
    assert parts["val"] < parts["test"] + 4 < parts["train"]
    monkeypatch.setattr(paper_table, "PHOTOS", 5000)
    with pytest.raises(SystemExit, match="fewer than 5000"):
        paper_table.draw(prepared, tmp_path / "d", 0)


def test_what_was_not_run_is_empty_on_the_page(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "results.md"
    page.write_text(f"before\n{paper_table.MARKS[0]}old\n{paper_table.MARKS[1]}after\n")
    monkeypatch.setattr(paper_table, "PAGE", page)
    monkeypatch.setattr(paper_table, "PHOTOS", 50)
    assert paper_table.main([str(prepared), "-o", str(tmp_path / "work"), "--write-only"]) == 0
    before, rest = page.read_text().split(paper_table.MARKS[0])
    made, after = rest.split(paper_table.MARKS[1])
    assert (before, after) == ("before\n", "after\n")
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in made.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {len(paper_table.COLUMNS)}
    ours = lines[2 + len(paper_table.REPORTED) :]
    assert len(ours) == len(paper_table.ROWS)
    assert not any(cell for line in ours for cell in line[1:])


def test_a_row_that_was_run_fills_its_cells(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (people := tmp_path / "people").mkdir()  # of Pins: a tenth of each person's photos must hold two of them
    for person in sorted(path for path in (shared / "data" / "pins").iterdir() if path.is_dir())[:4]:
        (people / person.name).symlink_to(person)
    prepared = tmp_path / "prepared"
    assert run(["data", "prepare", str(people), str(prepared), "--workers", "1", "--licence", "test"]) == 0
    page, work = tmp_path / "results.md", tmp_path / "work"
    page.write_text(f"{paper_table.MARKS[0]}{paper_table.MARKS[1]}")
    monkeypatch.setattr(paper_table, "PAGE", page)
    monkeypatch.setattr(paper_table, "PHOTOS", 200)
    words = "--backbone mobilefacenet-tiny --epochs 1 --set batch_size=16 --set progressive_size=32"
    monkeypatch.setattr(paper_table, "ROWS", (paper_table.Row("tiny", "train", words, "svc"),))
    assert paper_table.main([str(prepared), "-o", str(work)]) == 0
    line = page.read_text().splitlines()[3 + len(paper_table.REPORTED)]
    cells = dict(zip(paper_table.COLUMNS, [cell.strip() for cell in line[1:-1].split("|")], strict=True))
    assert cells["net"] == "tiny + PCA + SVC"
    assert 0 <= float(cells["accuracy, %"]) <= 100
    fp32, int8 = (float(size) for size in cells["fp32 / int8, MB"].split(" / "))
    assert 2 * int8 < fp32
    assert all(float(cell) > 0 for cell in cells["fp32 / int8, ms"].split(" / "))
    assert 50 < float(cells["MACs, M"]) < 70
    made = (work / "runs" / "tiny" / "run.json").stat().st_mtime_ns
    assert paper_table.main([str(prepared), "-o", str(work), "--write-only"]) == 0
    assert (work / "runs" / "tiny" / "run.json").stat().st_mtime_ns == made
