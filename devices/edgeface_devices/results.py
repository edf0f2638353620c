"""Measurements of one machine, or of several side by side, with what is asked of them: as JSON and as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from edgeface_devices.boards.health import Conditions, Repetition
from edgeface_devices.changes import Change, Limit, breaches, compare
from edgeface_devices.choices import Choice, choose, choose_way
from edgeface_devices.figures import Figure, Source, Table, shown
from edgeface_devices.measurement import Json, Measurement, by_board, names, stated_verification
from edgeface_runtime import UsageError
from edgeface_runtime.checks import Positive, Span, build, read_document

SCHEMA = 1
_DIGITS = 4


@dataclass(frozen=True)
class Device:
    """The machine that the numbers belong to. None: not known, or of no meaning there."""

    name: str
    source: Source
    cores: Annotated[int, Span(0, 1e6)]
    system: str
    profile: str | None = None
    """Name of the board's profile."""
    clock_mhz: int | None = None
    host: str | None = None
    """As ssh reached it."""
    model: str | None = None
    """As the machine calls itself."""

    def to_json(self) -> Json:
        """An element of ``devices``, without what is not known."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One file's medians and size divided by another's of the same model."""

    a: Path
    b: Path
    p50: Positive
    cpu_p50: Positive
    """Of the processor time, which other programs' load touches less."""
    size: Positive

    def to_json(self) -> Json:
        """An element of ``ratios``."""
        return {key: str(x) if isinstance(x, Path) else round(x, _DIGITS) for key, x in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Results:
    """Rows in the order in which files, then machines, were given."""

    device: Device
    """Of an unmerged run; the first of a merged one."""
    rows: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...] = ()
    devices: tuple[Device, ...] = ()
    """Once results are merged: all machines."""
    state: Conditions | None = None
    """Clock, heat and power of a board over ssh."""
    sustained: tuple[Repetition, ...] = field(default=())
    """With ``--sustained``: every repetition of the measurement."""

    @property
    def is_disturbed(self) -> bool:
        """Whether other programs held the processor of any row."""
        return any(row.is_disturbed for row in self.rows)

    def to_json(self) -> Json:
        """The document of ``bench --json``, schema 1."""
        extra: Json = {
            "devices": [device.to_json() for device in self.devices],
            "state": self.state and self.state.to_json(),
            "sustained": [repetition.to_json() for repetition in self.sustained],
        }
        return {
            "schema": SCHEMA,
            "device": self.device.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "ratios": [ratio.to_json() for ratio in self.ratios],
        } | {key: value for key, value in extra.items() if value}

    @classmethod
    def from_json(cls, document: object) -> Results:
        """What ``to_json`` gave; other keys are passed over.

        Raises:
            UsageError: it is something else; names the key.
        """
        found = build(_Entries, document, "document")
        if found.schema != SCHEMA:
            raise UsageError(f"document.schema is {found.schema}, not {SCHEMA}")
        return cls(
            device=found.device,
            rows=tuple(Measurement.from_json(row, f"rows[{place}]") for place, row in enumerate(found.rows)),
            ratios=found.ratios,
            devices=found.devices,
            state=Conditions.from_json(found.state) if found.state else None,
            sustained=tuple(Repetition.from_json(row, f"sustained[{n}]") for n, row in enumerate(found.sustained)),
        )


@dataclass(frozen=True, kw_only=True)
class _Entries:
    schema: int
    device: Device
    rows: tuple[dict[str, object], ...]
    ratios: tuple[Ratio, ...] = ()
    devices: tuple[Device, ...] = ()
    state: dict[str, object] | None = None
    sustained: tuple[dict[str, object], ...] = ()


def merge(current: Sequence[Results], earlier: Mapping[str, Results] | None = None) -> Results:
    """Several results as one: each row names its ``device``, its ``origin`` and the contract's ``verification``.

    Args:
        current: of this call.
        earlier: file name → what ``read_results`` gave.
    """
    parts = [(run, run.device.host) for run in current] + [(run, name) for name, run in (earlier or {}).items()]
    return Results(
        device=parts[0][0].device,
        devices=tuple(dict.fromkeys(device for run, _ in parts for device in run.devices or (run.device,))),
        rows=tuple(_named(row, run.device.name, place) for run, place in parts for row in run.rows),
        ratios=tuple(ratio for run, _ in parts for ratio in run.ratios),
        state=next((run.state for run in current if run.state), None),
        sustained=next((run.sustained for run in current if run.sustained), ()),
    )


