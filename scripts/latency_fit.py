"""Fits the numbers that estimates are made of (estimate/fitted.json) to the published rows of estimate/facts.

Non-negative least squares in relative error, scaled so that the median of published over fitted is 1. The half width
of an interval is the conformal 90 % quantile of the errors on nets whose whole family was left out. Instruction
counts: one rate a board and precision, the geometric mean over the counted nets. The forms, and the rule by which
counts were taken, were frozen before they were scored (docs/estimates.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from edgeface_devices.boards.profiles import BoardProfile, profiles
from edgeface_devices.estimate.evidence import (
    LEAST_MACS,
    MOST_LINEAR,
    MOST_MACS,
    Costs,
    Published,
    features,
    ncnn_times,
    nets,
    read_facts,
    rows,
)

COVERAGE = 0.9
INT8_FACTOR = 1.6
"""Least half width for int8: six nets a board do not carry a 90 % quantile of their own."""
USED = frozenset({("Raspberry Pi 4B", "float")})
"""Board and precision where counts carry a narrower interval than the ratio to ncnn; elsewhere that serves."""
SYSTEM_FACTOR = 1.21
"""Between a 32-bit and a 64-bit system a net's time on one 4B differs by up to this much (XNNPACK's table has both)."""
JOINED = frozenset({"googlenet", "shufflenet", "inception"})
"""Families that shuffle channels or join three and more branches: XNNPACK takes 2 to 3 times as long for them."""
POOLED = {("litert", "int8"): 1.6, ("onnxruntime", "int8"): 2.0}
"""Engine and precision whose rows of all boards make one ratio to ncnn's fit → least half width."""
# Engine as the bench calls it → as the public tables do.
FAMILIES = {"litert": "xnnpack", "onnxruntime": "onnxruntime"}
KINDS = ("float", "int8")
THREADS = (1, 4)

Array = NDArray[np.float64]


def nnls(matrix: Array, target: Array) -> Array:
    """The x ≥ 0 of least ‖matrix·x − target‖ (Lawson and Hanson 1974, chapter 23).

    Args:
        matrix: (rows, columns).
        target: (rows,).
    """
    count = matrix.shape[1]
    x, free = np.zeros(count), np.zeros(count, bool)
    for _ in range(3 * count):
        gradient = np.where(free, -np.inf, matrix.T @ (target - matrix @ x))
        if free.all() or gradient.max() < 1e-9:
            break
        free[gradient.argmax()] = True
        while True:
            step = np.zeros(count)
            step[free] = np.linalg.lstsq(matrix[:, free], target, rcond=None)[0]
            wrong = free & (step <= 0)
            if not wrong.any():
                x = step
                break
            x = x + (x[wrong] / (x[wrong] - step[wrong])).min() * (step - x)
            free &= x > 1e-12
    return x


def coefficients(times: Mapping[str, float], precision: str) -> Array:
    """Milliseconds a unit of each feature, fitted to net → milliseconds."""
    matrix = np.array([features(nets()[name], precision) for name in times])
    published = np.array(list(times.values()))
    relative = matrix / published[:, None]
    scale = relative.mean(axis=0)
    scale[scale == 0] = 1.0
    x = nnls(relative / scale, np.ones(len(published))) / scale
    centre = float(np.exp(np.median(np.log(matrix @ x / published))))
    return np.asarray(x / centre)


def predicted(net: Costs, times: Mapping[str, float], precision: str) -> float:
    """Milliseconds of a net from the published times of others on one board."""
    return float(np.array(features(net, precision)) @ coefficients(times, precision))


def is_fitted_on(name: str) -> bool:
    """Whether a published net takes part: all but those with big fully connected layers."""
    return nets()[name].linear <= MOST_LINEAR and nets()[name].macs <= 2 * MOST_MACS


def is_scored(name: str) -> bool:
    """Whether a published net lies where estimates are given."""
    return is_fitted_on(name) and LEAST_MACS <= nets()[name].macs <= MOST_MACS


def errors(times: Mapping[str, float], precision: str, group: Callable[[str], str]) -> dict[str, float]:
    """Net → log(predicted ÷ published) when all nets of its group are left out of the fit."""
    found = {}
    for name in filter(is_scored, times):
        others = {other: ms for other, ms in times.items() if group(other) != group(name)}
        found[name] = math.log(predicted(nets()[name], others, precision) / times[name])
    return found


def by_family(name: str) -> str:
    """Group of a net: its family."""
    return families()[name]


def half_width(logs: Iterable[float]) -> float:
    """The factor that 90 % of the errors stay within: conformal, the largest where there are fewer than 9."""
    sizes = sorted(map(abs, logs))
    rank = min(math.ceil(COVERAGE * (len(sizes) + 1)), len(sizes))
    return math.exp(sizes[rank - 1])


def cost_half_width(times: Mapping[str, float], kind: str) -> float:
    """Half width of the 90 % interval of an estimate from costs, fitted to net → milliseconds."""
    width = half_width(errors(times, kind, by_family).values())
    return max(width, INT8_FACTOR) if kind == "int8" else width


