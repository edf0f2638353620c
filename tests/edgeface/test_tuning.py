"""Searches over settings: the space, the storage, what is told of the trials, and trials that end or are killed."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")
pytest.importorskip("torch")
psutil = pytest.importorskip("psutil")

from edgeface.cli import run
from edgeface.data.dataset import FaceData, load_data
from edgeface.report.tuning import write_page
from edgeface.training.config import load_config
from edgeface.tuning.plan import SearchPlan
from edgeface.tuning.results import Search, read_search
from edgeface.tuning.search import tune
from edgeface.tuning.space import DEFAULT, described, read_space
from edgeface.tuning.storage import OpenedStorage, open_store, open_study
from edgeface_runtime import UsageError

SPACE = """[space]
lr = { low = 1e-3, high = 1e-2, log = true }
loss = ["arcface", "softmax"]
"""
SMALL = ("backbone=mobilefacenet-tiny", "batch_size=16", "progressive_size=32", "progressive_ratio=0.99")


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., SearchPlan]:
    """``make_plan(**changes)``: a search on ``tmp_path/people`` into ``tmp_path/out``."""

    def make(epochs: int = 8, space: str = SPACE, **changes: object) -> SearchPlan:
        (tmp_path / "space.toml").write_text(space)
        config = load_config(None, SMALL, epochs=epochs)
        found = read_space(tmp_path / "space.toml", config)
        plan = SearchPlan(folder=tmp_path / "people", output=tmp_path / "out", config=config, space=found)
        return replace(plan, **changes)

    return make


@pytest.fixture
def faces(att_people: Path) -> FaceData:
    return load_data(att_people)


def told(
    plan: SearchPlan, data: FaceData, values: Callable[[dict[str, object]], float], count: int
) -> tuple[OpenedStorage, object]:
    """The study of a plan after ``count`` complete trials of two epochs with these values, chosen by Optuna."""
    plan.output.mkdir()
    (plan.output / "tune.json").touch()
    store = open_store(plan.storage or str(plan.output / "study.db"))
    study = open_study(store, plan.study, plan.card(data), maximize=True, is_own=plan.storage is None)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    for _ in range(count):
        trial = study.ask(fixed_distributions=dict(plan.space))
        value = values(trial.params)
        for epoch in (1, 2):
            trial.report(value, epoch)
        study.tell(trial, value)
    return store, study


# ---- the space


def test_the_space_is_read_as_written(make_plan: Callable[..., SearchPlan]):
    plan = make_plan(
        space="""[space]
