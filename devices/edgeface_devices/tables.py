"""Measurements as tables for a terminal: (columns, rows of cells)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeface_devices.boards.health import BoardState, Conditions
from edgeface_devices.measurement import Figure, Measurement, names
from edgeface_devices.results import Results

Table = tuple[list[str], list[list[str]]]

_CLASSES = ("total", "simd", "memory", "branch", "dot")


def shown(figure: Figure | None, digits: int | None = None) -> str:
    """A figure for a cell whose row names the source: three digits, or both ends of an interval of time."""
    if figure is None:
        return "–"
    low, high = figure.interval or (figure.value, figure.value)
    digits = _digits(high) if digits is None else digits
    return f"{low:.{digits}f}" if figure.interval is None else f"{low:.{digits}f} to {high:.{digits}f}"


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


def remote_table(rows: Sequence[Measurement]) -> Table:
    """Files that ran on another machine: times in ms and peak in MB, beside their answers on this one."""
    columns = ["file", "p50", "p90", "first", "peak", "top-1", "against here"]
    named = names(rows)
    times = [map(shown, (row.p50_ms, row.p90_ms, row.first_ms, row.peak)) for row in rows]
    return columns, [[named[row.path], *cells, *_answers(row)] for row, cells in zip(rows, times, strict=True)]


def emulated_table(rows: Sequence[Measurement]) -> Table:
    """Files on an emulated core: instructions of a call in millions, never times."""
    named = names(rows)
    counts = [[_millions(row, key) for key in _CLASSES] for row in rows]
    columns = ["file", *_CLASSES, "top-1", "against here"]
    return columns, [[named[row.path], *cells, *_answers(row)] for row, cells in zip(rows, counts, strict=True)]


def estimate_table(rows: Sequence[Measurement]) -> Table:
    """Estimates; every row says that it is one."""
    columns = ["file", "engine", "p50, 90 % interval, ms"]
    return columns, [[row.file, row.engine, _estimated(row.p50_ms)] for row in rows]


def grounds_table(rows: Sequence[Measurement]) -> Table:
    """What estimates rest on, each said once."""
    said = dict.fromkeys(f"{row.engine}, {row.precision}: {row.note}" for row in rows)
    return ["rests on"], [[text] for text in said]


def conditions_table(state: Conditions) -> Table:
    """Clock, heat and power before and after."""
    columns = ["the board", "MHz", "°C", "governor", "throttled"]
    cells = []
    for when, reading in (("before", state.before), ("after", state.after)):
        throttled = reading.to_json()["throttled"]
        cells.append([when, *_reading(reading), reading.governor or "–", "–" if throttled is None else str(throttled)])
    return columns, cells


def sustained_table(results: Results) -> Table:
    """Each repetition's median of each file, then how much the last differs from the first."""
    named, repetitions = names(results.rows), results.sustained
    cells = [[f"{at.minutes:.1f}", *(f"{ms:.2f}" for ms in at.medians_ms), *_reading(at.state)] for at in repetitions]
    ends = zip(repetitions[0].medians_ms, repetitions[-1].medians_ms, strict=True)
    drift = [f"{100 * (last / first - 1):+.1f} %" for first, last in ends]
    columns = ["minute", *(named[row.path] for row in results.rows), "MHz", "°C"]
    return columns, [*cells, ["drift", *drift, "", ""]]


def board_table(rows: Sequence[Measurement], named: Mapping[Path, str]) -> Table:
    """Rows of one board, however obtained, by the names of their files; a time that was not measured says so."""
    columns = ["file", "engine", "ms", "p90", "fps", "cold ms", "peak", "size", "accuracy"]
    cells = [_board_cells(row, named[row.path]) for row in rows]
    filled = [number for number in range(len(columns)) if any(line[number] != "–" for line in cells)]
    return [columns[number] for number in filled], [[line[number] for number in filled] for line in cells]


def by_board(rows: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Board → its rows, in the order of the boards."""
    boards: dict[str, list[Measurement]] = {}
    for row in rows:
        boards.setdefault(row.device or "", []).append(row)
    return boards


def origins(rows: Sequence[Measurement]) -> list[tuple[str, str]]:
    """(rows in words, where their times come from), each origin of a board once."""
    grouped: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows:
        grouped.setdefault((row.device or "", row.engine, row.origin or ""), {})[row.precision] = None
    return [(f"{device}, {engine}, {', '.join(kinds)}", origin) for (device, engine, origin), kinds in grouped.items()]


def _digits(size: float) -> int:
    """Three digits are what a terminal has room for, and more than a timing is worth."""
    return 2 if size < 9.995 else 1 if size < 99.95 else 0


def _share(top1: float | None) -> str:
    return "–" if top1 is None else f"{100 * top1:.1f}"


def _answers(row: Measurement) -> list[str]:
    return [_share(row.top1), "–" if row.agreement is None else str(row.agreement)]


def _millions(row: Measurement, key: str) -> str:
    return shown(Figure(row.instructions[key] / 1e6, "emulated")) if row.instructions else "–"


def _estimated(ms: Figure | None) -> str:
    return "no basis (estimated)" if ms is None else f"{ms:.{0 if ms.value >= 30 else 1}f}"


def _reading(state: BoardState) -> list[str]:
    return ["–" if number is None else str(number) for number in (state.mhz, state.celsius)]


def _board_cells(row: Measurement, label: str) -> list[str]:
    engine = f"{row.engine} ×{row.threads}" if row.threads > 1 else row.engine
    source = "" if row.source == "measured" else f" {row.source}"
    time = f"{shown(row.p50_ms)}{source}" if row.p50_ms else "no basis" if row.source == "estimated" else f"–{source}"
    share = "–" if row.accuracy is None else f"{100 * row.accuracy.value:.2f} {row.accuracy_kind}"
    others = [shown(figure) for figure in (row.p90_ms, row.fps, row.cold_ms, row.peak, row.size_mb)]
    return [label, engine, time, *others, share]
