"""What a model would take on a board that is not at hand: always an interval, or "no basis" (docs/estimates.md)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeface_devices.boards.profiles import BoardProfile, profiles
from edgeface_devices.estimate.evidence import (
    LEAST_MACS,
    MOST_LINEAR,
    MOST_MACS,
    Anchor,
    CostFit,
    Costs,
    fitted,
    ncnn_times,
    nets,
    predict,
)
from edgeface_devices.figures import Figure, Source
from edgeface_devices.measurement import Measurement, of_file
from edgeface_devices.results import Device, Results
from edgeface_runtime import Contract

VERSION_FACTOR = 1.4
"""Between two versions of one engine a net's time changes by up to this much, most of the time."""
ANCHOR_FACTOR = 2.0
"""Least half width for an engine known by a handful of other nets only."""
MEASURED_FACTOR = 1.36
"""From a measured net to another one: how much its quotient of measured over fitted differs, most of the time."""
REACH = 2.0
"""Counted instructions carry from the least counted net's divided by it to the largest's times it."""
SAME_FACTOR = 1.1
"""Half width of a row of the same net on the same board."""
_SAME_NET = 0.01
_WIDTHS = re.compile(r"_w[fi](\d+)_a[fiu](\d+)$")
"""Bits of a weight and of an activation in a recipe's name; a plain ``float`` has 32 of each."""
# Precision in a contract → in the public tables. Dynamic-range and weight-only int8 have no rows.
_KINDS = {"fp32": "float", "fp16": "float", "int8": "int8"}


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


def costs_of(contract: Contract, size_bytes: int) -> Costs:
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
    return Costs(
        pointwise=macs.get("pointwise", 0.0),
        conv=macs.get("conv", 0.0) + macs.get("grouped", 0.0),
        depthwise=macs.get("depthwise", 0.0),
        linear=macs.get("linear", 0.0),
        parameters=parameters,
        activations=(megabytes - parameters * weight) / activation,
        layers=sum(cost.count for cost in contract.cost.values()),
    )


