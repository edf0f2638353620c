"""``edgeface tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from edgeface.cli.console import Json, TerminalReporter, print_json, print_table
from edgeface.cli.train import BACKBONE, LICENCE, SETTING

SPACE = (
    "TOML file with a table [space]: key = { low, high, log, step } or a list of values, for any setting.  "
    "[default: lr 0.001 to 0.01 (log), weight_decay 0.01 to 0.2 (log), logit_scale 8 to 64 (log), margin 0.1 to 0.5, "
    "erase_prob 0 to 0.3]"
)
STORAGE = (
    "Where trials are recorded, for several machines: an SQLite file, a .journal file (for network drives), or a "
    "database's URL.  [default: study.db in the output folder]"
)
PRUNER = (
    "Ends trials early: median (behind the median of the others at the same epoch), halving (successive halving) "
    "or none."
)
SHOWN = 5
INIT = "Weights that each trial starts from: what --init of train takes."


Objective: TypeAlias = Literal["accuracy", "loss"]
Pruner: TypeAlias = Literal["median", "halving", "none"]


def tune(
    data: Annotated[Path, typer.Argument(help="Folder of <identity>/<photo>, or one made by edgeface data prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("runs/tune"),
    space: Annotated[Path | None, typer.Option(metavar="FILE", help=SPACE)] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls included.")] = 20,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so long; the same command goes on.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials at a time, each a process.")] = 1,
    objective: Annotated[Objective, typer.Option(help="Figure of the validation photos.")] = "accuracy",
    pruner: Annotated[Pruner, typer.Option(help=PRUNER)] = "median",
    backbone: Annotated[str | None, typer.Option(help=BACKBONE)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the photos, in each trial.  [default: 25]")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of the settings that are not searched.")
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SETTING)] = None,
    init: Annotated[str | None, typer.Option(metavar="WEIGHTS", help=INIT)] = None,
    licence: Annotated[str | None, typer.Option(metavar="TEXT", help=LICENCE)] = None,
    storage: Annotated[str | None, typer.Option(metavar="FILE|URL", help=STORAGE)] = None,
    study: Annotated[str, typer.Option(help="Name of the study in the storage.")] = "edgeface",
    seed: Annotated[int, typer.Option(min=0, help="Of the values that are tried.")] = 0,
    json: Json = False,
) -> None:
    """Search the settings of a training run.

    Each trial is a training run with settings that Optuna chooses; those that fall behind are ended early. Writes
    trials/ (a run folder each), best (a link to the best run), report.html and study.db. Stopped at any
    moment, the same command goes on, also on several machines at once with --storage.

    \b
    Examples:
      edgeface tune prepared/ --epochs 10 --trials 30
      edgeface tune prepared/ --space space.toml --minutes 120 --workers 2 -o runs/search
      edgeface tune prepared/ --storage postgresql://me@host/optuna --study faces
    """
    from edgeface.data.dataset import open_faces
    from edgeface.report.runs import read_run
    from edgeface.report.tuning import write_page
    from edgeface.training.config import load_config
    from edgeface.training.init.start import settings_of
    from edgeface.training.training_state import check_names
    from edgeface.tuning.plan import SearchPlan
    from edgeface.tuning.search import tune as run
    from edgeface.tuning.space import DEFAULT, read_space

    reporter = TerminalReporter()
    base = settings_of(init) if init else {}
    settings = load_config(config, setting or (), base=base, reporter=reporter, backbone=backbone, epochs=epochs)
    options = {"--init": init, "--licence": licence}
    plan = SearchPlan(
        folder=data,
        output=output,
        config=settings,
        space=read_space(space or DEFAULT, settings, reporter),
        words=tuple(word for option, value in options.items() if value is not None for word in (option, value)),
        trials=trials,
        minutes=minutes,
        workers=workers,
        objective=objective,
        pruner=pruner,
        storage=storage,
        study=study,
        seed=seed,
    )
    check_names(settings)
    faces = open_faces(data, size=settings.model.input_size, reporter=reporter)
    found = run(faces, plan, reporter)
    write_page(output / "report.html", found)
    if json:
        print_json(found.as_json() | {"report": str(output / "report.html")})
        return
    if shown := found.ranked()[:SHOWN]:
        values = ["–" if trial.value is None else f"{trial.value:.4f}" for trial in shown]
        rows = [(each.number, each.state, value, each.words()) for each, value in zip(shown, values, strict=True)]
        print_table("", ("trial", "state", objective, "settings"), rows)
    counts = ", ".join(f"{number} {state}" for state, number in found.counts().items() if number)
    typer.echo(f"{counts or 'no trial yet'}; {output}/report.html")
    best = found.best
    if best is not None and best.run is not None:
        refused = read_run(best.run).refused
        after = (
            f"edgeface export would refuse it: {refused}"
            if refused
            else f"next: edgeface export {output}/best --data {data} --int8"
        )
        typer.echo(f"{output}/best: trial {best.number}; {after}")
    elif best is not None:
        typer.echo(f"the best, trial {best.number}, lies on another machine, where the same command links it")
