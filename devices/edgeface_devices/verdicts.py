"""Answers drawn from rows: which file fits a budget, which row breaks a limit, what changed since an earlier run."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeface_devices.bench.timing import DISTURBED, Figure
from edgeface_devices.overview import FIGURES, Document, Entry, by_board, entries, merge, told
from edgeface_runtime import UsageError

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_LIMIT = re.compile(r"\s*([a-z0-9_]+)\s*(>=|<=|>|<)\s*([+-]?\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Rows with everything that was asked about them."""

    rows: tuple[Entry, ...]
    choices: tuple[Choice, ...] = ()
    changes: tuple[Change, ...] = ()
    breaches: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Some row has a time, each board has a file that fits, and no limit is broken."""
        timed = any(entry.figures["p50"] or entry.source == "emulated" for entry in self.rows)
        return timed and all(choice.fits for choice in self.choices) and not self.breaches

    def as_json(self) -> dict[str, Any]:
        """Keys to add to the document of ``bench --json``; one that was not asked for is absent."""
        answers: dict[str, list[Any]] = {
            "choices": [choice.as_json() for choice in self.choices],
            "changes": [change.as_json() for change in self.changes],
            "failed": list(self.breaches),
        }
        return {key: answer for key, answer in answers.items() if answer}


def judge(
    document: Document,
    *,
    budget_ms: float | None = None,
    min_accuracy: float | None = None,
    baseline: Document | None = None,
    limits: Sequence[Limit] = (),
) -> Verdict:
    """Answers whatever is asked of a merged document; see ``choose``, ``compare`` and ``breaches``.

    Raises:
        UsageError: as those three do.
    """
    rows = entries(document)
    changes = compare(rows, entries(merge([], {"": baseline}))) if baseline else ()
    asks = budget_ms is not None or min_accuracy is not None
    choices = choose(rows, budget_ms=budget_ms, min_accuracy=min_accuracy) if asks else ()
    broken = breaches(with_ratios(rows, changes), limits)
    return Verdict(rows=rows, choices=choices, changes=changes, breaches=broken)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The file to take on one board, or the one that misses by least."""

    device: str
    entry: Entry | None
    """None: no row of the board has what is asked for."""
    fits: bool
    reason: str

    @property
    def line(self) -> str:
        """The choice as a line for a person."""
        if self.entry is None:
            return f"{self.device}: {self.reason}"
        verb = "take" if self.fits else "nothing fits; nearest is"
        return f"{self.device}: {verb} {self.entry.path} on {self.entry.engine}, {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """An element of ``choices`` in ``bench --json``."""
        entry = self.entry
        where = {"path": entry.path, "engine": entry.engine} if entry else {"path": None, "engine": None}
        return {"device": self.device, "fits": self.fits, **where, "reason": self.reason}


def choose(
    rows: Sequence[Entry], *, budget_ms: float | None = None, min_accuracy: float | None = None
) -> tuple[Choice, ...]:
    """For each board the file to take, in the order of the boards.

    The time that counts is ``Entry.careful_ms``. With a budget alone the most accurate within it is taken,
    else the fastest (of those that keep the least accuracy).

    Args:
        rows: of any number of boards.
        budget_ms: the most that one face may take.
        min_accuracy: the least accuracy, 0 to 1.

    Raises:
        UsageError: the budget is not above 0, or the accuracy is not from 0 to 1.
    """
    if budget_ms is not None and not budget_ms > 0:
        raise UsageError(f"the budget is {budget_ms:g} ms; it must be above 0")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise UsageError(f"the least accuracy is {min_accuracy:g}; it is a share, from 0 to 1")
    return tuple(_choose(its, budget_ms, min_accuracy) for its in by_board(rows).values())


def _choose(rows: Sequence[Entry], budget_ms: float | None, min_accuracy: float | None) -> Choice:
    asked = [entry for entry in rows if entry.careful_ms is not None]
    if min_accuracy is not None:
        asked = [entry for entry in asked if entry.figures["accuracy"]]
    device = rows[0].device
    if not asked:
        needed = "a time" if min_accuracy is None else "both a time and an accuracy"
        return Choice(device=device, entry=None, fits=False, reason=f"no row has {needed}")

    def overshoot(entry: Entry) -> float:
        return 0.0 if budget_ms is None else max(0.0, _ms(entry) / budget_ms - 1)

    def shortfall(entry: Entry) -> float:
        return 0.0 if min_accuracy is None else max(0.0, min_accuracy - _share(entry))

    fitting = [entry for entry in asked if not overshoot(entry) and not shortfall(entry)]
    if fitting:
        by_accuracy = budget_ms is not None and min_accuracy is None
        best = min(fitting, key=lambda e: (-_share(e) if by_accuracy else 0.0, _ms(e)))
        return Choice(device=device, entry=best, fits=True, reason=_told(best))
    # One broken demand is nearer than two; a share of errors weighs as much as a share of the budget.
    near = min(asked, key=lambda e: (bool(overshoot(e)) + bool(shortfall(e)), overshoot(e) + shortfall(e), _ms(e)))
    return Choice(device=device, entry=near, fits=False, reason=_told(near))


def _ms(entry: Entry) -> float:
    assert entry.careful_ms is not None
    return entry.careful_ms


def _share(entry: Entry) -> float:
    accuracy = entry.figures["accuracy"]
    return accuracy.value if accuracy else 0.0


def _told(entry: Entry) -> str:
    p50 = entry.figures["p50"]
    assert p50 is not None
    end = "upper end of the estimate" if p50.interval else "p90" if entry.figures["p90"] else "median"
    accuracy = entry.figures["accuracy"]
    told = f", accuracy {accuracy.value:.4f} ({entry.accuracy_kind})" if accuracy else ", accuracy not known"
    return f"{_ms(entry):.1f} ms ({end}){told}"


@dataclass(frozen=True)
class Limit:
    """A condition under which a run has failed."""

    text: str
    figure: str
    sign: str
    bound: float


def parse_limit(text: str) -> Limit:
    """``p90>30`` as a limit: a name of ``FIGURES``, one of > >= < <=, and a number.

    Raises:
        UsageError: anything else.
    """
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise UsageError(f"--fail-if {text!r}: write a figure, one of > >= < <=, and a number, as in 'p90>30'")
    if found[1] not in FIGURES:
        raise UsageError(f"--fail-if {text!r}: no figure is called {found[1]!r}; there are {', '.join(FIGURES)}")
    return Limit(text, found[1], found[2], float(found[3]))


def breaches(rows: Sequence[Entry], limits: Sequence[Limit]) -> tuple[str, ...]:
    """One line for each row and limit that it breaks; of an interval, the worse end counts.

    Raises:
        UsageError: no row has the figure, so that nothing was tested.
    """
    lines = []
    for limit in limits:
        tested = [(entry, figure) for entry in rows if (figure := entry.figures[limit.figure]) is not None]
        if not tested:
            raise UsageError(f"--fail-if {limit.text!r}: no row has {limit.figure}, so nothing was tested")
        for entry, figure in tested:
            value = _worse_end(figure, limit.sign)
            if _COMPARE[limit.sign](value, limit.bound):
                where = f"{entry.file} on {entry.device}, {entry.engine}"
                lines.append(f"{where}: {limit.figure} is {value:.4g} ({limit.text})")
    return tuple(lines)


def _worse_end(figure: Figure, sign: str) -> float:
    if figure.interval is None or figure.source != "estimated":
        return figure.value
    return figure.interval[1] if sign.startswith(">") else figure.interval[0]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row against the same row of an earlier run."""

    entry: Entry
    ratio: float
    """Of the medians, now over then."""
    interval: tuple[float, float] | None
    """Between which ratios the rounds of both runs allow it; None: a run's rounds are not known."""
    cpu_ratio: float | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What may be said; a difference counts only where the rounds of the two runs do not overlap."""
        if self.interval is None:
            return "noise not known"
        low, high = self.interval
        return "slower" if low > 1 else "faster" if high < 1 else "within noise"

    def as_json(self) -> dict[str, Any]:
        """An element of ``changes`` in ``bench --json``."""
        numbers = {"p50": self.ratio, "cpu_p50": self.cpu_ratio}
        where = {"path": self.entry.path, "engine": self.entry.engine, "device": self.entry.device}
        interval = [round(end, 4) for end in self.interval] if self.interval else None
        rounded = {key: None if value is None else round(value, 4) for key, value in numbers.items()}
        return {**where, **rounded, "interval": interval, "verdict": self.verdict, "notes": list(self.notes)}


def compare(rows: Sequence[Entry], earlier: Sequence[Entry]) -> tuple[Change, ...]:
    """Rows against those of an earlier run with the same file name, engine, threads, source and board.

    Raises:
        UsageError: no row has its like there.
    """
    kept = {_identity(entry): entry for entry in earlier}
    changes = [_change(entry, kept[_identity(entry)]) for entry in rows if _identity(entry) in kept]
    found = tuple(change for change in changes if change is not None)
    if not found:
        boards = ", ".join(dict.fromkeys(entry.device for entry in earlier)) or "no board"
        raise UsageError(f"--baseline: none of its rows (on {boards}) is of these files, engines and boards")
    return found


def with_ratios(rows: Sequence[Entry], changes: Sequence[Change]) -> tuple[Entry, ...]:
    """The rows with ``ratio`` and ``cpu_ratio`` filled in, for limits to be set on them."""
    known: Mapping[int, Change] = {id(change.entry): change for change in changes}
    return tuple(_with_ratio(entry, known.get(id(entry))) for entry in rows)


def _with_ratio(entry: Entry, change: Change | None) -> Entry:
    if change is None:
        return entry
    numbers = {"ratio": change.ratio, "cpu_ratio": change.cpu_ratio}
    added = {key: None if value is None else Figure(value, "measured") for key, value in numbers.items()}
    return replace(entry, figures={**entry.figures, **added})


def change_table(changes: Sequence[Change]) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) for a terminal."""
    columns = ["file", "engine", "p50 then", "p50 now", "ratio", "noise", "cpu ratio", "verdict"]
    cells = []
    for change in changes:
        now = change.entry.figures["p50"]
        assert now is not None
        then = told(Figure(now.value / change.ratio, "measured"))
        noise = "–" if change.interval is None else f"{change.interval[0]:.2f} to {change.interval[1]:.2f}"
        cpu = "–" if change.cpu_ratio is None else f"{change.cpu_ratio:.2f}"
        entry = change.entry
        cells.append([entry.label, entry.engine, then, told(now), f"{change.ratio:.2f}", noise, cpu, change.verdict])
    return columns, cells


