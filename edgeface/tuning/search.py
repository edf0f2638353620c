"""A search over settings: each trial is a training run in a process and a folder of its own, Optuna chooses and prunes.

What a trial has reached is read from its ``curves.csv`` after each epoch. So a trial is what ``edgeface train`` makes
of its settings, one that dies takes nothing with it, and one that was stopped goes on by ``--resume``.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from edgeface.data.dataset import FaceData
from edgeface.progress import SILENT, Reporter
from edgeface.training.checkpoints import new_folder
from edgeface.training.loop import check_batch
from edgeface.training.schedule import CURVES, Epoch, best_epoch, read_curves
from edgeface.tuning.plan import OBJECTIVES, PRUNERS, TRIALS, SearchPlan
from edgeface.tuning.results import Search, Tried, read_search, tried
from edgeface.tuning.storage import OpenedStorage, open_store, open_study
from edgeface_runtime import UsageError
from edgeface_runtime.files import replacing, write_text

RECORD, STUDY, BEST = "tune.json", "study.db", "best"
HOPELESS = 3
"""So many failed trials and no other, and the search gives up."""
_POLL = 0.2


@dataclass(eq=False)
class _Job:
    """A trial under way."""

    number: int
    id: int
    folder: Path
    log: BinaryIO
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    seen: int = 0
    """Epochs that the study knows."""
    before: int = 0
    """Of them, those of an earlier session."""

    def end(self) -> None:
        """Ends the process, whose run folder keeps its last whole epoch."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def tune(data: FaceData, plan: SearchPlan, reporter: Reporter = SILENT) -> Search:
    """Runs trials until there are enough of them or the time is over; the same call goes on with a stopped search.

    Writes into ``plan.output``: in ``trials/`` a run folder ``NNNN`` for each, its settings ``NNNN.toml``, and what it
    said, ``NNNN.log``; ``best``, a link to the best run; ``tune.json``; ``study.db``, unless ``plan.storage`` names
    another place.

    Args:
        data: the photos of ``plan.folder``.
        plan: what is searched.
        reporter: told of each trial that ends, and how much time is left.

    Raises:
        UsageError: the folder or the storage is another's, no photo validates, or no trial ends well.
    """
    if not len(data.rows("val")):
        raise UsageError(
            f"{plan.folder}: no photo validates, so nothing compares the trials; give more photos a person"
        )
    if "batch_size" not in plan.space and "--unlabeled" not in plan.words:
        check_batch(plan.config.data.batch_size, len(data.rows("train")))
    new_folder(plan.output, marker=RECORD, resume=True)
    (plan.output / TRIALS).mkdir(exist_ok=True)
    store = open_store(plan.storage or str(plan.output / STUDY))
    with store.errors():
        maximize, card = OBJECTIVES[plan.objective], plan.card(data)
        study = open_study(store, plan.study, card, maximize=maximize, is_own=plan.storage is None)
        study.pruner = PRUNERS[plan.pruner](plan.config.schedule.epochs)
        document = {"schema": 1, "storage": store.title, "study": plan.study, "data": str(plan.folder), **card}
        write_text(plan.output / RECORD, json.dumps(document, indent=2) + "\n")
        work = _Work(plan, store, study, reporter)
        try:
            work.run()
        except KeyboardInterrupt:
            work.stop()
            done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
            reporter.say(f"stopped: {done} ended trials are kept; the same command goes on, also with those under way")
            raise
        finally:
            work.stop()
        found = read_search(plan, store, study)
    if found.best is not None and found.best.run is not None:
        _link(plan.output / BEST, found.best.run.relative_to(plan.output))
    if found.best is None and found.trials and not found.counts()["running"]:
        raise UsageError(_hopeless(found.trials))
    return found


