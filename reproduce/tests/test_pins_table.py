"""``reproduce/pins_table.py``: its commands are whole, and it writes between its marks only."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgeface.training.config import load_config
from reproduce import dlib_start, pins_table

GROWING = ("mobilefacenet-small", "resnet18")
"""Rows that see small faces first and full ones then."""


@pytest.mark.parametrize("name", pins_table.TRAINING)
def test_each_command_is_one_that_train_takes(name: str):
    words = pins_table.command(name, Path("photos"), Path("peers"), Path("runs"))
    assert words[:2] == ["train", "photos"]
    assert words[-2:] == ["-o", str(Path("runs") / f"pins-{name}")]
    settings = [value for key, value in itertools.pairwise(words) if key == "--set"]
    assert len({setting.split("=")[0] for setting in settings}) == len(settings)
    given = {key: words[words.index(f"--{key}") + 1] for key in ("backbone", "epochs")}
    config = load_config(None, settings, backbone=given["backbone"], epochs=int(given["epochs"]))
    assert (config.schedule.progressive_size > 0) == (name in GROWING)
    teachers = 1 if name.endswith("-dlib-taught") else 2 if name.endswith("-taught") else 0
    assert words.count("--teacher") == words.count("--teacher-contract") == teachers


def test_what_was_measured_stands_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "images").mkdir()
    page = tmp_path / "results.md"
    peer = "| peer foamliu: these photos never seen |  |  |  | 98.98 | 1 | 2 | 3 |"
    kept = f"{peer}\n| mobilefacenet | 106 | 3.09 | 2.96 | 86.19 | 1 | 2 | 3 |"
    rows = pins_table.table(pins_table.COLUMNS, [["resnet18-dlib-taught", *["old"] * 7]])
    page.write_text(f"before\n{pins_table.MARKS[0]}{rows}{kept}\n\nold words\n{pins_table.MARKS[1]}after\n")
    monkeypatch.setattr(pins_table, "DOCS", tmp_path)
    monkeypatch.setattr(pins_table, "PAGE", page)
    run = tmp_path / "runs" / "pins-resnet18-dlib-taught"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"environment": {"machine": "M", "threads": "1", "torch": "2"}}))
    with (run / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "train_loss", "val_loss", "val_accuracy", "side"])
        writer.writeheader()
        writer.writerow({"epoch": 1, "train_loss": 5, "val_loss": 6, "val_accuracy": 0.25, "side": 64})
        writer.writerow({"epoch": 2, "train_loss": 1.234, "val_loss": 2, "val_accuracy": 0.75, "side": 112})
    figures = {"accuracy": 0.875, "precision": 0.5, "recall": 0.25, "f1": 1 / 3}
    before = run.with_name("pins-resnet18-dlib")
    shutil.copytree(run, before)
    (before / "curves.csv").write_text((before / "curves.csv").read_text().replace("0.25", ""))  # it had no head yet
    (run.parent / "pins-resnet18-dlib-taught.json").write_text(json.dumps(figures | {"matrix": [[3, 1], [0, 4]]}))
    two = shutil.copytree(run, run.with_name("pins-vgg11-dlib-taught"))
    (two / "run.json").write_text(json.dumps({"environment": {"machine": "M", "threads": "2", "torch": "2"}}))
    (two / "curves.csv").touch()
    shutil.copytree(two, two.with_name("pins-vgg11-dlib"))
    (run.parent / "pins-vgg11-dlib-taught.json").write_text(json.dumps(figures | {"matrix": [[4, 0], [0, 4]]}))
    (run.parent / "pins-sirius.json").write_text(json.dumps(figures | {"matrix": [[4, 0], [0, 4]]}))
    pins_table.write(run.parent, "pins-curves.png")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| resnet18-dlib-taught | 0 | 1.23 | 2.00 | 87.50 | 50.00 | 25.00 | 33.33 |" in text
    assert "| peer sirius: these photos never seen |  |  |  | 87.50 |" in text
    assert text.count("edgeface train PINS --backbone resnet18") == 2
    assert text.count("edgeface train PINS --backbone mobilefacenet") == 2
    assert [line in text.splitlines() for line in kept.splitlines()] == [True, True]
    assert text.index("| mobilefacenet |") < text.index("| resnet18-dlib-taught |") < text.index("| peer foamliu")
    assert "| vgg11-dlib-taught + PCA + SVC | 0 on 2 threads | 1.23 |" in text
    assert [row["train_loss"] for row in pins_table.curves(run)] == ["5", "1.234"] * 2
    assert {path.name for path in (tmp_path / "images").iterdir()} == {
        "pins-curves.png",
        "pins-resnet18-dlib-taught.png",
        "pins-vgg11-dlib-taught.png",
    }


def test_the_command_that_its_first_lines_name_trains_a_row_after_those_that_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[list[str]] = []
    codes = iter([0, 0, 3])
    monkeypatch.setattr(pins_table, "run", lambda words: asked.append(words) or next(codes))
    words = ["train", "mobilefacenet", "--photos", "prepared", "--peers", "peers", str(tmp_path)]
    assert pins_table.main(words) == 0
    rows = ["mobilefacenet-small", "mobilefacenet"]
    # A stage that is done already is left alone by --resume.
    assert asked == [[*pins_table.command(row, Path("prepared"), Path("peers"), tmp_path), "--resume"] for row in rows]
    assert pins_table.main(words) == 3
    assert len(asked) == 3


def test_a_row_of_dlibs_net_fits_it_once_and_trains_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fitted: list[list[str]] = []
    asked: list[list[str]] = []

    def fit(words: list[str]) -> None:
        fitted.append(words)
        Path(words[-1]).touch()

    monkeypatch.setattr(dlib_start, "main", fit)
    monkeypatch.setattr(pins_table, "run", lambda words: asked.append(words) or 0)
    words = ["train", "vgg11-dlib-taught", "--photos", "prepared", "--peers", "peers", str(tmp_path / "runs")]
    for _ in range(2):
        assert pins_table.main(words) == 0
    (given,) = fitted
    assert given[:2] == ["vgg11:pool=none", str(Path("peers") / "dlib_face_recognition_resnet_model_v1.dat")]
    assert asked[0][asked[0].index("--init") + 1] == given[-1]


def test_the_page_has_the_commands_of_its_rows():
    lines = pins_table.PAGE.read_text("utf-8").splitlines(keepends=True)
    places = (Path("PINS"), Path("PEERS"), Path("runs"))
    assert [
        line for name in pins_table.TRAINING for line in pins_table.commands(name, *places) if line not in lines
    ] == []
