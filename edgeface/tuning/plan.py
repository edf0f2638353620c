"""What a search is to try, by which figure, and with how much time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from edgeface.data.dataset import FaceData
from edgeface.training.config import TrainConfig, as_dict, by_key
from edgeface.tuning.space import Space, as_words
from edgeface_runtime import UsageError

TRIALS = "trials"
OBJECTIVES = {"accuracy": True, "loss": False}
"""What trials are compared by, on the validation photos → whether more is better."""
PRUNERS: Mapping[str, Callable[[int], BasePruner]] = {
    # Rates and margins rise in the first epochs: what a trial shows there says little.
    "median": lambda epochs: MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 4),
    "halving": lambda epochs: SuccessiveHalvingPruner(min_resource=max(1, epochs // 9), reduction_factor=3),
    "none": lambda epochs: NopPruner(),
}
INCOMPARABLE = ("loss", "logit_scale", "margin", "classification_weight", "distill_weight", "hint_weight")
"""Settings that change the loss itself, so that losses under two values say nothing about which is better."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What is searched, and with how much."""

    folder: Path
    """The photos."""
    output: Path
    config: TrainConfig
    """Every setting that is not searched."""
    space: Space
    words: tuple[str, ...] = ()
    """More words for ``edgeface train``."""
    trials: int = 20
    minutes: float | None = None
    workers: int = 1
    objective: str = "accuracy"
    pruner: str = "median"
    storage: str | None = None
    """None: an SQLite file in ``output``."""
    study: str = "edgeface"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective == "loss" and (found := [key for key in INCOMPARABLE if key in self.space]):
            raise UsageError(
                f"--objective loss: {', '.join(found)} of the space changes the loss itself; take --objective accuracy"
            )
        if self.pruner != "none" and "epochs" in self.space:
            raise UsageError(
                f"--pruner {self.pruner}: epochs are searched, and longer trials learn slower: --pruner none"
            )
        if not self.config.distill.classification_weight:
            raise UsageError("classification_weight=0: no photo is named, so trials have no accuracy to compare")

    def settings(self, tried: Mapping[str, object]) -> dict[str, object]:
        """Every setting of a trial, those that are searched first."""
        rest = {key: value for key, value in by_key(as_dict(self.config)).items() if key not in self.space}
        return {**tried, **rest}

    def card(self, data: FaceData) -> dict[str, object]:
        """What must not change while a study goes on."""
        space, settings = as_words(self.space), self.settings({})
        more = {"photos": data.sha256, "objective": self.objective, "options": list(self.words)}
        return {"space": space, "settings": settings, **more}

    def run(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.output / TRIALS / f"{number:04}"

    def place(self, number: int) -> str:
        """A run folder by machine and path, as other machines that share the storage name it."""
        return f"{socket.gethostname()}:{self.run(number).resolve()}"