def estimate(
    net: Costs,
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
                counted = _from_counts(board, kind, threads, version, instructions)
                guess = min(filter(None, (counted, guess)), key=lambda each: each.half_width)
    except _NoBasisError as reason:
        return Estimate(ms=None, note=str(reason))
    low, high = guess.ms / guess.half_width, guess.ms * guess.half_width
    return Estimate(ms=Figure(guess.ms, "estimated", (low, high)), note=guess.note)


def _ncnn(net: Costs, board: BoardProfile, kind: str, threads: int, version: str | None) -> _Guess:
    fit = _cost_fit(board, kind, threads)
    guess = _same_net(net, board, fit) or _from_costs(net, fit)
    note = f"{guess.note}, ncnn of {fit.version}"
    if version == fit.version:
        return _Guess(guess.ms, guess.half_width, note)
    note += f"; engine version {version or 'unknown'}: interval widened by {VERSION_FACTOR}"
    return _Guess(guess.ms, guess.half_width * VERSION_FACTOR, note)


def _cost_fit(board: BoardProfile, kind: str, threads: int, purpose: str = "") -> CostFit:
    fit = fitted().costs.get((board.name, kind, threads))
    if fit is None:
        raise _NoBasisError(f"no published row of ncnn with {threads} threads on a {board.board}{purpose}")
    return fit


def _same_net(net: Costs, board: BoardProfile, fit: CostFit) -> _Guess | None:
    """The net's own row, on this board or else on the one that errs least: either beats its costs."""
    name = next((name for name, other in nets().items() if _is_same(net, other)), None)
    if name is None:
        return None
    _, times = ncnn_times(board.board, board.clock_mhz, fit.precision, fit.threads)
    if name in times:
        return _Guess(times[name], SAME_FACTOR, f"published row of {name} on this board")
    guesses = []
    for transfer in fitted().transfers.get((board.name, fit.precision, fit.threads), ()):
        source = profiles()[transfer.source]
        _, times = ncnn_times(source.board, source.clock_mhz, fit.precision, fit.threads)
        if name in times:
            note = f"published row of {name} on a {source.board}"
            guesses.append(_Guess(times[name] * transfer.ratio, transfer.half_width, note))
    return min(guesses, key=lambda guess: guess.half_width, default=None)


def _measured(net: Costs, board: BoardProfile, threads: int, mine: Sequence[Anchor]) -> _Guess:
    """The net's own measured row, or the fit scaled by how the measured nets stand to it."""
    last = mine[-1]
    same = next((row for row in reversed(mine) if _is_same(net, row.net)), None)
    if same is not None:
        return _Guess(same.ms, SAME_FACTOR, f"measured on your board on {same.date}, {same.engine} {same.version}")
    fit = _cost_fit(board, "float", threads, " to carry other nets")
    guess = _from_costs(net, fit)
    logs = np.log([row.ms / _from_costs(row.net, fit).ms for row in mine])
    spread = math.exp(float(np.abs(logs - logs.mean()).max()))
    note = f"{guess.note}, ncnn of {fit.version}; scaled to what you measured of {len(mine)} on your board"
    width = guess.half_width * max(MEASURED_FACTOR, spread)
    return _Guess(guess.ms * math.exp(float(logs.mean())), width, f"{note} with {last.engine} {last.version}")


def _is_same(net: Costs, other: Costs) -> bool:
    pairs = [(getattr(net, key), getattr(other, key)) for key in ("pointwise", "conv", "depthwise", "linear")]
    return all(abs(a - b) <= _SAME_NET * other.macs for a, b in pairs)


def _from_costs(net: Costs, fit: CostFit) -> _Guess:
    if not net.macs:
        raise _NoBasisError("the contract has no cost table")
    if not LEAST_MACS <= net.macs <= MOST_MACS:
        carried = f"published nets carry {LEAST_MACS:.0f} to {MOST_MACS:.0f} M"
        raise _NoBasisError(f"{net.macs:.0f} M multiply-accumulates; {carried}")
    if net.linear > MOST_LINEAR:
        raise _NoBasisError(f"{net.linear:.0f} M fully connected weights; such nets took up to 3 times the estimate")
    return _Guess(predict(net, fit), fit.half_width, f"costs, fitted to {fit.nets} published nets")


def _anchored(net: Costs, board: BoardProfile, engine: str, kind: str, threads: int, version: str | None) -> _Guess:
    found = fitted().engines.get((board.name, engine, kind, threads))
    if found is None:
        number = f"{threads} threads" if threads > 1 else "1 thread"
        raise _NoBasisError(f"no published {kind} row of {engine} with {number} on a {board.board}")
    if found.half_width is not None:
        # No factor for the version: the rows are of versions four years apart.
        guess = _from_costs(net, _cost_fit(board, "float", threads))
        note = f"{guess.note} by ncnn; times {found.ratio:.2f}, {engine} in {kind} on {found.nets} published rows"
        if engine == "litert":
            note += " of nets without shuffled channels and wide branches"
        return _Guess(guess.ms * found.ratio, found.half_width, note)
    guess = _ncnn(net, board, "float", threads, version)
    width = max(ANCHOR_FACTOR, guess.half_width * found.spread)
    against = f"{engine} in {kind} against ncnn in float on {found.nets} published nets"
    return _Guess(guess.ms * found.ratio, width, f"{guess.note}; times {found.ratio:.2f}, {against}")


def _from_counts(board: BoardProfile, kind: str, threads: int, version: str | None, instructions: int) -> _Guess | None:
    """The counted instructions at the rate of XNNPACK's published nets; None where those carry nothing."""
    found = fitted().counts.get((board.name, kind, threads))
    if found is None or not found.least / REACH <= instructions <= found.most * REACH:
        return None
    note = f"{instructions / 1e6:.0f} million instructions of the emulated {board.core}, at the rate of {found.nets} "
    note += f"published nets, XNNPACK of {found.version}"
    width = found.half_width
    if version != found.version:
        width *= VERSION_FACTOR
        note += f"; engine version {version or 'unknown'}: interval widened by {VERSION_FACTOR}"
    return _Guess(instructions / found.rate, max(ANCHOR_FACTOR, width), note)


def outlook(paths: Sequence[Path], board: BoardProfile, *, threads: int, measured: Sequence[Anchor] = ()) -> Results:
    """Estimates of model files on a board, by the file's own engine; ``measured``: the user's own rows.

    A float file has a row for ncnn too: ``edgeface export --format ncnn`` writes the net for it.

    Raises:
        ModelError: a file is no model, or is damaged; names the file.
    """
    files = [of_file(path, threads=threads, source="estimated") for path in paths]
    rows = [replace(file, engine=engine) for file in files for engine in _engines(file)]
    return Results(device=device_of(board, "estimated"), rows=tuple(estimated(row, board, measured) for row in rows))


def _engines(file: Measurement) -> tuple[str, ...]:
    with_ncnn = file.engine != "ncnn" and _KINDS.get(file.precision) == "float"
    return (file.engine, "ncnn") if with_ncnn else (file.engine,)


def estimated(
    row: Measurement, board: BoardProfile, measured: Sequence[Anchor] = (), *, instructions: int | None = None
) -> Measurement:
    """A row, with the contract of its file, with the estimate of its time on a board in place of its own."""
    assert row.contract is not None
    value = estimate(
        costs_of(row.contract, row.size_bytes),
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
