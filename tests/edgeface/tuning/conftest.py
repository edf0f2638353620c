"""A search on a few photos, to be changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData
    from edgeface.tuning.plan import SearchPlan
    from edgeface.tuning.storage import OpenedStorage

SPACE = """[space]
lr = { low = 1e-3, high = 1e-2, log = true }
loss = ["arcface", "softmax"]
"""
SMALL = ("backbone=mobilefacenet-tiny", "batch_size=16", "progressive_size=32", "progressive_ratio=0.99")


@pytest.fixture
def small() -> list[str]:
    """The settings of ``make_plan``'s trials, as words of a command."""
    return [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., SearchPlan]:
    """``make_plan(**changes)``: a search on ``tmp_path/people`` into ``tmp_path/out``."""
    from edgeface.training.config import load_config
    from edgeface.tuning.plan import SearchPlan
    from edgeface.tuning.space import read_space

    def make(epochs: int = 8, space: str = SPACE, **changes: object) -> SearchPlan:
        (tmp_path / "space.toml").write_text(space)
        config = load_config(None, SMALL, epochs=epochs)
        found = read_space(tmp_path / "space.toml", config)
        plan = SearchPlan(folder=tmp_path / "people", output=tmp_path / "out", config=config, space=found)
        return replace(plan, **changes)

    return make


@pytest.fixture
def faces(att_people: Path) -> FaceData:
    from edgeface.data.dataset import load_data

    return load_data(att_people)


@pytest.fixture
def told() -> Callable[..., Any]:
    """``told(plan, faces, values, count)``: the study after ``count`` complete trials of two epochs with these values,
    chosen by Optuna, and its store."""
    import optuna

    from edgeface.tuning.storage import open_store, open_study

    def tell(
        plan: SearchPlan, data: FaceData, values: Callable[[dict[str, object]], float], count: int
    ) -> tuple[OpenedStorage, object]:
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

    return tell