loss = ["arcface", "cosface"]
optim.lr = { low = 1e-3, high = 1, log = true }
batch_size = { low = 16, high = 48, step = 16 }
fit_embedding = [true, false]
erase_prob = [0, 0.5]
"""
    )
    assert {key: described(found) for key, found in plan.space.items()} == {
        "loss": "arcface, cosface",
        "lr": "0.001 to 1 (log)",
        "batch_size": "16 to 48 in steps of 16",
        "fit_embedding": "true, false",
        "erase_prob": "0, 0.5",
    }


def test_values_lie_in_the_space_and_train_as_settings(make_plan: Callable[..., SearchPlan], faces: FaceData):
    plan = make_plan(space="[space]\nlr = { low = 1e-3, high = 1e-2, log = true }\nbatch_size = [8, 16]")
    _, study = told(plan, faces, lambda _: 0.5, 12)
    tried = [trial.params for trial in study.trials]
    assert {params["batch_size"] for params in tried} == {8, 16}
    rates = [params["lr"] for params in tried]
    assert 1e-3 <= min(rates) < 2e-3
    assert 5e-3 < max(rates) <= 1e-2
    document = plan.settings(tried[0])
    config = load_config(None, [f"{key}={json.dumps(value)}" for key, value in document.items()])
    assert (config.optim.lr, config.data.batch_size) == (tried[0]["lr"], tried[0]["batch_size"])
    assert config.model == plan.config.model


def test_the_help_names_the_default_space(capsys: pytest.CaptureFixture[str]):
    assert run(["tune", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for key, distribution in read_space(DEFAULT, load_config()).items():
        assert f"{key} {described(distribution)}" in shown


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("[space]\nlt = [1, 2]", "no setting 'lt'; the nearest is 'lr'"),
        ("[space]\nlr = 0.1", r"lr = 0.1: write it as \{ low = …, high = … \}"),
        ("[space]\nlr = { low = 1, high = 0.1 }", "low must be below high"),
        ("[space]\nlr = { low = 0.0, high = 0.1, log = true }", r"lr = \{.*\}: .*log"),
        ("[space]\nlr = { low = 0.1, high = 1.0, steps = 3 }", "write it as"),
        ("[space]\nlr = { low = -1, high = 1 }", "lr=-1.0: must be above 0"),
        ("[space]\nlr = [0.1]", "needs two values or more"),
        ("[space]\nlr = ['fast', 'slow']", "each a float"),
        ("[space]\nbatch_size = { low = 16, high = 50, step = 16 }", r"batch_size = \{.*\}: .*divisible"),
        ("[space]\nbatch_size = { low = 16.5, high = 50 }", "are of type int"),
        ("[space]\nloss = { low = 1, high = 2 }", "write it as a list of values"),
        ("[space]\nloss = ['arcface', 'arcfase']", "arcfase"),
        ("[space]\nbackbone = ['resnet18', 'resnet19']", "resnet19"),
        ("[space]\nmargin = { low = 0.1, high = 9 }", "margin=9.0: must be 0 to 1.6 radians"),
        ("lr = [0.1, 0.2]", r"needs one table, \[space\]"),
        ("[space]", r"needs one table, \[space\]"),
        ("[space", "space.toml: "),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_line(make_plan: Callable[..., SearchPlan], space: str, message: str):
    with pytest.raises(UsageError, match=message) as refused:
        make_plan(space=space)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        (SPACE, {"objective": "loss"}, "--objective loss: loss of the space changes the loss itself"),
        ("[space]\nepochs = [1, 2]", {}, "--pruner median: epochs are searched"),
    ],
)
def test_trials_that_cannot_be_compared_are_refused(
    make_plan: Callable[..., SearchPlan], space: str, changes: dict[str, object], message: str
):
    with pytest.raises(UsageError, match=message):
        make_plan(space=space, **changes)


# ---- the storage


def test_an_sqlite_file_of_something_else_keeps_its_bytes(tmp_path: Path):
    file = tmp_path / "people.gallery"
    with contextlib.closing(sqlite3.connect(file)) as base:
        base.execute("CREATE TABLE photos (id INTEGER)")
        base.commit()
    before = file.read_bytes()
    with pytest.raises(UsageError, match=r"an SQLite file of something else \(its tables: photos\)"):
        open_store(str(file))
    with pytest.raises(UsageError, match="an SQLite file of something else"):
        open_store(f"sqlite:///{file}")
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["notes.txt", "notes.log"])
def test_a_file_that_is_no_storage_keeps_its_bytes(tmp_path: Path, name: str):
    (file := tmp_path / name).write_text("to do: everything\n" * 99)
    with pytest.raises(UsageError, match=rf"{name}: (exists and is no journal|cannot be used as storage)"):
        open_store(str(file))
    assert file.read_text() == "to do: everything\n" * 99


def test_a_locked_file_is_named(make_plan: Callable[..., SearchPlan], faces: FaceData):
    plan = make_plan()
    told(plan, faces, lambda _: 0.5, 1)
    with contextlib.closing(sqlite3.connect(plan.output / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UsageError, match=r"study.db: another program holds it \(database is locked\)"):
            tune(faces, plan)
    assert len(optuna.load_study(study_name="edgeface", storage=f"sqlite:///{plan.output}/study.db").trials) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://x/y", "sqlalchemy.dialects:nonsense"),
        ("postgresql://me:secret@localhost/optuna", r"postgresql://me:\*\*\*@localhost/optuna: Failed to import DB"),
        ("sqlite:////nowhere/to/be.db", "unable to open database file"),
        ("nowhere/to/be.db", "its folder does not exist"),
    ],
)
def test_a_storage_that_does_not_answer_is_told_in_one_line(url: str, message: str):
    with pytest.raises(UsageError, match=message) as refused:
        open_store(url)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": "faces"}, "holds the study 'edgeface', not 'faces': --study edgeface"),
        ({"space": SPACE.replace("softmax", "cosface")}, r"was begun otherwise \(space: loss\)"),
        ({"epochs": 9}, r"was begun otherwise \(settings: epochs\)"),
        ({"words": ("--init", "imagenet")}, r"was begun otherwise \(options\)"),
    ],
)
def test_a_study_of_something_else_is_refused(
    make_plan: Callable[..., SearchPlan], faces: FaceData, changes: dict[str, object], message: str
):
    told(make_plan(), faces, lambda _: 0.5, 1)
    with pytest.raises(UsageError, match=message):
        tune(faces, make_plan(**changes))


def test_other_photos_and_a_study_of_another_tool_are_refused(make_plan: Callable[..., SearchPlan], faces: FaceData):
    told(make_plan(), faces, lambda _: 0.5, 1)
    with pytest.raises(UsageError, match=r"was begun otherwise \(photos\)"):
        tune(replace(faces, faces=255 - faces.faces), make_plan())
    storage = f"sqlite:///{make_plan().output.parent}/other.db"
    study = optuna.create_study(storage=storage, study_name="edgeface")
    study.tell(study.ask(), 1.0)
    with pytest.raises(UsageError, match="'edgeface' is not of edgeface tune; name another with --study"):
        tune(faces, make_plan(storage=storage))


def test_photos_that_nothing_validates_are_refused(make_plan: Callable[..., SearchPlan], faces: FaceData):
    plan = make_plan()
    with pytest.raises(UsageError, match="no photo validates"):
        tune(replace(faces, split=np.where(faces.split == "val", "train", faces.split)), plan)
    assert not plan.output.exists()


def test_a_batch_of_more_faces_than_there_are_is_said_before_the_first_trial(
    make_plan: Callable[..., SearchPlan], faces: FaceData
):
    plan = make_plan(config=load_config(batch_size=500))
    with pytest.raises(UsageError, match=r"batch_size is 500, more than the .* training photos: --set batch_size="):
        tune(faces, plan)
    assert not plan.output.exists()


def test_a_folder_of_something_else_is_left_alone(make_plan: Callable[..., SearchPlan], faces: FaceData):
    plan = make_plan()
    plan.output.mkdir()
    (plan.output / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="exists and was not made by edgeface"):
        tune(faces, plan)
    assert [path.name for path in plan.output.iterdir()] == ["letter.txt"]


# ---- what is told


@pytest.fixture
def known(make_plan: Callable[..., SearchPlan], faces: FaceData) -> Search:
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


def test_a_finished_search_says_what_it_found(known: Search, att_people: Path, capsys: pytest.CaptureFixture[str]):
    plan = known.plan
    words = ["tune", str(att_people), "-o", str(plan.output), "--space", str(plan.output.parent / "space.toml")]
    words += ["--trials", "30", "--epochs", "8", *(word for setting in SMALL for word in ("--set", setting))]
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
    make_plan: Callable[..., SearchPlan], faces: FaceData, att_people: Path, tmp_path: Path, listener
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


def test_a_trial_behind_the_others_is_ended(make_plan: Callable[..., SearchPlan], faces: FaceData, att_people: Path):
    plan = make_plan(epochs=3, folder=att_people, trials=6)
    told(plan, faces, lambda _: 1.0, 5)
    found = tune(faces, plan)
    (last,) = found.trials[5:]
    assert (last.state, last.epochs) == ("pruned", 1)
    assert found.best.number < 5


@pytest.mark.slow
def test_a_stopped_search_goes_on_where_it_was(make_plan: Callable[..., SearchPlan], att_people: Path, tmp_path: Path):
    make_plan()
    words = ["tune", str(att_people), "-o", str(tmp_path / "out"), "--space", str(tmp_path / "space.toml")]
    words += ["--epochs", "2", "--trials", "1", "--json", *(word for setting in SMALL for word in ("--set", setting))]
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
