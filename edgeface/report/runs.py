"""What training runs came to, read from their folders: one, or many beside each other."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NotRequired, TypedDict

from edgeface.evaluation.tails import TarAtFar
from edgeface.training.config import as_dict, by_key
from edgeface.training.record import RECORD, RunRecord, read_record
from edgeface.training.schedule import CURVES, Epoch, best_epoch, read_curves, stalled
from edgeface.training.setting import shown_value
from edgeface_runtime import EdgefaceError, UsageError
from edgeface_runtime.checks import Count, read_document, require_folder, shown

SUMMARY, PAGE = "summary.json", "report.html"
FAR = 0.01
"""False match rate at which validation photos are compared: few people's photos suffice for it."""
_LONG = 0.8
"""Share of a run over which the margin grows from which on more of it is no advice."""
_DEPTH = 3
"""Folders below the one that is named, in which runs are looked for."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The best epoch's model on the validation photos, without the head: as an export of it will be used."""

    people: Count
    """Who has such photos."""
    photos: Count
    right: Count
    """Named rightly: nearest of the people's mean embeddings over training photos."""
    tar: TarAtFar
    """Genuine pairs accepted at FMR 0.01, all photos compared with each other."""


class _Summary(TypedDict):
    """What is read again of ``summary.json``."""

    validation: NotRequired[Validation | None]
    refused: NotRequired[str | None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder as far as it can be read."""

    folder: Path
    record: RunRecord | None = None
    curves: tuple[Epoch, ...] = ()
    validation: Validation | None = None
    """None before the run has ended, or without validation photos."""
    refused: str | None = None
    """Why an export would refuse the model: it tells nobody apart. None where it does, or before the run has ended."""
    problem: str | None = None
    """Why there is no record, or why the rest was passed over."""

    @property
    def stopped_early(self) -> bool:
        """True when validation had not improved for ``early_stopping_patience`` epochs before the last one."""
        if self.record is None:
            return False
        schedule = self.record.config.schedule
        return len(self.curves) < schedule.epochs and stalled(self.curves, schedule.early_stopping_patience)

    @property
    def state(self) -> str:
        """``finished``, ``stopped early``, ``unfinished`` or ``unreadable``."""
        if self.record is None or self.problem:
            return "unreadable"
        if self.stopped_early:
            return "stopped early"
        return "finished" if len(self.curves) >= self.record.config.schedule.epochs else "unfinished"

    @cached_property
    def best(self) -> Epoch | None:
        """The epoch whose model is kept; None before the first one has ended."""
        return best_epoch(self.curves)

    @property
    def seconds(self) -> float | None:
        """Of all epochs; None where one was not timed."""
        times = [row.seconds for row in self.curves if row.seconds is not None]
        return sum(times) if times and len(times) == len(self.curves) else None

    @property
    def settings(self) -> dict[str, object]:
        """Every setting by key; empty where the run is unreadable."""
        return by_key(as_dict(self.record.config)) if self.record else {}

    def shown_setting(self, key: str) -> str:
        """A setting's value for people; a dash where the run is unreadable."""
        return shown_value(self.settings.get(key, "–"))

    def as_json(self) -> dict[str, object]:
        """Stable keys, for ``--json`` and ``summary.json``."""
        last, best = self.curves[-1] if self.curves else None, self.best
        model, head = (self.record.config.model, self.record.config.head) if self.record else (None, None)
        return {
            "schema": 1,
            "run": shown(self.folder),
            "state": self.state,
            "problem": self.problem,
            "backbone": model and model.backbone,
            "head": head and head.loss,
            "epochs": len(self.curves),
            "epochs_set": self.record and self.record.config.schedule.epochs,
            "val_accuracy": last and last.val_accuracy,
            "best_epoch": best and best.epoch,
            "best_val_accuracy": best and best.val_accuracy,
            "best_val_loss": best and best.val_loss,
            "best_val_cosine": best and best.val_cosine,
            "stopped_early": self.stopped_early,
            "seconds": self.seconds,
            "licence": self.record and self.record.data["licence"],
            "validation": self.validation and asdict(self.validation),
            "refused": self.refused,
            "report": shown(self.folder / PAGE) if (self.folder / PAGE).exists() else None,
        }

    def lines(self) -> list[str]:
        """What the command says at the end: how the run ended, where its page is, what comes next."""
        page = f"page: {shown(self.folder / PAGE)}"
        if self.refused:
            return [
                self.summary(),
                page,
                f"edgeface export would refuse this model: {self.refused}",
                f"next: {self.advice()}",
            ]
        return [self.summary(), page, f"next: {self.commands()[1][1]}"]

    def problems(self) -> list[str]:
        """What stands beside a comparison of runs, to be put behind the run's name."""
        found = [f"is unreadable: {self.problem}"] if self.problem else []
        return [*found, f"would be refused by edgeface export: {self.refused}"] if self.refused else found

    def advice(self) -> str:
        """What to do about a model that tells nobody apart, with the keys of the settings."""
        assert self.record is not None
        config, command = self.record.config, self.record.command
        ways = [f"a lower rate (--set lr={config.optim.lr / 3:.1g})"]
        if (ratio := config.head.margin_warmup_ratio) < _LONG:
            ways.append(
                f"a margin that grows for longer (--set margin_warmup_ratio={min(2 * ratio or _LONG, _LONG):g})"
            )
        ways += ["more epochs", "more photos a person"]
        if command is None or command.init is None:
            ways.append("a model that knows faces to start from (--init mobilefacenet)")
        return f"train anew, in another folder, with {', '.join(ways[:-1])} or {ways[-1]}"

    def summary(self) -> str:
        """How the run ended, in one line."""
        if self.best is None or self.record is None:
            return f"{shown(self.folder)}: {self.state}"
        value = measure(self.best)
        known = f" ({value[0]} {value[1]})" if value else ""
        ended = "stopped early" if self.stopped_early else "not stopped early"
        epochs = f"epoch {self.best.epoch} of {len(self.curves)}"
        return f"{shown(self.folder)}: best {epochs}{known}, {ended if self.state != 'unfinished' else self.state}"

    def commands(self) -> list[tuple[str, str]]:
        """(what it is for, the command) of each next step, to be typed as they are."""
        if self.record is None:
            return []
        from edgeface.backbones import file_stem

        run = shlex.quote(shown(self.folder))
        command = self.record.command
        data = shlex.quote(shown(command.data)) if command and command.data else "DATA"
        file = shlex.quote(shown(self.folder / f"{file_stem(self.record.config.model.backbone)}.int8.tflite"))
        compare = ("Compare it with other runs", f"edgeface runs {shlex.quote(shown(self.folder.parent))}")
        if self.refused:
            return [compare]
        return [
            ("Measure it on the test photos, which no training has seen", f"edgeface eval {run} --data {data}"),
            ("Make the files for a device", f"edgeface export {run} --data {data} --int8"),
            ("Measure such a file, here or for a board", f"edgeface bench {file} --data {data}"),
            compare,
        ]


def measure(row: Epoch) -> tuple[str, str] | None:
    """What epochs are compared by, and its value in words; None where no photo validates."""
    if row.val_accuracy is not None:
        return "validation accuracy", f"{100 * row.val_accuracy:.1f} %"
    if row.val_cosine is not None:
        return "validation cosine to the teachers", f"{row.val_cosine:.4f}"
    return None


def read_run(folder: Path) -> Run:
    """A run as far as it can be read; what is wrong with it is said in ``problem``, not raised."""
    try:
        record = read_record(folder)
    except (EdgefaceError, OSError) as error:
        return Run(folder=folder, problem=_reason(error, folder))
    try:
        curves = tuple(read_curves(folder / CURVES))
    except (EdgefaceError, OSError, ValueError) as error:
        return Run(folder=folder, record=record, problem=_reason(error, folder))
    validation = refused = None
    if (folder / SUMMARY).exists():
        try:
            found = read_document(folder / SUMMARY, _Summary, "summary")
            validation, refused = found.get("validation"), found.get("refused")
        except (EdgefaceError, OSError) as error:
            return Run(folder=folder, record=record, curves=curves, problem=_reason(error, folder))
    return Run(folder=folder, record=record, curves=curves, validation=validation, refused=refused)


def read_runs(folder: Path) -> list[Run]:
    """The runs in a folder and up to three below it, by name.

    Raises:
        UsageError: no such folder, or no run in it.
    """
    require_folder(folder)
    found = [file for depth in range(_DEPTH + 1) for file in folder.glob("*/" * depth + RECORD)]
    # A link to a run, such as a search's best, is that run once more.
    files = [file for file in found if file.parent == folder or not file.parent.is_symlink()]
    if not files:
        raise UsageError(f"{shown(folder)}: no run in it (no {RECORD} there or below); edgeface train makes one")
    return [read_run(file.parent) for file in sorted(files)]


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings that are not the same in all readable runs."""
    known = [run.settings for run in runs if run.settings]
    return [key for key in (known[0] if known else {}) if len({str(settings[key]) for settings in known}) > 1]


def table(runs: Sequence[Run], folder: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a comparison: text for people, a dash where nothing is known."""
    columns = ["run", "backbone", "head", "epochs", "best", "validation", f"TAR at FMR {FAR:g}", "minutes", "state"]
    rows = []
    for run in runs:
        name = shown(run.folder.relative_to(folder)) if run.folder != folder else shown(run.folder.name or run.folder)
        if run.record is None:
            rows.append([name, *"–" * (len(columns) - 2), run.state])
            continue
        config, best = run.record.config, run.best
        found = measure(best) if best else None
        tar = run.validation.tar.value if run.validation else None
        rows.append(
            [
                name,
                config.model.backbone,
                config.head.loss,
                f"{len(run.curves)}/{config.schedule.epochs}",
                str(best.epoch) if best else "–",
                found[1] if found else "–",
                "–" if tar is None else f"{100 * tar:.1f} %",
                "–" if run.seconds is None else f"{run.seconds / 60:.1f}",
                run.state,
            ]
        )
    return columns, rows


def _reason(error: Exception, folder: Path) -> str:
    text = (
        f"{Path(error.filename).name}: {error.strerror}"
        if isinstance(error, OSError) and error.filename
        else str(error)
    )
    return " ".join(text.replace(f"{shown(folder)}/", "").split())
