"""Published latencies of boards and the nets that they belong to (facts/), each with its source."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "facts"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Work and data of one inference of a model, in millions; ``layers`` counts operators."""

    pointwise: float
    """Multiply-accumulates of 1×1 convolutions."""
    conv: float
    """Multiply-accumulates of all other convolutions that are not depthwise."""
    depthwise: float
    linear: float
    """Multiply-accumulates, and so weights, of fully connected layers."""
    parameters: float
    activations: float
    """Elements of all operators' outputs."""
    layers: float

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
