"""Rows against an earlier run's, and against limits: what changed, and what is over."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgeface_devices.figures import Figure, Table, shown
from edgeface_devices.measurement import Json, Measurement, names
from edgeface_runtime import UsageError

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_LIMIT = re.compile(r"\s*([a-z0-9_]+)\s*(>=|<=|>|<)\s*([+-]?\d+(?:\.\d+)?)\s*")


FIGURES: dict[str, tuple[str, Callable[[Measurement], Figure | None]]] = {
    "p50": ("median time of a face, ms", lambda row: row.p50_ms),
    "p90": ("90th percentile, ms", lambda row: row.p90_ms),
    "p99": ("99th percentile, ms", lambda row: row.p99_ms),
    "cpu_p50": ("median processor time, ms", lambda row: row.cpu_p50_ms),
    "fps": ("faces a second, from the median", lambda row: row.fps),
    "first": ("first call, ms", lambda row: row.first_ms),
    "load": ("opening the file, ms", lambda row: row.load_ms),
    "import": ("importing the engine, ms", lambda row: row.import_ms),
    "cold": ("import, load and first call together, ms", lambda row: row.cold_ms),
    "peak": ("peak memory, MB", lambda row: row.peak),
    "size": ("file size, MB", lambda row: row.size_mb),
    "top1": ("closed-set accuracy on held-out photos", lambda row: _share_of(row.top1)),
    "auc": ("area under the ROC curve of held-out pairs", lambda row: _share_of(row.auc)),
    "accuracy": (
        "top1 where it was measured, else the 1:1 accuracy that the contract states",
        lambda row: row.accuracy,
    ),
}
"""Names that --fail-if knows → what each is, and how a row gives it."""
RATIOS: dict[str, tuple[str, Callable[[Change], Figure | None]]] = {
    "ratio": ("median over that of --baseline", lambda change: Figure(change.ratio, "measured", change.interval)),
    "cpu_ratio": (
        "median processor time over that of --baseline",
        lambda change: None if change.cpu_ratio is None else Figure(change.cpu_ratio, "measured", change.cpu_interval),
    ),
}
"""The same of a row that was compared with an earlier one; the interval is what the rounds of both runs allow."""


@dataclass(frozen=True)
class Limit:
    """A condition under which a run has failed."""

    text: str
    figure: str
    sign: str
    bound: float


def parse_limit(text: str) -> Limit:
    """``p90>30`` as a limit: a name of ``FIGURES`` or ``RATIOS``, one of > >= < <=, and a number.

    Raises:
        UsageError: anything else.
    """
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise UsageError(f"--fail-if {text!r}: write a figure, one of > >= < <=, and a number, as in 'p90>30'")
    if found[1] not in (*FIGURES, *RATIOS):
        known = ", ".join((*FIGURES, *RATIOS))
        raise UsageError(f"--fail-if {text!r}: no figure is called {found[1]!r}; there are {known}")
    return Limit(text, found[1], found[2], float(found[3]))


def breaches(rows: Sequence[Measurement], limits: Sequence[Limit], changes: Sequence[Change] = ()) -> tuple[str, ...]:
    """One line for each row and limit that it breaks.

    Of an interval the worse end counts. A ratio that lies within the noise of the two runs breaks no limit.

    Raises:
        UsageError: no row has the figure, so that nothing was tested.
    """
    lines = []
    for limit in limits:
        tested = list(_tested(limit.figure, rows, changes))
        if not tested:
            raise UsageError(f"--fail-if {limit.text!r}: no row has {limit.figure}, so nothing was tested")
        for row, figure in tested:
            value = _worse_end(figure, limit.sign)
            if limit.figure in RATIOS and _is_noise(figure.interval):
                continue
            if _COMPARE[limit.sign](value, limit.bound):
                where = f"{row.file} on {row.device}, {row.engine}"
                lines.append(f"{where}: {limit.figure} is {value:.4g} ({limit.text})")
    return tuple(lines)


def _tested(name: str, rows: Sequence[Measurement], changes: Sequence[Change]) -> Iterator[tuple[Measurement, Figure]]:
    if name in FIGURES:
        figures = [(row, FIGURES[name][1](row)) for row in rows]
    else:
        figures = [(change.row, RATIOS[name][1](change)) for change in changes]
    yield from ((row, figure) for row, figure in figures if figure is not None)


def _share_of(number: float | None) -> Figure | None:
    return None if number is None else Figure(number, "measured")


def _worse_end(figure: Figure, sign: str) -> float:
    if figure.interval is None or figure.source != "estimated":
        return figure.value
    return figure.interval[1] if sign.startswith(">") else figure.interval[0]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row against the same row of an earlier run."""

    row: Measurement
    ratio: float
    """Of the medians, now over then."""
    interval: tuple[float, float] | None
    """Between which ratios the rounds of both runs allow it; None: a run's rounds are not known."""
    cpu_ratio: float | None
    cpu_interval: tuple[float, float] | None
    """The same of the processor time."""
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What may be said; a difference counts only where the rounds of the two runs do not overlap.

        Where the medians are within the noise, the processor times decide, which other programs disturb less.
        """
        if self.interval is None:
            return "noise not known"
        for low, high in filter(None, (self.interval, self.cpu_interval)):
            if not _is_noise((low, high)):
                return "slower" if low > 1 else "faster"
        return "within noise"

    def to_json(self) -> Json:
        """An element of ``changes`` in ``bench --json``."""
        numbers = {"p50": self.ratio, "cpu_p50": self.cpu_ratio}
        where = {"path": str(self.row.path), "engine": self.row.engine, "device": self.row.device}
        interval = [round(end, 4) for end in self.interval] if self.interval else None
        rounded = {key: None if value is None else round(value, 4) for key, value in numbers.items()}
        return {**where, **rounded, "interval": interval, "verdict": self.verdict, "notes": list(self.notes)}


def compare(rows: Sequence[Measurement], earlier: Sequence[Measurement]) -> tuple[Change, ...]:
    """Rows against those of an earlier run with the same file name, engine, threads, source and board.

    Raises:
        UsageError: no row has its like there.
    """
    kept = {_identity(row): row for row in earlier}
    changes = [_change(row, kept[_identity(row)]) for row in rows if _identity(row) in kept]
    found = tuple(change for change in changes if change is not None)
    if not found:
        boards = ", ".join(dict.fromkeys(row.device or "" for row in earlier)) or "no board"
        raise UsageError(f"--baseline: none of its rows (on {boards}) is of these files, engines and boards")
    return found


def _is_noise(interval: tuple[float, float] | None) -> bool:
    return interval is not None and interval[0] <= 1 <= interval[1]


def change_table(changes: Sequence[Change]) -> Table:
    """Changes for a terminal."""
    columns = ["file", "engine", "p50 then", "p50 now", "ratio", "noise", "cpu ratio", "verdict"]
    named, cells = names([change.row for change in changes]), []
    for change in changes:
        row = change.row
        then = shown(Figure(row.median_ms / change.ratio, "measured"))
        noise = "–" if change.interval is None else f"{change.interval[0]:.2f} to {change.interval[1]:.2f}"
        cpu = "–" if change.cpu_ratio is None else f"{change.cpu_ratio:.2f}"
        times = [then, shown(row.p50_ms), f"{change.ratio:.2f}"]
        cells.append([named[row.path], row.engine, *times, noise, cpu, change.verdict])
    return columns, cells


def _identity(row: Measurement) -> tuple[str, str | None, str, int, str]:
    return row.file, row.device, row.engine, row.threads, row.source


def _change(now: Measurement, then: Measurement) -> Change | None:
    new, old = now.p50_ms, then.p50_ms
    if new is None or old is None or new.source == "estimated":
        return None
    cpu_new, cpu_old = now.cpu_p50_ms, then.cpu_p50_ms
    notes = []
    if now.engine_version != then.engine_version:
        notes.append(f"{now.engine} {then.engine_version} then, {now.engine_version} now")
    if now.is_disturbed or then.is_disturbed:
        notes.append("other programs kept the processor busy in one of the runs: the cpu ratio is the one to trust")
    return Change(
        row=now,
        ratio=new.over(old),
        interval=_allowed(now.rounds_ms, then.rounds_ms),
        cpu_ratio=cpu_new.over(cpu_old) if cpu_new and cpu_old else None,
        cpu_interval=_allowed(now.cpu_rounds_ms, then.cpu_rounds_ms),
        notes=tuple(notes),
    )


def _allowed(now: tuple[float, float] | None, then: tuple[float, float] | None) -> tuple[float, float] | None:
    return (now[0] / then[1], now[1] / then[0]) if now and then else None
