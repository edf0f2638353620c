"""What a model would take on a board that is not at hand: always an interval, or "no basis" (docs/estimates.md)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeface_devices.boards.profiles import BoardProfile, profiles
from edgeface_devices.estimate import counted
from edgeface_devices.estimate.anchors import Anchor
from edgeface_devices.estimate.fit import (
    LEAST_MACS,
    MOST_LINEAR,
    MOST_MACS,
    by_family,
    errors,
    half_width,
    is_fitted_on,
    predict,
)
from edgeface_devices.estimate.published import Net, ncnn_times, nets, rows
from edgeface_devices.measurement import Figure, Measurement, Source, of_file
from edgeface_devices.results import Device, Results
from edgeface_runtime import Contract

VERSION_FACTOR = 1.4
"""Between two versions of one engine a net's time changes by up to this much, most of the time."""
INT8_FACTOR = 1.6
"""Least half width for int8: six nets a board do not carry a 90 % quantile of their own."""
ANCHOR_FACTOR = 2.0
"""Least half width for an engine known by a handful of other nets only."""
MEASURED_FACTOR = 1.36
"""From a measured net to another one: how much its quotient of measured over fitted differs, most of the time."""
SAME_FACTOR = 1.1
"""Half width of a row of the same net on the same board."""
_SAME_NET = 0.01
_WIDTHS = re.compile(r"_w[fi](\d+)_a[fiu](\d+)$")
"""Bits of a weight and of an activation in a recipe's name; a plain ``float`` has 32 of each."""
# Precision in a contract → in the public tables. Dynamic-range and weight-only int8 have no rows.
_KINDS = {"fp32": "float", "fp16": "float", "int8": "int8"}
# Engine as the bench calls it → as the public tables do.
_FAMILIES = {"ncnn": "ncnn", "litert": "xnnpack", "onnxruntime": "onnxruntime"}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Milliseconds of one inference, or the reason why there are none."""

    ms: Figure | None
    """Middle and 90 % interval; None: no basis."""
    note: str
    """What it rests on, or why there is no basis."""

    def __str__(self) -> str:
        """For a person: both ends of the interval, and what it rests on."""
        if self.ms is None or self.ms.interval is None:
            return f"no basis: {self.note}"
        low, high = (f"{end:.{0 if self.ms.value >= 30 else 1}f}" for end in self.ms.interval)
        return f"{low} to {high} ms, 90 % interval: {self.note}"


@dataclass(frozen=True)
class _Guess:
    ms: float
    half_width: float
    note: str


class _NoBasisError(Exception):
    """The evidence carries no estimate; says why."""


def net_of(contract: Contract, size_bytes: int) -> Net:
    """Costs of a file's net from its contract.

    The cost table holds weights and activations in one number of bytes, each as wide as the recipe says;
    the file's size says how many of them are weights.

    Args:
        contract: of the file; without a cost table all costs are 0.
        size_bytes: of the file.
    """
    found = _WIDTHS.search(contract.recipe)
    weight, activation = (int(found[1]) / 8, int(found[2]) / 8) if found else (4.0, 4.0)
    macs = {name: cost.macs / 1e6 for name, cost in contract.cost.items()}
    megabytes = sum(cost.bytes for cost in contract.cost.values()) / 1e6
    parameters = min(size_bytes / 1e6, megabytes) / weight
    return Net(
        pointwise=macs.get("pointwise", 0.0),
        conv=macs.get("conv", 0.0) + macs.get("grouped", 0.0),
        depthwise=macs.get("depthwise", 0.0),
        linear=macs.get("linear", 0.0),
        parameters=parameters,
        activations=(megabytes - parameters * weight) / activation,
        layers=sum(cost.count for cost in contract.cost.values()),
    )


def estimate(
    net: Net,
    board: BoardProfile,
    *,
    engine: str,
    precision: str,
    threads: int,
    version: str | None = None,
    measured: Sequence[Anchor] = (),
    instructions: int | None = None,
) -> Estimate:
    """The time of one inference on a board, from published rows and from the user's own where there are such.

    Args:
        net: its costs.
        board: one of ``profiles()``.
        engine: ``ncnn``, ``litert`` or ``onnxruntime``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        threads: of one call; published rows have 1 and 4.
        version: of the engine, as its public table says (year and month for ncnn). Unknown or another
            one widens the interval by ``VERSION_FACTOR``.
        measured: the user's own rows; those of this board, engine, precision and thread count count.
        instructions: of one call with one thread on the board's emulated core, where they were counted.
    """
    asked = (board.name, engine, precision, threads)
    mine = [row for row in measured if (row.board, row.engine, row.precision, row.threads) == asked]
    try:
        if precision not in _KINDS:
            raise _NoBasisError(f"no published row in {precision} on any board")
        kind = _KINDS[precision]
        if mine:
            guess = _measured(net, board, threads, mine)
        elif engine == "ncnn":
            guess = _ncnn(net, board, kind, threads, version)
        else:
            guess = _anchored(net, board, engine, kind, threads, version)
            if engine == "litert" and instructions is not None:
                guess = _from_counts(board, kind, threads, version, instructions) or guess
    except _NoBasisError as reason:
        return Estimate(ms=None, note=str(reason))
    low, high = guess.ms / guess.half_width, guess.ms * guess.half_width
    return Estimate(ms=Figure(guess.ms, "estimated", (low, high)), note=guess.note)


def _ncnn(net: Net, board: BoardProfile, kind: str, threads: int, version: str | None) -> _Guess:
    published, times = ncnn_times(board.board, board.clock_mhz, kind, threads)
    if not times:
        raise _NoBasisError(f"no published row of ncnn with {threads} threads on a {board.board}")
    guess = _same_net(net, board, kind, threads, times) or _from_costs(net, kind, times)
    note = f"{guess.note}, ncnn of {published}"
    if version == published:
        return _Guess(guess.ms, guess.half_width, note)
    note += f"; engine version {version or 'unknown'}: interval widened by {VERSION_FACTOR}"
    return _Guess(guess.ms, guess.half_width * VERSION_FACTOR, note)


def _same_net(net: Net, board: BoardProfile, kind: str, threads: int, times: Mapping[str, float]) -> _Guess | None:
    """The net's own row, on this board or else on the one that errs least: either beats its costs."""
    name = next((name for name, other in nets().items() if _is_same(net, other)), None)
    if name is None:
        return None
    if name in times:
        return _Guess(times[name], SAME_FACTOR, f"published row of {name} on this board")
    others = [other for other in profiles().values() if other.board != board.board]
    tables = {other.board: ncnn_times(other.board, other.clock_mhz, kind, threads)[1] for other in others}
    guesses = [
        _Guess(table[name] * ratio, width, f"published row of {name} on a {source}")
        for source, table in tables.items()
        if name in table
        for ratio, width in [transfer(table, times)]
    ]
    return min(guesses, key=lambda guess: guess.half_width, default=None)


