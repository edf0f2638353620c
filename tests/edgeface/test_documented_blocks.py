"""The Python blocks of the pages that need a workstation run as they stand."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = runpy.run_path(str(ROOT / "tests" / "journeys" / "follow.py"))["blocks"]


@pytest.fixture
def here(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages' reader has: photos and a run."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "photos").symlink_to(trained.photos)
    (tmp_path / "runs" / "train").symlink_to(trained.run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(page: str) -> dict[str, Any]:
    """The names after a page's blocks."""
    names: dict[str, Any] = {}
    code = [block["code"] for block in BLOCKS(ROOT / "docs" / page) if block["needs"] == "workstation"]
    assert code
    exec("\n".join(code), names)
    return names


def test_bench_measures_and_reports(here: Path, trained: Any, capsys: pytest.CaptureFixture[str]):
    (here / "models").mkdir()
    (here / "models" / "net.int8.tflite").symlink_to(trained.file("int8", "tflite"))
    follow("bench.md")
    (row,) = capsys.readouterr().out.splitlines()
    assert " ms " in row
    assert "our photos" in (here / "report.html").read_text(encoding="utf-8")


def test_a_prepared_set_and_its_pairs_are_read(here: Path, trained: Any):
    from edgeface.data.prepare import prepare

    for person in ("s1", "s2"):
        (here / "lfw" / "images" / person).mkdir(parents=True)
        for take in (1, 2):
            copy = here / "lfw" / "images" / person / f"{person}_{take:04d}.pgm"
            shutil.copy(trained.photos / person / f"{take}.pgm", copy)
    prepare(here / "lfw" / "images", here / "prepared" / "lfw")
    pairs = ["2", "s1\t1\t2", "s2\t1\t2", "s1\t1\ts2\t1", "s1\t2\ts2\t2"]
    (here / "lfw" / "pairsDevTest.txt").write_text("\n".join(pairs) + "\n")
    names = follow("data.md")
    assert names["same"].tolist() == [True, True, False, False]
    assert names["faces"][names["index"]].shape == (4, 2, 112, 112, 3)


def test_training_prints_nothing(here: Path, trained: Any, capsys: pytest.CaptureFixture[str]):
    (here / "prepared").symlink_to(trained.photos)
    names = follow("training.md")
    assert (names["config"].schedule.epochs, names["config"].head.logit_scale) == (10, 30.0)
    assert (here / "runs" / "mine" / "best.safetensors").exists()
    assert capsys.readouterr().out == ""


def test_a_run_is_exported(here: Path):
    # A net that tells people apart: one of two epochs does not, and an export refuses it.
    (here / "runs" / "train").unlink()
    (here / "runs" / "train").mkdir()
    weights = ROOT / "weights" / "mobilefacenet-tiny.safetensors"
    (here / "runs" / "train" / "best.safetensors").symlink_to(weights)
    made = follow("export.md")["made"]
    assert sorted(file.precision for file in made.files) == ["fp32", "fp32", "int8", "int8"]
