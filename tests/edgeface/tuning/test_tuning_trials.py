"""Searches: what is told of the trials, and trials that end or are killed."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna")
pytest.importorskip("torch")
psutil = pytest.importorskip("psutil")

from edgeface.cli import run
from edgeface.data.dataset import FaceData
from edgeface.report.tuning import write_page
from edgeface.tuning.plan import SearchPlan
from edgeface.tuning.results import Search, read_search
from edgeface.tuning.search import tune

Told = Callable[..., Any]

# ---- what is told


@pytest.fixture
def known(make_plan: Callable[..., SearchPlan], faces: FaceData, told: Told) -> Search:
    """Thirty trials whose accuracy is decided by the learning rate alone."""
    plan = make_plan(trials=30)
    store, study = told(plan, faces, lambda params: 1 - abs(np.log10(params["lr"]) + 2.5), 30)
    return read_search(plan, store, study)


def test_both_evaluators_find_the_setting_that_decides(known: Search):
    assert known.importances.keys() == {"fanova", "ped_anova"}
    for shares in known.importances.values():
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["lr"] > 0.8
    assert known.best is not None
    assert known.best.value == max(trial.value for trial in known.trials)
    values = [trial.value for trial in known.ranked()]
    assert values == sorted(values, reverse=True)


def test_the_page_needs_no_other_file_and_shows_every_trial(known: Search, tmp_path: Path):
    write_page(tmp_path / "report.html", known)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", page)
    for trial in known.trials:
        assert page.count(f'<th scope="row">{trial.number}</th>') == 1
    assert page.count("<svg") == 2 + len(known.plan.space)
    assert "0.001 to 0.01 (log)" in page


def test_a_finished_search_says_what_it_found(
    known: Search, att_people: Path, capsys: pytest.CaptureFixture[str], small: list[str]
):
    plan = known.plan
    words = ["tune", str(att_people), "-o", str(plan.output), "--space", str(plan.output.parent / "space.toml")]
    words += ["--trials", "30", "--epochs", "8", *small]
    assert run([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["trials"] == {"complete": 30, "pruned": 0, "failed": 0, "running": 0}
    assert document["best"]["value"] == known.best.value
    assert document["best"]["settings"] == known.best.settings
    assert document["best"]["run"] is None  # these trials have no run folder here
    assert Path(document["report"]).exists()


def test_time_that_is_over_starts_nothing(
    make_plan: Callable[..., SearchPlan], att_people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make_plan()
    words = ["tune", str(att_people), "-o", str(tmp_path / "out"), "--space", str(tmp_path / "space.toml")]
    assert run([*words, "--minutes", "0"]) == 0
    out, err = capsys.readouterr()
    assert "0 minutes are over; the same command goes on" in err
    assert f"no trial yet; {tmp_path / 'out'}/report.html" in out
    assert "No trial is complete." in (tmp_path / "out" / "report.html").read_text()


# ---- real trials


def trial_of(number: int, children: Callable[[], list[object]]) -> int | None:
    """The process of a trial, once it trains."""
    for child in children():
        with contextlib.suppress(psutil.Error):
            if f"{number:04}" in (Path(word).name for word in child.cmdline()):
                return child.pid
    return None


@contextlib.contextmanager
def killing(number: int) -> Iterator[None]:
    """Kills the process of a trial as soon as there is one."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            if (pid := trial_of(number, psutil.Process().children)) is not None:
                os.kill(pid, signal.SIGKILL)
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def test_a_killed_trial_fails_alone_and_the_best_is_a_run_folder(
    make_plan: Callable[..., SearchPlan], faces: FaceData, att_people: Path, tmp_path: Path, listener, told: Told
):
    shared = str(tmp_path / "shared.journal")
    told(make_plan(epochs=1, output=tmp_path / "elsewhere", storage=shared), faces, lambda _: 0.0, 1)
    plan = make_plan(epochs=1, folder=att_people, trials=4, workers=2, storage=shared)
    with killing(2):
        found = tune(faces, plan, listener)
    assert found.counts() == {"complete": 3, "pruned": 0, "failed": 1, "running": 0}
    assert found.trials[2].error == "killed by SIGKILL"
    assert any(line.startswith("trial 2: failed: killed by SIGKILL") for line in listener.said)
    assert [trial.run and trial.run.name for trial in found.trials] == [None, "0001", "0002", "0003"]
    best, link = found.best, plan.output / "best"
    assert best is not None
    assert link.resolve() == best.run
    document = json.loads((link / "run.json").read_text())
    assert document["config"]["optim"]["lr"] == best.settings["lr"]
    assert document["config"]["head"]["loss"] == best.settings["loss"]
    with (link / "curves.csv").open(newline="") as file:
        assert [float(row["val_accuracy"]) for row in csv.DictReader(file)] == [best.value]
    assert run(["eval", str(link), "--data", str(att_people)]) == 0


def test_a_trial_behind_the_others_is_ended(
    make_plan: Callable[..., SearchPlan], faces: FaceData, att_people: Path, told: Told
):
    plan = make_plan(epochs=3, folder=att_people, trials=6)
    told(plan, faces, lambda _: 1.0, 5)
    found = tune(faces, plan)
    (last,) = found.trials[5:]
    assert (last.state, last.epochs) == ("pruned", 1)
    assert found.best.number < 5


@pytest.mark.slow
def test_a_stopped_search_goes_on_where_it_was(
    make_plan: Callable[..., SearchPlan], att_people: Path, tmp_path: Path, small: list[str]
):
    make_plan()
    words = ["tune", str(att_people), "-o", str(tmp_path / "out"), "--space", str(tmp_path / "space.toml")]
    words += ["--epochs", "2", "--trials", "1", "--json", *small]
    command = [sys.executable, "-m", "edgeface", *words]
    stopped = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    curves = tmp_path / "out" / "trials" / "0000" / "curves.csv"
    while not curves.exists():
        assert stopped.poll() is None
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate(timeout=120)
    assert (stopped.returncode, out) == (130, "")
    assert "the same command goes on, also with those under way" in err
    first = curves.read_text().splitlines()[:2]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["trials"] == {"complete": 1, "pruned": 0, "failed": 0, "running": 0}
    assert curves.read_text().splitlines()[:2] == first
    assert len(curves.read_text().splitlines()) == 3
