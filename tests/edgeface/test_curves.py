"""The rows of a run's curves, and the time that it says is left."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from edgeface.training.config import load_config
from edgeface.training.schedule import Clock, Epoch, in_words, read_curves, write_curves

ROW = Epoch(1, 2.5, 0.25, None, 3.0, 0.5, None, 1e-3, 0.3, 112, 10.0)


def test_curves_are_read_as_they_were_written(tmp_path: Path):
    rows = [ROW, replace(ROW, epoch=2, val_loss=None, val_accuracy=None, train_cosine=0.1 + 0.2, seconds=None)]
    write_curves(rows, tmp_path / "curves.csv")
    assert [asdict(row) for row in read_curves(tmp_path / "curves.csv")] == [asdict(row) for row in rows]
    assert read_curves(tmp_path / "none.csv") == []


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.titles: list[str] = []

    def say(self, line: str, *, heading: bool = False) -> None:
        self.lines.append(line)

    def track(self, items: Any, title: str) -> Any:
        self.titles.append(title)
        return iter(items)


def test_the_time_left_is_that_of_the_whole_run():
    """Steps of 2 s at 112 pixels, of a quarter as much at 56; 30 steps an epoch."""
    now, told = [100.0], Told()
    config = load_config(epochs=4, progressive_size=56, progressive_ratio=0.5)
    clock, curves = Clock(config, lambda: now[0]), list[Epoch]()
    assert clock.rest(curves) == ""
    for epoch in range(4):
        side = 56 if epoch < 2 else 112
        for _ in clock.track(range(30), curves, told):
            now[0] += 0.5 if side == 56 else 2.0
        curves.append(replace(ROW, epoch=epoch + 1, side=side, seconds=clock.lap()))
    assert told.lines == ["about 2 min in all, validation not counted"]  # 15 + 15 + 60 + 60 s
    left = ["", ", 2 min left", ", 2 min left", ", 60 s left"]
    assert told.titles == [f"epoch {epoch}/4{rest}" for epoch, rest in enumerate(left, 1)]
    assert [row.seconds for row in curves] == [15, 15, 60, 60]
    assert clock.rest(curves) == ""


def test_the_first_step_which_may_compile_says_nothing_of_the_others():
    now, told = [100.0], Told()
    clock = Clock(load_config(epochs=2), lambda: now[0])
    for step in clock.track(range(30), [], told):
        now[0] += 2.0 if step else 500.0
    assert told.lines == ["about 2 min in all, validation not counted"]


def test_times_in_words():
    assert [in_words(seconds) for seconds in (0.4, 99, 100, 3540, 3600, 11100)] == [
        "0 s", "99 s", "2 min", "59 min", "1 h 0 min", "3 h 5 min",
    ]  # fmt: skip