def _measured(net: Net, board: BoardProfile, threads: int, mine: Sequence[Anchor]) -> _Guess:
    """The net's own measured row, or the fit scaled by how the measured nets stand to it."""
    last = mine[-1]
    same = next((row for row in reversed(mine) if _is_same(net, row.net)), None)
    if same is not None:
        return _Guess(same.ms, SAME_FACTOR, f"measured on your board on {same.date}, {same.engine} {same.version}")
    published, times = ncnn_times(board.board, board.clock_mhz, "float", threads)
    if not times:
        raise _NoBasisError(f"no published row of ncnn with {threads} threads on a {board.board} to carry other nets")
    guess = _from_costs(net, "float", times)
    logs = np.log([row.ms / _from_costs(row.net, "float", times).ms for row in mine])
    spread = math.exp(float(np.abs(logs - logs.mean()).max()))
    note = f"{guess.note}, ncnn of {published}; scaled to what you measured of {len(mine)} on your board"
    width = guess.half_width * max(MEASURED_FACTOR, spread)
    return _Guess(guess.ms * math.exp(float(logs.mean())), width, f"{note} with {last.engine} {last.version}")


def _is_same(net: Net, other: Net) -> bool:
    pairs = [(getattr(net, key), getattr(other, key)) for key in ("pointwise", "conv", "depthwise", "linear")]
    return all(abs(a - b) <= _SAME_NET * other.macs for a, b in pairs)


def transfer(source: Mapping[str, float], target: Mapping[str, float]) -> tuple[float, float]:
    """One ratio from a board to another, and its 90 % half width with each net left out.

    Args:
        source: net → milliseconds there.
        target: net → milliseconds here; at least two nets in common.
    """
    logs = {name: math.log(target[name] / source[name]) for name in source if name in target and is_fitted_on(name)}
    left_out = [logs[name] - np.median([logs[other] for other in logs if other != name]) for name in logs]
    return math.exp(float(np.median(list(logs.values())))), half_width(map(float, left_out))


def _from_costs(net: Net, kind: str, times: Mapping[str, float]) -> _Guess:
    if not net.macs:
        raise _NoBasisError("the contract has no cost table")
    if not LEAST_MACS <= net.macs <= MOST_MACS:
        carried = f"published nets carry {LEAST_MACS:.0f} to {MOST_MACS:.0f} M"
        raise _NoBasisError(f"{net.macs:.0f} M multiply-accumulates; {carried}")
    if net.linear > MOST_LINEAR:
        raise _NoBasisError(f"{net.linear:.0f} M fully connected weights; such nets took up to 3 times the estimate")
    fitted = {name: ms for name, ms in times.items() if is_fitted_on(name)}
    width = interval_factor(fitted, kind)
    return _Guess(predict(net, fitted, kind), width, f"costs, fitted to {len(fitted)} published nets")