def transfer(source: Mapping[str, float], target: Mapping[str, float]) -> tuple[float, float]:
    """One ratio from a board to another, and its 90 % half width with each net left out.

    Args:
        source: net → milliseconds there.
        target: net → milliseconds here; at least two nets in common.
    """
    logs = {name: math.log(target[name] / source[name]) for name in source if name in target and is_fitted_on(name)}
    left_out = [logs[name] - np.median([logs[other] for other in logs if other != name]) for name in logs]
    return math.exp(float(np.median(list(logs.values())))), half_width(map(float, left_out))


def _is_of(row: Published, board: BoardProfile, threads: int) -> bool:
    of_board = (row.board, row.threads) == (board.board, threads)
    return of_board and row.clock_mhz in (None, board.clock_mhz)


def engine_rows(board: BoardProfile, engine: str, kind: str, threads: int) -> list[Published]:
    """An engine's published rows on a board."""
    asked = FAMILIES[engine], kind
    return [row for row in rows() if (row.engine, row.precision) == asked and _is_of(row, board, threads)]


def engine_ratios(board: BoardProfile, engine: str, kind: str, threads: int) -> dict[str, float]:
    """Net and version → time ÷ ncnn's in float, of an engine's published rows on a board.

    ncnn's time is the row of the same source where it has one, else the board's ncnn table. It is the float
    one for int8 too: more nets have both, and the float fit errs less.
    """
    _, table = ncnn_times(board.board, board.clock_mhz, "float", threads)
    ncnn = [row for row in rows() if (row.engine, row.precision) == ("ncnn", "float") and _is_of(row, board, threads)]
    same = {(row.version, row.net): row.ms for row in ncnn}
    mine = engine_rows(board, engine, kind, threads)
    pairs = [(row, same.get((row.version, row.net), table.get(row.net))) for row in mine]
    return {f"{row.net} {row.version}": row.ms / ms for row, ms in pairs if ms}


def pooled(engine: str, kind: str, threads: int, *, joined: bool = False) -> dict[tuple[str, str], float]:
    """(board, net) → log(published ÷ what ncnn's float fit without the net's family predicts), on all boards.

    Of two clocks of one board the profile that serves where a row states none is the higher one.

    Args:
        engine: as the bench calls it.
        kind: ``float`` or ``int8``.
        threads: of the published rows.
        joined: LiteRT's families in ``JOINED`` instead of all others.
    """
    found = {}
    highest = {board.board: board for board in sorted(profiles().values(), key=lambda board: board.clock_mhz)}
    for row in rows():
        if (row.engine, row.precision, row.threads) != (FAMILIES[engine], kind, threads) or row.net not in nets():
            continue
        if engine == "litert" and (by_family(row.net) in JOINED) != joined:
            continue
        board = highest[row.board]
        _, times = ncnn_times(board.board, board.clock_mhz, "float", threads)
        others = {net: ms for net, ms in times.items() if is_fitted_on(net) and by_family(net) != by_family(row.net)}
        found[board.name, row.net] = math.log(row.ms / predicted(nets()[row.net], others, "float"))
    return found


def pooled_errors(
    logs: Mapping[tuple[str, str], float], group: Callable[[str], str]
) -> dict[tuple[str, str], tuple[float, float]]:
    """(board, net) → (log(predicted ÷ published), half width), both without the nets of its group on any board."""
    found = {}
    for key, log in logs.items():
        others = {other: value for other, value in logs.items() if group(other[1]) != group(key[1])}
        within = {
            other: value - float(np.mean([v for k, v in others.items() if group(k[1]) != group(other[1])] or [value]))
            for other, value in others.items()
        }
        found[key] = float(np.mean(list(others.values()))) - log, half_width(within.values())
    return found


