"""The numbers that estimates are made of: fitted at release by scripts/fit_estimates.py, shipped as fitted.json.

For each board, precision and thread count

    float: ms = a·pointwise + b·conv + c·depthwise + d·activations + e·parameters + f·layers
    int8:  ms = a·macs + d·activations + f·layers

Every interval is symmetric in the logarithm: the middle divided and multiplied by the half width.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from edgeface_devices.estimate.published import Costs

FILE = Path(__file__).parent / "fitted.json"
LEAST_MACS, MOST_MACS, MOST_LINEAR = 50.0, 2000.0, 4.0
"""In millions. The published nets begin at 106 and thin out beyond 2000; fully connected weights above 4 M
(AlexNet, VGG16) took 0.6 to 3.0 times what the form predicts."""


@dataclass(frozen=True, kw_only=True)
class CostFit:
    """ncnn's time from a net's costs."""

    board: str
    """Name of its profile."""
    precision: str
    """``float`` or ``int8``, as in the public tables."""
    threads: int
    version: str
    """Of the engine's table."""
    nets: int
    """How many it is fitted to."""
    coefficients: tuple[float, ...]
    """Milliseconds a unit of each of ``features``."""
    half_width: float
    """Of the 90 % interval."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """ncnn's time on a board from the same net's on another."""

    board: str
    precision: str
    threads: int
    source: str
    """Profile of the other board."""
    ratio: float
    half_width: float


@dataclass(frozen=True, kw_only=True)
class EngineRatio:
    """Another engine's time from ncnn's in float."""

    board: str
    engine: str
    precision: str
    threads: int
    nets: int
    ratio: float
    spread: float
    """Largest factor between the ratio of one net and ``ratio``."""


@dataclass(frozen=True, kw_only=True)
class CountRate:
    """LiteRT's time from the instructions of one call with one thread on the emulated core."""

    board: str
    precision: str
    threads: int
    version: str
    nets: int
    rate: float
    """Instructions a millisecond."""
    half_width: float
    least: int
    most: int
    """Fewest and most instructions of the counted nets."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Everything, by what is asked for: board, then engine where there are several, precision, threads."""

    costs: Mapping[Hashable, CostFit]
    transfers: Mapping[Hashable, tuple[Transfer, ...]]
    engines: Mapping[Hashable, EngineRatio]
    counts: Mapping[Hashable, CountRate]


@cache
def fitted() -> Fitted:
    """What the file holds."""
    tables = json.loads(FILE.read_text(encoding="utf-8"))
    transfers: dict[Hashable, tuple[Transfer, ...]] = {}
    for row in (Transfer(**entry) for entry in tables["transfers"]):
        key = row.board, row.precision, row.threads
        transfers[key] = (*transfers.get(key, ()), row)
    costs = [CostFit(**entry | {"coefficients": tuple(entry["coefficients"])}) for entry in tables["costs"]]
    engines = [EngineRatio(**entry) for entry in tables["engines"]]
    counts = [CountRate(**entry) for entry in tables["counts"]]
    return Fitted(
        costs={(row.board, row.precision, row.threads): row for row in costs},
        transfers=transfers,
        engines={(row.board, row.engine, row.precision, row.threads): row for row in engines},
        counts={(row.board, row.precision, row.threads): row for row in counts},
    )


def features(net: Costs, precision: str) -> list[float]:
    """The terms of the form, each growing with the net."""
    if precision == "int8":
        return [net.macs, net.activations, net.layers]
    return [net.pointwise, net.conv, net.depthwise, net.activations, net.parameters, net.layers]


def predict(net: Costs, fit: CostFit) -> float:
    """Milliseconds of a net with ncnn."""
    return float(np.array(features(net, fit.precision)) @ np.array(fit.coefficients))