def interval_factor(times: Mapping[str, float], kind: str) -> float:
    """Half width of the 90 % interval of an estimate from costs, fitted to net → milliseconds."""
    width = half_width(errors(times, kind, by_family).values())
    return max(width, INT8_FACTOR) if kind == "int8" else width


def anchors(board: BoardProfile, engine: str, kind: str, threads: int) -> dict[str, float]:
    """Net and version → time ÷ ncnn's in float, of an engine's published rows on a board.

    ncnn's time is the row of the same source where it has one, else the board's ncnn table. It is the float
    one for int8 too: more nets have both, and the float fit errs less.
    """
    _, table = ncnn_times(board.board, board.clock_mhz, "float", threads)
    here = [row for row in rows() if (row.board, row.threads) == (board.board, threads)]
    here = [row for row in here if row.clock_mhz in (None, board.clock_mhz)]
    same = {(row.version, row.net): row.ms for row in here if (row.engine, row.precision) == ("ncnn", "float")}
    mine = [row for row in here if (row.engine, row.precision) == (_FAMILIES[engine], kind)]
    pairs = [(row, same.get((row.version, row.net), table.get(row.net))) for row in mine]
    return {f"{row.net} {row.version}": row.ms / ms for row, ms in pairs if ms}


def _anchored(net: Net, board: BoardProfile, engine: str, kind: str, threads: int, version: str | None) -> _Guess:
    found = anchors(board, engine, kind, threads)
    if not found:
        number = f"{threads} threads" if threads > 1 else "1 thread"
        raise _NoBasisError(f"no published {kind} row of {engine} with {number} on a {board.board}")
    guess = _ncnn(net, board, "float", threads, version)
    logs = np.log(list(found.values()))
    ratio, spread = math.exp(float(logs.mean())), math.exp(float(np.abs(logs - logs.mean()).max()))
    width = max(ANCHOR_FACTOR, guess.half_width * spread)
    against = f"{engine} in {kind} against ncnn in float on {len(found)} published nets"
    return _Guess(guess.ms * ratio, width, f"{guess.note}; times {ratio:.2f}, {against}")


def _from_counts(board: BoardProfile, kind: str, threads: int, version: str | None, instructions: int) -> _Guess | None:
    """The counted instructions at the rate of XNNPACK's published nets; None where those carry nothing."""
    if not counted.carries(board, kind, threads, instructions):
        return None
    rates = counted.rates(board, kind, threads)
    published = counted.table(board, kind, threads)[0].version
    width = counted.interval_factor(board, kind, threads)
    note = f"{instructions / 1e6:.0f} million instructions of the emulated {board.core}, at the rate of {len(rates)} "
    note += f"published nets, XNNPACK of {published}"
    if version != published:
        width *= VERSION_FACTOR
        note += f"; engine version {version or 'unknown'}: interval widened by {VERSION_FACTOR}"
    rate = math.exp(float(np.log(list(rates.values())).mean()))
    return _Guess(instructions / rate, max(ANCHOR_FACTOR, width), note)


def outlook(paths: Sequence[Path], board: BoardProfile, *, threads: int, measured: Sequence[Anchor] = ()) -> Results:
    """Estimates of model files on a board: the file's own engine, and ncnn; ``measured``: the user's own rows.

    Raises:
        ModelError: a file is no model, or is damaged; names the file.
    """
    files = [of_file(path, threads=threads, source="estimated") for path in paths]
    rows = [replace(file, engine=engine) for file in files for engine in dict.fromkeys((file.engine, "ncnn"))]
    return Results(device=device_of(board, "estimated"), rows=tuple(estimated(row, board, measured) for row in rows))


def estimated(
    row: Measurement, board: BoardProfile, measured: Sequence[Anchor] = (), *, instructions: int | None = None
) -> Measurement:
    """A row, with the contract of its file, with the estimate of its time on a board in place of its own."""
    assert row.contract is not None
    value = estimate(
        net_of(row.contract, row.size_bytes),
        board,
        engine=row.engine,
        precision=row.precision,
        threads=row.threads,
        measured=measured,
        instructions=instructions,
    )
    return replace(row, source="estimated", p50_ms=value.ms, note=value.note)


def device_of(board: BoardProfile, source: Source) -> Device:
    """A board that is not at hand."""
    return Device(board.board, source, board.cores, board.system, profile=board.name, clock_mhz=board.clock_mhz)
