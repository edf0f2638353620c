"""Where a search is recorded: files and studies of something else are left alone."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")
pytest.importorskip("torch")

from edgeface.cli import run
from edgeface.data.dataset import FaceData
from edgeface.training.config import load_config
from edgeface.tuning.plan import SearchPlan
from edgeface.tuning.search import tune
from edgeface.tuning.storage import open_store
from edgeface_runtime import UsageError

Told = Callable[..., Any]


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


def test_a_locked_file_is_named(make_plan: Callable[..., SearchPlan], faces: FaceData, told: Told):
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
        (
            {"space": '[space]\nlr = { low = 1e-3, high = 1e-2, log = true }\nloss = ["arcface", "cosface"]'},
            r"was begun otherwise \(space: loss\)",
        ),
        ({"epochs": 9}, r"was begun otherwise \(settings: epochs\)"),
        ({"words": ("--init", "imagenet")}, r"was begun otherwise \(options\)"),
    ],
)
def test_a_study_of_something_else_is_refused(
    make_plan: Callable[..., SearchPlan], faces: FaceData, changes: dict[str, object], message: str, told: Told
):
    told(make_plan(), faces, lambda _: 0.5, 1)
    with pytest.raises(UsageError, match=message):
        tune(faces, make_plan(**changes))


def test_other_photos_and_a_study_of_another_tool_are_refused(
    make_plan: Callable[..., SearchPlan], faces: FaceData, told: Told
):
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


def test_a_wrong_backbone_is_told_before_photos_are_opened(capsys: pytest.CaptureFixture[str]):
    assert run(["tune", "nowhere", "--backbone", "resnet19"]) == 2
    assert "no backbone 'resnet19'" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(make_plan: Callable[..., SearchPlan], faces: FaceData):
    plan = make_plan()
    plan.output.mkdir()
    (plan.output / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="exists and holds files that are no such run"):
        tune(faces, plan)
    assert [path.name for path in plan.output.iterdir()] == ["letter.txt"]