def share_accuracy(rows: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """The rows with the measured accuracy of their file, which holds on every board."""
    scored = {row.path: row for row in rows if row.top1 is not None}
    return tuple(
        replace(row, top1=scored[row.path].top1, auc=scored[row.path].auc)
        if row.top1 is None and row.path in scored
        else row
        for row in rows
    )


def ratios(rows: Iterable[Measurement]) -> tuple[Ratio, ...]:
    """int8 over fp32 within a format, then TFLite and ncnn over ONNX within a precision, of one trained model."""
    return tuple(_ratios([row for row in rows if row.source == "measured"]))


def read_results(path: Path) -> Results:
    """What ``bench --output`` wrote.

    Raises:
        UsageError: the file cannot be read or holds something else.
    """
    document = read_document(path, object, "document")
    try:
        return Results.from_json(document)
    except UsageError as error:
        raise UsageError(f"{path}: not a result of bench --output, schema {SCHEMA}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Rows with everything that was asked about them."""

    rows: tuple[Measurement, ...]
    """The accuracy that was measured of a file stands in its rows of all boards."""
    choices: tuple[Choice, ...] = ()
    changes: tuple[Change, ...] = ()
    breaches: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Some row has a time, each board has a file that fits, and no limit is broken."""
        timed = any(row.p50_ms or row.source == "emulated" for row in self.rows)
        return timed and all(choice.fits for choice in self.choices) and not self.breaches

    def to_json(self) -> Json:
        """Keys to add to the document of ``bench --json``; one that was not asked for is absent."""
        choices, changes = ([item.to_json() for item in items] for items in (self.choices, self.changes))
        answers: Json = {"choices": choices, "changes": changes, "failed": list(self.breaches)}
        return {key: answer for key, answer in answers.items() if answer}


def judge(
    results: Results,
    *,
    budget_ms: float | None = None,
    min_accuracy: float | None = None,
    baseline: Results | None = None,
    limits: Sequence[Limit] = (),
) -> Verdict:
    """Answers whatever is asked of merged results; see ``choose``, ``compare`` and ``breaches``.

    A budget is held against the whole way from a photo to names where rows have it (``choose_way``).

    Raises:
        UsageError: as those three do.
    """
    rows = share_accuracy(results.rows)
    changes = compare(rows, merge([], {"": baseline}).rows) if baseline else ()
    asks = budget_ms is not None or min_accuracy is not None
    choices = choose(rows, budget_ms=budget_ms, min_accuracy=min_accuracy) if asks else ()
    if budget_ms is not None and any(row.photo for row in rows):
        choices = tuple(choose_way(its, budget_ms, min_accuracy) for its in by_board(rows).values())
    broken = breaches(rows, limits, changes) if limits else ()
    return Verdict(rows=rows, choices=choices, changes=changes, breaches=broken)


def _named(row: Measurement, device: str, place: str | None) -> Measurement:
    """The row with its machine; ``place``: the host or file that it comes from."""
    merged = row.device is not None
    device = row.device or device
    verification = row.verification or (None if merged else stated_verification(row.path))
    return replace(row, device=device, origin=_origin(row, device, place), verification=verification)


def _origin(row: Measurement, device: str, place: str | None) -> str:
    if row.source == "estimated":
        return f"no basis: {row.note}" if row.p50_ms is None else f"estimated, 90 % interval: {row.note}"
    where = f"{row.source} here" if place is None else f"{row.source} on {device} ({place})"
    return f"{where}; {row.note}" if row.note else where


def _ratios(rows: Sequence[Measurement]) -> Iterator[Ratio]:
    pairs = [(a, b) for a in rows for b in rows if _model(a) == _model(b) and a is not b]
    within = [(a, b) for a, b in pairs if a.format == b.format and a.precision != "fp32" == b.precision]
    across = [(a, b) for a, b in pairs if b.format == "onnx" != a.format and a.precision == b.precision]
    for a, b in within + across:
        assert a.cpu_p50_ms is not None
        assert b.cpu_p50_ms is not None
        yield Ratio(
            a=a.path,
            b=b.path,
            p50=a.median_ms / b.median_ms,
            cpu_p50=a.cpu_p50_ms.over(b.cpu_p50_ms),
            size=a.size_bytes / b.size_bytes,
        )


def _model(row: Measurement) -> tuple[str | None, str] | None:
    return None if row.contract is None else (row.contract.parent_sha256, row.contract.backbone)


def measured_table(rows: Sequence[Measurement]) -> Table:
    """Files measured here: times in ms, peak and size in MB, top-1 in %."""
    columns = ["file", "p50", "p90", "p99", "first", "load", "peak", "size", "top-1", "AUC"]
    named, cells = names(rows), []
    for row in rows:
        figures = (row.p50_ms, row.p90_ms, row.p99_ms, row.first_ms, row.load_ms, row.peak, row.size_mb)
        cells.append(
            [named[row.path], *map(shown, figures), _share(row.top1), "–" if row.auc is None else f"{row.auc:.4f}"]
        )
    return columns, cells


def ratio_table(results: Results) -> Table:
    """One file's numbers divided by another's."""
    named = names(results.rows)
    cells = [
        [named[ratio.a], named[ratio.b], *(f"{number:.2f}" for number in (ratio.p50, ratio.cpu_p50, ratio.size))]
        for ratio in results.ratios
    ]
    return ["file", "against", "p50", "cpu p50", "size"], cells


def estimate_table(rows: Sequence[Measurement]) -> Table:
    """Estimates; every row says that it is one."""
    columns = ["file", "engine", "p50, 90 % interval, ms"]
    return columns, [[row.file, row.engine, _estimated(row.p50_ms)] for row in rows]


def grounds_table(rows: Sequence[Measurement]) -> Table:
    """What estimates rest on, each said once."""
    said = dict.fromkeys(f"{row.engine}, {row.precision}: {row.note}" for row in rows)
    return ["rests on"], [[text] for text in said]


def board_table(rows: Sequence[Measurement], named: Mapping[Path, str]) -> Table:
    """Rows of one board, however obtained, by the names of their files; a time that was not measured says so."""
    columns = ["file", "engine", "ms", "p90", "fps", "cold ms", "peak", "size", "accuracy"]
    cells = [_board_cells(row, named[row.path]) for row in rows]
    filled = [number for number in range(len(columns)) if any(line[number] != "–" for line in cells)]
    return [columns[number] for number in filled], [[line[number] for number in filled] for line in cells]


def origins(rows: Sequence[Measurement]) -> list[tuple[str, str]]:
    """(rows in words, where their times come from), each origin of a board once."""
    grouped: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows:
        grouped.setdefault((row.device or "", row.engine, row.origin or ""), {})[row.precision] = None
    return [(f"{device}, {engine}, {', '.join(kinds)}", origin) for (device, engine, origin), kinds in grouped.items()]


def _share(top1: float | None) -> str:
    return "–" if top1 is None else f"{100 * top1:.1f}"


def answers(row: Measurement) -> list[str]:
    """Cells of a file that ran elsewhere: top-1 there, and how its embeddings compare with those here."""
    return [_share(row.top1), "–" if row.agreement is None else str(row.agreement)]


def _estimated(ms: Figure | None) -> str:
    return "no basis (estimated)" if ms is None else f"{ms:.{0 if ms.value >= 30 else 1}f}"


def _board_cells(row: Measurement, label: str) -> list[str]:
    engine = f"{row.engine} ×{row.threads}" if row.threads > 1 else row.engine
    source = "" if row.source == "measured" else f" {row.source}"
    time = f"{shown(row.p50_ms)}{source}" if row.p50_ms else "no basis" if row.source == "estimated" else f"–{source}"
    share = "–" if row.accuracy is None else f"{100 * row.accuracy.value:.2f} {row.accuracy_kind}"
    others = [shown(figure) for figure in (row.p90_ms, row.fps, row.cold_ms, row.peak, row.size_mb)]
    return [label, engine, time, *others, share]
