"""What estimates rest on: published latencies (facts/), what is fitted to them, and rows of the user's own boards.

scripts/fit_estimates.py fits at release; the numbers are shipped as fitted.json.

For each board, precision and thread count

    float: ms = a·pointwise + b·conv + c·depthwise + d·activations + e·parameters + f·layers
    int8:  ms = a·macs + d·activations + f·layers

Every interval is symmetric in the logarithm: the middle divided and multiplied by the half width.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import numpy as np

from edgeface_devices.results import Results
from edgeface_runtime import UsageError
from edgeface_runtime.checks import Positive, Span, build, parse_json, read_text
from edgeface_runtime.files import replacing

FOLDER = Path(__file__).parent / "facts"
FITTED = Path(__file__).parent / "fitted.json"
Amount = Annotated[float, Span(0, 1e9)]
LEAST_MACS, MOST_MACS, MOST_LINEAR = 50.0, 2000.0, 4.0
"""In millions. The published nets begin at 106 and thin out beyond 2000; fully connected weights above 4 M
(AlexNet, VGG16) took 0.6 to 3.0 times what the form predicts."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Work and data of one inference of a model, in millions; ``layers`` counts operators."""

    pointwise: Amount
    """Multiply-accumulates of 1×1 convolutions."""
    conv: Amount
    """Multiply-accumulates of all other convolutions that are not depthwise."""
    depthwise: Amount
    linear: Amount
    """Multiply-accumulates, and so weights, of fully connected layers."""
    parameters: Amount
    activations: Amount
    """Elements of all operators' outputs."""
    layers: Amount

    @property
    def macs(self) -> float:
        """Multiply-accumulates of all operators, in millions."""
        return self.pointwise + self.conv + self.depthwise + self.linear


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of a public table."""

    board: str
    clock_mhz: int | None
    engine: str
    version: str
    precision: str
    """``float`` (the engine's default: fp32, fp16 arithmetic on a Pi 5) or ``int8``."""
    threads: int
    net: str
    ms: float
    source: str


@cache
def nets() -> dict[str, Costs]:
    """Name → costs of the nets that the ncnn tables time."""
    names = Costs.__dataclass_fields__
    return {row["net"]: Costs(**{name: float(row[name]) for name in names}) for row in read_facts("nets.csv")}


@cache
def rows() -> tuple[Published, ...]:
    """Every row, in the order of the file."""
    return tuple(
        Published(
            **{key: row[key] for key in ("board", "engine", "version", "precision", "net", "source")},
            clock_mhz=int(row["clock_mhz"]) if row["clock_mhz"] else None,
            threads=int(row["threads"]),
            ms=float(row["ms"]),
        )
        for row in read_facts("rows.csv")
    )


@cache
def ncnn_times(board: str, clock_mhz: int, precision: str, threads: int) -> tuple[str, dict[str, float]]:
    """Version and net → milliseconds of the newest ncnn table of a board at that clock; ("", {}) without one."""
    key = (board, clock_mhz, "ncnn", precision, threads)
    here = [r for r in rows() if (r.board, r.clock_mhz, r.engine, r.precision, r.threads) == key and r.net in nets()]
    version = max((r.version for r in here), default="")
    return version, {r.net: r.ms for r in here if r.version == version}


def read_facts(name: str) -> list[dict[str, str]]:
    """The rows of a file of ``facts``, column → text."""
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
    half_width: float | None = None
    """Of the 90 % interval, where the ratio stands to what ncnn's fit predicts and both were scored together."""


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
    tables = json.loads(FITTED.read_text(encoding="utf-8"))
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


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One file measured on one board."""

    board: str
    """Name of its profile."""
    engine: str
    version: str
    precision: str
    threads: Annotated[int, Span(1, 1024)]
    net: Costs
    ms: Positive
    """Median of a call."""
    sha256: str
    """Of the file."""
    date: str


def anchor_file() -> Path:
    """``$XDG_DATA_HOME/edgeface/anchors.jsonl``: one row a line."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "edgeface" / "anchors.jsonl"


def load_anchors() -> list[Anchor]:
    """Every kept row, the oldest first.

    Raises:
        UsageError: the file is no list of rows; names it and the line.
    """
    path = anchor_file()
    rows = []
    try:
        text = read_text(path) if path.exists() else ""
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(build(Anchor, parse_json(line), "row"))
        except (ValueError, UsageError) as error:
            raise UsageError(f"{path}: line {number} is no measured row ({error}); remove it") from error
    return rows


def keep(results: Results, nets: Sequence[Costs]) -> list[Anchor]:
    """Keeps what a board measured, in the place of older rows of the same files there, and gives the new rows.

    Nothing is kept of an emulated machine, of a board that is not known, of one that was throttled, or of files
    whose contract has no costs.

    Args:
        results: of ``remote.measure``.
        nets: costs of its rows' files.
    """
    board = results.device.profile
    throttled = results.state is not None and results.state.throttled
    if results.device.source != "measured" or board is None or throttled:
        return []
    new = [
        Anchor(
            board=board,
            engine=row.engine,
            version=row.engine_version or "unknown",
            precision=row.precision,
            threads=row.threads,
            net=net,
            ms=row.median_ms,
            sha256=sha256(row.path.read_bytes()).hexdigest(),
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
        )
        for row, net in zip(results.rows, nets, strict=True)
        if net.macs
    ]
    replaced = {_identity(anchor) for anchor in new}
    rows = [anchor for anchor in load_anchors() if _identity(anchor) not in replaced] + new
    path = anchor_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text("".join(f"{json.dumps(asdict(anchor))}\n" for anchor in rows), encoding="utf-8")
    return new


def _identity(anchor: Anchor) -> tuple[object, ...]:
    return anchor.board, anchor.engine, anchor.version, anchor.precision, anchor.threads, anchor.sha256
