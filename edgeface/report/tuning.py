"""The page of ``edgeface tune``."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from edgeface.report.pictures import COLOURS, STYLE, as_svg
from edgeface.templates import environment
from edgeface.tuning.results import ENOUGH, Search, Tried
from edgeface.tuning.space import described
from edgeface_runtime.files import write_text

EVALUATORS = {"fanova": "fANOVA, over all trials", "ped_anova": "PED-ANOVA, among the best"}
_WELL = 20
"""Complete trials from which on importances are steady."""


def write_page(path: Path, found: Search) -> None:
    """Writes one HTML page that needs no other file, whole or not at all.

    Args:
        path: the file.
        found: the trials and what they say.

    Raises:
        UsageError: the file cannot be written.
    """
    counts = found.counts()
    with matplotlib.rc_context(STYLE):
        pictures = {
            "history": as_svg(draw_history(found)) if counts["complete"] else "",
            "importances": as_svg(draw_importances(found.importances)) if found.importances else "",
            "settings": [(key, as_svg(draw_setting(found, key))) for key in found.plan.space]
            if counts["complete"]
            else [],
        }
    page = (
        environment(Path(__file__).parent)
        .get_template("tuning.html.j2")
        .render(
            found=found,
            plan=found.plan,
            counts=counts,
            space={key: described(distribution) for key, distribution in found.plan.space.items()},
            enough=ENOUGH,
            is_steady=counts["complete"] >= _WELL,
            made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            version=importlib.metadata.version("edgeface"),
            optuna=importlib.metadata.version("optuna"),
            **pictures,
        )
    )
    write_text(path, page)


def draw_history(found: Search) -> Figure:
    """The value of each trial in its order, and the best so far."""
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    _points(axes, found, lambda trial: trial.number)
    best, line = None, []
    sign = 1 if found.plan.objective == "accuracy" else -1
    for trial in _valued(found, "complete"):
        best = trial.value if best is None else sign * max(sign * best, sign * (trial.value or 0.0))
        line.append((trial.number, best))
    axes.step(*zip(*line, strict=True), where="post", color=COLOURS["onnx"], label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"validation {found.plan.objective}")
    axes.grid(alpha=0.12)
    figure.legend(loc="outside upper left", frameon=False, ncols=3, fontsize=9)
    return figure


def draw_importances(importances: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar for each setting and evaluator."""
    keys = [*next(iter(importances.values()))][::-1]
    figure = Figure(figsize=(5.6, 1.0 + 0.5 * len(keys)), layout="constrained")
    axes = figure.subplots()
    for place, (name, colour) in enumerate(zip(EVALUATORS, ("onnx", "tflite"), strict=True)):
        shares = [100 * importances[name].get(key, 0.0) for key in keys]
        rows = [index + 0.2 - 0.4 * place for index in range(len(keys))]
        axes.barh(rows, shares, height=0.36, color=COLOURS[colour], label=EVALUATORS[name])
    axes.set_yticks(range(len(keys)), keys)
    axes.set_xlabel("share of the importance, %")
    axes.grid(axis="x", alpha=0.12)
    figure.legend(loc="outside upper left", frameon=False, ncols=1, fontsize=9)
    return figure


def draw_setting(found: Search, key: str) -> Figure:
    """The value of each trial against one setting."""
    figure = Figure(figsize=(3.4, 2.6), layout="constrained")
    axes = figure.subplots()
    distribution = found.plan.space[key]
    if isinstance(distribution, CategoricalDistribution):
        names = [str(choice) for choice in distribution.choices]
        _points(axes, found, lambda trial: names.index(str(trial.settings[key])))
        axes.set_xticks(range(len(names)), names, rotation=20 if len(names) > 3 else 0)
        axes.set_xlim(-0.5, len(names) - 0.5)
    else:
        assert isinstance(distribution, (FloatDistribution, IntDistribution))
        _points(axes, found, lambda trial: float(str(trial.settings[key])))
        if distribution.log:
            low, high = distribution.low, distribution.high
            ticks = [low, math.sqrt(low * high), high]
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.set_xticks([], minor=True)
    axes.set_xlabel(key)
    axes.set_ylabel(found.plan.objective)
    axes.grid(alpha=0.12)
    return figure


def _points(axes: Axes, found: Search, across: Callable[[Tried], float]) -> None:
    for state, colour in (("complete", COLOURS["onnx"]), ("pruned", COLOURS["tflite"])):
        trials = _valued(found, state)
        x, y = [across(trial) for trial in trials], [trial.value or 0.0 for trial in trials]
        fill = colour if state == "complete" else "none"
        axes.scatter(x, y, s=26, facecolors=fill, edgecolors=colour, label=state, zorder=3)


def _valued(found: Search, state: str) -> list[Tried]:
    return [trial for trial in found.trials if trial.state == state and trial.value is not None]