def pooled_ratio(engine: str, kind: str, threads: int) -> dict[str, object] | None:
    """One ratio for all boards; None without rows with that many threads."""
    logs = pooled(engine, kind, threads)
    if not logs:
        return None
    mean = float(np.mean(list(logs.values())))
    width = half_width(error for error, _ in pooled_errors(logs, by_family).values())
    return {
        "engine": engine,
        "nets": len(logs),
        "ratio": math.exp(mean),
        "spread": math.exp(max(abs(log - mean) for log in logs.values())),
        "half_width": max(width, POOLED[engine, kind]),
    }


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Instructions of one inference of a published net on an emulated core, with one thread."""

    core: str
    """As board profiles call it."""
    engine: str
    """As the bench calls it."""
    precision: str
    """``float`` or ``int8``, as in ``Published``."""
    net: str
    macs: float
    """Multiply-accumulates, in millions."""
    total: int
    """The others are classes of these; ``dot`` (dot products) is part of ``simd``."""
    simd: int
    memory: int
    branch: int
    dot: int
    source: str


@cache
def counts() -> tuple[Counted, ...]:
    """Every counted net, in the order of the file."""
    return tuple(
        Counted(
            **{key: row[key] for key in ("core", "engine", "precision", "net", "source")},
            macs=float(row["macs"]),
            total=int(row["total"]),
            simd=int(row["simd"]),
            memory=int(row["memory"]),
            branch=int(row["branch"]),
            dot=int(row["dot"]),
        )
        for row in read_facts("counts.csv")
    )


@cache
def families() -> dict[str, str]:
    """Name of a net → its family; relatives are left out together."""
    return {row["net"]: row["family"] for row in read_facts("nets.csv")}


def counted_rows(board: BoardProfile, kind: str, threads: int) -> list[Published]:
    """XNNPACK's rows of the counted nets on a board.

    Args:
        board: whose core was emulated.
        kind: ``float`` or ``int8``.
        threads: of the published rows.
    """
    nets = _counted(board, kind)
    asked = (board.board, "xnnpack", kind, threads)
    here = [row for row in rows() if (row.board, row.engine, row.precision, row.threads) == asked]
    return [row for row in here if row.net in nets and row.clock_mhz in (None, board.clock_mhz)]


def rates(board: BoardProfile, kind: str, threads: int) -> dict[str, float]:
    """Published net → instructions, counted with one thread, a published millisecond; arguments as ``counted_rows``."""
    nets = _counted(board, kind)
    return {row.net: nets[row.net] / row.ms for row in counted_rows(board, kind, threads)}


def counts_left_out(found: Mapping[str, float]) -> dict[str, float]:
    """Net → log(predicted ÷ published) at the geometric mean of the other nets' rates; at least two nets."""
    logs = {net: math.log(rate) for net, rate in found.items()}
    return {net: log - float(np.mean([logs[other] for other in logs if other != net])) for net, log in logs.items()}


def count_half_width(board: BoardProfile, kind: str, threads: int) -> float:
    """Half width at the table's own version: the largest error left out, times what the rows do not state.

    The clock, where boards of that name have several; the system, where it was a 32-bit one and the count is not.
    """
    errors = counts_left_out(rates(board, kind, threads)).values()
    clocks = [other.clock_mhz for other in profiles().values() if other.board == board.board]
    here = counted_rows(board, kind, threads)
    clock = max(clocks) / min(clocks) if any(row.clock_mhz is None for row in here) else 1.0
    system = SYSTEM_FACTOR if any("32-bit" in row.source for row in here) else 1.0
    return math.exp(max(map(abs, errors))) * clock * system


def _counted(board: BoardProfile, kind: str) -> dict[str, int]:
    return {row.net: row.total for row in counts() if (row.core, row.precision) == (board.core, kind)}


def fit() -> dict[str, list[dict[str, object]]]:
    """The tables of fitted.json."""
    tables: dict[str, list[dict[str, object]]] = {"costs": [], "transfers": [], "engines": [], "counts": []}
    for board, kind, threads in product(profiles().values(), KINDS, THREADS):
        key = {"board": board.name, "precision": kind, "threads": threads}
        version, times = ncnn_times(board.board, board.clock_mhz, kind, threads)
        fitted = {name: ms for name, ms in times.items() if is_fitted_on(name)}
        found = {"version": version, "nets": len(fitted), "coefficients": coefficients(fitted, kind).tolist()}
        tables["costs"].append(key | found | {"half_width": cost_half_width(fitted, kind)})
        # Of two clocks of one board the last serves.
        others = {other.board: other for other in profiles().values() if other.board != board.board}
        for source in others.values():
            _, there = ncnn_times(source.board, source.clock_mhz, kind, threads)
            ratio, width = transfer(there, times)
            tables["transfers"].append(key | {"source": source.name, "ratio": ratio, "half_width": width})
        for engine in FAMILIES:
            if (engine, kind) in POOLED:
                one = pooled_ratio(engine, kind, threads)
                # onnxruntime's stand to ncnn's differently on each board; XNNPACK's do not.
                if one and (engine == "litert" or engine_rows(board, engine, kind, threads)):
                    tables["engines"].append(key | one)
            elif logs := np.log(list(engine_ratios(board, engine, kind, threads).values())).tolist():
                ratio, spread = math.exp(np.mean(logs)), math.exp(np.abs(logs - np.mean(logs)).max())
                found = {"engine": engine, "nets": len(logs), "ratio": ratio, "spread": spread}
                tables["engines"].append(key | found)
        if (board.board, kind) in USED and len(counted_rows(board, kind, threads)) > 1:
            tables["counts"].append(key | _count_rate(board, kind, threads))
    return tables


def _count_rate(board: BoardProfile, kind: str, threads: int) -> dict[str, object]:
    found, published = rates(board, kind, threads), counted_rows(board, kind, threads)
    totals = [_counted(board, kind)[row.net] for row in published]
    return {
        "version": published[0].version,
        "nets": len(found),
        "rate": math.exp(np.log(list(found.values())).mean()),
        "half_width": count_half_width(board, kind, threads),
        "least": min(totals),
        "most": max(totals),
    }


def text(tables: dict[str, list[dict[str, object]]]) -> str:
    """As the file holds them: JSON, one row a line."""
    parts = [f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in tables.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"
