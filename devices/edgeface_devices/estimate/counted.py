"""Latency from the instructions of an emulated core: XNNPACK's published nets, counted there, give the rate of a board.

    ms = instructions ÷ rate

One rate a board and precision: the geometric mean over the nets. The form, and the rule by which it was taken, were
stated before it was scored (docs/estimates.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeface_devices.boards.profiles import BoardProfile, profiles
from edgeface_devices.estimate.published import Published, counts, rows

USED = frozenset({("Raspberry Pi 3B+", "int8"), ("Raspberry Pi 4B", "float"), ("Raspberry Pi 4B", "int8")})
"""Board and precision where counts erred less than the ratio to ncnn; elsewhere that serves."""
REACH = 2.0
"""Estimates are given from the least counted net's instructions divided by it to the largest's times it."""
SYSTEM_FACTOR = 1.21
"""Between a 32-bit and a 64-bit system a net's time on one 4B differs by up to this much (XNNPACK's table has both)."""


def table(board: BoardProfile, kind: str, threads: int) -> list[Published]:
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
    """Published net → instructions, counted with one thread, a published millisecond; arguments as ``table``."""
    nets = _counted(board, kind)
    return {row.net: nets[row.net] / row.ms for row in table(board, kind, threads)}


def left_out(found: Mapping[str, float]) -> dict[str, float]:
    """Net → log(predicted ÷ published) at the geometric mean of the other nets' rates; at least two nets."""
    logs = {net: math.log(rate) for net, rate in found.items()}
    return {net: log - float(np.mean([logs[other] for other in logs if other != net])) for net, log in logs.items()}


def carries(board: BoardProfile, kind: str, threads: int, instructions: int) -> bool:
    """Whether counts are used there, and so many instructions lie near enough to those of two or more counted nets."""
    nets = _counted(board, kind)
    known = [nets[row.net] for row in table(board, kind, threads)]
    is_used = (board.board, kind) in USED and len(known) > 1
    return is_used and min(known) / REACH <= instructions <= max(known) * REACH


def interval_factor(board: BoardProfile, kind: str, threads: int) -> float:
    """Half width at the table's own version: the largest error left out, times what the rows do not state.

    The clock, where boards of that name have several; the system, where it was a 32-bit one and the count is not.
    """
    errors = left_out(rates(board, kind, threads)).values()
    clocks = [other.clock_mhz for other in profiles().values() if other.board == board.board]
    here = table(board, kind, threads)
    clock = max(clocks) / min(clocks) if any(row.clock_mhz is None for row in here) else 1.0
    system = SYSTEM_FACTOR if any("32-bit" in row.source for row in here) else 1.0
    return math.exp(max(map(abs, errors))) * clock * system


def _counted(board: BoardProfile, kind: str) -> dict[str, int]:
    return {row.net: row.total for row in counts() if (row.core, row.precision) == (board.core, kind)}
