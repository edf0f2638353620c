"""The space of a search: what it may hold, and what is refused before the first trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("optuna")
pytest.importorskip("torch")

from edgeface.cli import run
from edgeface.data.dataset import FaceData
from edgeface.training.config import load_config
from edgeface.tuning.plan import SearchPlan
from edgeface.tuning.space import DEFAULT, described, read_space
from edgeface_runtime import UsageError

Told = Callable[..., Any]


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


def test_values_lie_in_the_space_and_train_as_settings(
    make_plan: Callable[..., SearchPlan], faces: FaceData, told: Told
):
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
        ("[space]\nlt = [1, 2]", r"space\.toml: no setting 'lt'; the nearest is 'lr'"),
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
        (
            '[space]\nloss = ["arcface", "softmax"]',
            {"objective": "loss"},
            "--objective loss: loss of the space changes the loss itself",
        ),
        ("[space]\nepochs = [1, 2]", {}, "--pruner median: epochs are searched"),
    ],
)
def test_trials_that_cannot_be_compared_are_refused(
    make_plan: Callable[..., SearchPlan], space: str, changes: dict[str, object], message: str
):
    with pytest.raises(UsageError, match=message):
        make_plan(space=space, **changes)