def _identity(entry: Entry) -> tuple[str, str, str, int, str]:
    return entry.file, entry.device, entry.engine, entry.threads, entry.source


def _change(now: Entry, then: Entry) -> Change | None:
    new, old = now.figures["p50"], then.figures["p50"]
    if new is None or old is None or new.source == "estimated":
        return None
    interval = None
    if now.rounds_ms and then.rounds_ms:
        interval = now.rounds_ms[0] / then.rounds_ms[1], now.rounds_ms[1] / then.rounds_ms[0]
    cpu_new, cpu_old = now.figures["cpu_p50"], then.figures["cpu_p50"]
    notes = []
    if now.engine_version != then.engine_version:
        notes.append(f"{now.engine} {then.engine_version} then, {now.engine_version} now")
    if is_disturbed(now) or is_disturbed(then):
        notes.append("other programs kept the processor busy in one of the runs: the cpu ratio is the one to trust")
    return Change(
        entry=now,
        ratio=new.over(old),
        interval=interval,
        cpu_ratio=cpu_new.over(cpu_old) if cpu_new and cpu_old else None,
        notes=tuple(notes),
    )


def is_disturbed(entry: Entry) -> bool:
    """Other programs held the processor for so long that calls took much longer than they computed."""
    p50, cpu = entry.figures["p50"], entry.figures["cpu_p50"]
    return p50 is not None and cpu is not None and p50.value > DISTURBED * cpu.value