class _Work:
    """The trials of this process: started, watched, ended."""

    def __init__(self, plan: SearchPlan, store: OpenedStorage, study: Study, reporter: Reporter) -> None:
        self.plan, self.storage, self.study, self.reporter = plan, store.storage, study, reporter
        self.study_id = store.storage.get_study_id_from_name(plan.study)
        self.jobs: list[_Job] = []
        self.epoch_seconds: list[float] = []
        minutes = plan.minutes
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def run(self) -> None:
        """Until there is nothing to start and nothing under way, or the time is over."""
        stopped = [trial for trial in self._trials() if self._is_ours(trial)]
        while self.deadline is None or time.monotonic() < self.deadline:
            for job in [*self.jobs]:
                self._look_at(job)
            while len(self.jobs) < self.plan.workers:
                if stopped:
                    self._start(stopped.pop(0))
                elif len(self._trials()) < self.plan.trials:
                    self._check_hope()
                    self._start(self._asked())
                else:
                    break
            if not self.jobs:
                return
            time.sleep(_POLL)
        self.reporter.say(
            f"{self.plan.minutes:g} minutes are over; the same command goes on, also with trials under way"
        )

    def stop(self) -> None:
        """Ends what is under way; it stays ``running`` in the study, to be gone on with."""
        for job in self.jobs:
            job.end()
        self.jobs.clear()

    def _trials(self) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self.study.get_trials(deepcopy=False)
        return trials

    def _is_ours(self, trial: FrozenTrial) -> bool:
        return trial.state is TrialState.RUNNING and trial.user_attrs.get("run") == self.plan.place(trial.number)

    def _asked(self) -> FrozenTrial:
        """A new trial, drawn by the seed and the trials before it, however often the search was stopped."""
        shared = self.plan.place(0) if self.plan.storage else ""  # machines that begin at once would draw the same
        seed = (self.plan.seed, len(self._trials()), shared)
        self.study.sampler = TPESampler(seed=zlib.crc32(repr(seed).encode()))
        number = self.study.ask(fixed_distributions=dict(self.plan.space)).number
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
        self.storage.set_trial_user_attr(trial_id, "run", self.plan.place(number))
        return self.storage.get_trial(trial_id)

    def _start(self, trial: FrozenTrial) -> None:
        folder = self.plan.run(trial.number)
        log = folder.with_suffix(".log").open("ab")
        try:  # held by the run too: where this process is killed, nobody else begins before the run has ended
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.reporter.say(f"trial {trial.number} is under way in another process")
            log.close()
            return
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in self.plan.settings(trial.params).items()]
        write_text(settings := folder.with_suffix(".toml"), "".join(lines))
        words = ["train", self.plan.folder, "-o", folder, "--resume", "--config", settings, *self.plan.words]
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeface.tuning.child", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(self.plan.workers),
            start_new_session=True,  # Ctrl-C is for this process, which ends its trials
        )
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, trial.number)
        known = len(trial.intermediate_values)
        self.jobs.append(_Job(trial.number, trial_id, folder, log, process, seen=known, before=known))

    def _look_at(self, job: _Job) -> None:
        code = job.process.poll()  # before the curves are read, whose last epoch comes before the end
        rows = read_curves(job.folder / CURVES)
        for row in rows[job.seen :]:
            if (value := _figure(row, self.plan.objective)) is not None:
                self.storage.set_trial_intermediate_value(job.id, row.epoch, value)
        is_new = len(rows) > job.seen
        job.seen = max(job.seen, len(rows))
        if is_new and not self.epoch_seconds:
            self.epoch_seconds.append((time.monotonic() - job.started) / (job.seen - job.before))
            self.reporter.say(f"an epoch takes about {_duration(self.epoch_seconds[0])}{self._left()}")
        if code is not None:
            self._ended(job, code, rows)
        elif (
            is_new
            and job.seen < self.plan.config.schedule.epochs
            and self.study.pruner.prune(self.study, self.storage.get_trial(job.id))
        ):
            job.end()
            self._tell(job, TrialState.PRUNED, None, f"stopped after epoch {job.seen}, behind the others")

    def _ended(self, job: _Job, code: int, rows: list[Epoch]) -> None:
        job.log.close()
        best = best_epoch(rows)
        value = None if best is None else _figure(best, self.plan.objective)
        if code == 0 and value is not None:
            self._tell(job, TrialState.COMPLETE, value, f"{self.plan.objective} {value:.4g}")
            return
        reason = signal.Signals(-code).name if code < 0 else _last_line(job.folder.with_suffix(".log"))
        reason = f"killed by {reason}" if code < 0 else reason or f"exit code {code}"
        self.storage.set_trial_user_attr(job.id, "error", reason)
        self._tell(job, TrialState.FAIL, None, f"failed: {reason}")

    def _tell(self, job: _Job, state: TrialState, value: float | None, words: str) -> None:
        self.study.tell(job.number, value, state=state, skip_if_finished=True)
        self.jobs.remove(job)
        if job.seen > job.before:
            self.epoch_seconds.append((time.monotonic() - job.started) / (job.seen - job.before))
        found = read_best(self.study)
        best = f" (best: trial {found.number}, {found.value:.4g})" if found else ""
        if found and found.number == job.number:
            _link(self.plan.output / BEST, job.folder.relative_to(self.plan.output))
            best = ", the best so far"
        self.reporter.say(f"trial {job.number}: {words}{best}{self._left()}")

    def _left(self) -> str:
        """How long it still takes, by the mean epoch so far, were nothing pruned."""
        if not self.epoch_seconds:
            return ""
        epochs = self.plan.config.schedule.epochs
        to_start = max(0, self.plan.trials - len(self._trials()))
        todo = epochs * to_start + sum(max(0, epochs - job.seen) for job in self.jobs)
        seconds = todo * sum(self.epoch_seconds) / len(self.epoch_seconds) / self.plan.workers
        if self.deadline is not None:
            seconds = min(seconds, max(0.0, self.deadline - time.monotonic()))
        return f"; at most about {_duration(seconds)} left" if todo else ""

    def _check_hope(self) -> None:
        states = [trial.state for trial in self._trials() if trial.state.is_finished()]
        if len(states) >= HOPELESS and set(states) == {TrialState.FAIL}:
            raise UsageError(_hopeless([tried(trial, self.plan) for trial in self._trials()]))


def read_best(study: Study) -> FrozenTrial | None:
    """The complete trial with the best value, or None."""
    try:
        return study.best_trial
    except ValueError:
        return None


def _hopeless(trials: Sequence[Tried]) -> str:
    failed = [trial for trial in trials if trial.error]
    last = f"; trial {failed[-1].number}: {failed[-1].error}" if failed else ""
    return f"none of {len(trials)} trials ended well{last}"


def _environment(workers: int) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    return {"OMP_NUM_THREADS": str(threads), **os.environ}


def _figure(row: Epoch, objective: str) -> float | None:
    return row.val_accuracy if objective == "accuracy" else row.val_loss


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").split("\n")
    return next((line.strip().removeprefix("edgeface: ") for line in reversed(lines) if line.strip()), "")


def _link(path: Path, target: Path) -> None:
    with replacing(path) as beside:
        beside.symlink_to(target)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
