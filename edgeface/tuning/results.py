"""What a search has found: its trials, the best of them, and which settings mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from edgeface.training.setting import shown_value
from edgeface.tuning.plan import OBJECTIVES, SearchPlan
from edgeface.tuning.storage import OpenedStorage

ENOUGH = 4
"""Complete trials below which nothing is said of importance."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One trial, as far as it has come."""

    number: int
    state: str
    """``complete``, ``pruned``, ``failed`` or ``running``."""
    value: float | None
    settings: dict[str, object]
    epochs: int
    seconds: float | None
    run: Path | None
    """Its run folder; None where that lies on another machine."""
    error: str = ""

    def words(self) -> str:
        """Its settings in one line."""
        return ", ".join(f"{key} {shown_value(value)}" for key, value in self.settings.items())


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search has found so far."""

    plan: SearchPlan
    storage: str
    trials: Sequence[Tried]
    importances: Mapping[str, Mapping[str, float]]
    """Evaluator → setting → its share of the importance; empty where trials are too few."""

    @property
    def best(self) -> Tried | None:
        """The complete trial with the best value."""
        known = [trial for trial in self.trials if trial.state == "complete" and trial.value is not None]
        sign = 1 if OBJECTIVES[self.plan.objective] else -1
        return max(known, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def ranked(self) -> list[Tried]:
        """The complete trials, the best first, then all others in their order."""
        sign = -1 if OBJECTIVES[self.plan.objective] else 1
        return sorted(
            self.trials,
            key=lambda trial: (trial.state != "complete", sign * (trial.value or 0.0) * (trial.state == "complete")),
        )

    def counts(self) -> dict[str, int]:
        """State → how many trials are in it."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in ("complete", "pruned", "failed", "running")}

    def as_json(self) -> dict[str, object]:
        """Stable keys, for ``edgeface tune --json``."""
        best = self.best
        found = best and {
            "trial": best.number,
            "value": best.value,
            "settings": best.settings,
            "run": None if best.run is None else str(best.run),
        }
        return {
            "schema": 1,
            "output": str(self.plan.output),
            "storage": self.storage,
            "study": self.plan.study,
            "objective": self.plan.objective,
            "trials": self.counts(),
            "best": found,
            "importances": {name: dict(shares) for name, shares in self.importances.items()},
        }


def read_search(plan: SearchPlan, store: OpenedStorage, study: Study) -> Search:
    """What the study holds, and what importance Optuna gives each setting."""
    trials = [tried(trial, plan) for trial in study.get_trials(deepcopy=False)]
    return Search(plan=plan, storage=store.title, trials=trials, importances=importances(study))


def importances(study: Study) -> dict[str, dict[str, float]]:
    """Evaluator → setting → share of what it explains of the values of the complete trials, the largest first.

    Two evaluators of Optuna: fANOVA (Hutter et al., ICML 2014) over all trials, and PED-ANOVA (Watanabe et al., IJCAI
    2023), which asks what sets the best ones apart.
    """
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(complete) < ENOUGH or len({trial.value for trial in complete}) < 2:
        return {}
    evaluators = {
        "fanova": optuna.importance.FanovaImportanceEvaluator(seed=0),
        "ped_anova": optuna.importance.PedAnovaImportanceEvaluator(),
    }
    found = {}
    for name, evaluator in evaluators.items():
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
        found[name] = {key: float(share) for key, share in shares.items()}
    return found


def tried(trial: FrozenTrial, plan: SearchPlan) -> Tried:
    """A trial as the study knows it."""
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    is_here = trial.user_attrs.get("run") == plan.place(trial.number)
    return Tried(
        number=trial.number,
        state=states.get(trial.state, "running"),
        value=trial.value,
        settings=trial.params,
        epochs=len(trial.intermediate_values),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        run=plan.run(trial.number) if is_here else None,
        error=str(trial.user_attrs.get("error", "")),
    )
