"""Estimates from instruction counts: against loops over the two tables, and what they refuse."""

from __future__ import annotations

import csv
import importlib.util
import math
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface_devices.bench.protocol import EngineStart
from edgeface_devices.boards.profiles import BoardProfile, profiles
from edgeface_devices.emulate import core as emulated
from edgeface_devices.estimate.evidence import FOLDER, Anchor, Costs, nets
from edgeface_devices.estimate.latency import ANCHOR_FACTOR, VERSION_FACTOR, Estimate, estimate
from edgeface_runtime.contract import OperatorCost
from scripts import latency_fit
from scripts.latency_fit import counts

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "estimates.md"
FACE = Costs(pointwise=205.6, conv=5.4, depthwise=10.0, linear=0.0, parameters=1.0, activations=5.9, layers=83)
COST = {"pointwise": OperatorCost(count=32, macs=205_600_000, bytes=12_000_000)}
CELLS = [
    (board, kind)
    for board in profiles().values()
    for kind in ("float", "int8")
    if (board.board, kind) in latency_fit.USED
]
PRECISIONS = {"float": "fp32", "int8": "int8"}
TABLES = ("Cortex-A53", "Cortex-A72")
"""Cores whose rows are XNNPACK's own table."""

cells = st.sampled_from(CELLS)
shares = st.floats(0, 1)


def told(
    board: BoardProfile, kind: str, instructions: int | None, version: str | None = None, **changes: object
) -> Estimate:
    options = {"engine": "litert", "precision": PRECISIONS[kind], "threads": 4} | changes
    return estimate(FACE, board, version=version, instructions=instructions, **options)  # type: ignore[arg-type]


def within(board: BoardProfile, kind: str, share: float) -> int:
    """A count in reach: 0 the least, 1 the largest."""
    known = [row.total for row in counts() if (row.core, row.precision) == (board.core, kind)]
    return round(min(known) / 1.99 * (max(known) * 1.99 / (min(known) / 1.99)) ** share)


def slow(board: BoardProfile, kind: str) -> dict[str, float]:
    """Net → instructions a published millisecond, read from the files row by row."""
    return _slow(board.board, board.core, kind)


@cache
def _slow(board: str, core: str, kind: str) -> dict[str, float]:
    found = {}
    with (FOLDER / "counts.csv").open(newline="") as one, (FOLDER / "rows.csv").open(newline="") as other:
        tables = list(csv.DictReader(one)), list(csv.DictReader(other))
    for count in tables[0]:
        for row in tables[1]:
            here = (row["engine"], row["board"], count["core"]) == ("xnnpack", board, core)
            if here and row["precision"] == count["precision"] == kind and row["net"] == count["net"]:
                found[row["net"]] = int(count["total"]) / float(row["ms"])
    return found


def test_counts_are_used_where_they_err_less_than_the_ratio():
    scored = re.findall(r"^\| (rpi-\S+) \| (float|int8) \| \d .*\| (counts|ratio) \|", PAGE.read_text(), re.MULTILINE)
    assert len(scored) == 7
    assert [(name, kind) for name, kind, used in scored if used == "counts"] == [(b.name, kind) for b, kind in CELLS]


@pytest.mark.parametrize(("board", "kind"), CELLS)
def test_an_estimate_is_the_slow_form(board: BoardProfile, kind: str):
    rates = slow(board, kind)
    assert len(rates) == 4
    product, worst = 1.0, 1.0
    for net, rate in rates.items():
        product *= rate
        others = 1.0
        for other in rates:
            others *= rates[other] if other != net else 1
        predicted = others ** (1 / (len(rates) - 1)) / rate
        worst = max(worst, predicted, 1 / predicted)
    instructions = within(board, kind, 0.5)
    ms = told(board, kind, instructions, "2022-02").ms
    assert ms is not None
    assert ms.interval is not None
    assert ms.value == pytest.approx(instructions / product ** (1 / len(rates)))
    # The 4B's rows may be of either of its clocks.
    unstated = 1800 / 1500
    assert ms.interval[1] / ms.value == pytest.approx(max(2, worst * unstated))


@settings(deadline=None, max_examples=30)
@given(cell=cells, share=shares, version=st.sampled_from([None, "2022-02", "2030-01"]))
def test_an_interval_is_never_narrower_than_what_leaving_out_shows(
    cell: tuple[BoardProfile, str], share: float, version: str | None
):
    ms = told(*cell, within(*cell, share), version).ms
    assert ms is not None
    assert (ms.source, ms.interval is not None) == ("estimated", True)
    assert ms.interval is not None
    low, high = ms.interval
    spread = math.exp(max(map(abs, latency_fit.counts_left_out(slow(*cell)).values())))
    factor = spread * (1 if version == "2022-02" else VERSION_FACTOR)
    assert ms.value / low == pytest.approx(high / ms.value)
    assert high / ms.value >= max(ANCHOR_FACTOR, factor) * (1 - 1e-9)


@settings(deadline=None, max_examples=30)
@given(cell=cells, share=shares, factor=st.floats(0.5, 2))
def test_twice_the_instructions_take_twice_the_time(cell: tuple[BoardProfile, str], share: float, factor: float):
    first, second = within(*cell, share), round(within(*cell, share) * factor)
    one, other = told(*cell, first), told(*cell, second)
    assert one.ms is not None
    assert other.ms is not None
    if "instructions of the emulated" in other.note:
        assert other.ms.value / one.ms.value == pytest.approx(second / first)


@pytest.mark.parametrize(("board", "kind"), CELLS)
def test_the_note_says_what_it_rests_on(board: BoardProfile, kind: str):
    instructions = within(board, kind, 0.4)
    note = told(board, kind, instructions).note
    assert f"{instructions / 1e6:.0f} million instructions of the emulated {board.core}, at the rate of 4 " in note
    assert "XNNPACK of 2022-02; engine version unknown: interval widened by 1.4" in note


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rpi-zero-2w", {}),  # a counted core, no published row
        ("rpi-5", {}),  # counted in int8 alone
        ("rpi-4b", {"precision": "int8"}),  # the ratio of all boards is narrower
        ("rpi-3b-plus", {}),  # the ratio errs less there
        ("rpi-4b", {"threads": 1}),
        ("rpi-4b", {"precision": "int8-dynamic"}),
        ("rpi-4b", {"engine": "onnxruntime"}),
        ("rpi-4b", {"engine": "ncnn"}),
        ("rpi-4b", {"instructions": 13_000_000}),  # of 28 to 210 counted
        ("rpi-4b", {"instructions": 500_000_000}),
    ],
)
def test_where_counts_carry_nothing_the_answer_is_that_without_them(name: str, change: dict[str, object]):
    options = {"engine": "litert", "precision": "fp32", "threads": 4} | change
    with_counts = estimate(FACE, profiles()[name], **{"instructions": 90_000_000} | options)  # type: ignore[arg-type]
    options.pop("instructions", None)
    assert with_counts == estimate(FACE, profiles()[name], **options)  # type: ignore[arg-type]


def test_a_net_that_is_refused_is_refused_with_its_count_too():
    large = replace(FACE, linear=12.8)
    found = estimate(large, profiles()["rpi-4b"], engine="litert", precision="fp32", threads=4, instructions=90_000_000)
    assert (found.ms, "fully connected" in found.note) == (None, True)


def test_one_counted_net_is_not_enough(monkeypatch: pytest.MonkeyPatch):
    one = tuple(row for row in counts() if row.net == "mobilenet_v2")
    assert len(latency_fit.fit()["counts"]) == len(CELLS)
    monkeypatch.setattr(latency_fit, "counts", lambda: one)
    assert latency_fit.fit()["counts"] == []


def test_the_users_own_row_comes_before_counts():
    mine = Anchor(
        board="rpi-4b", engine="litert", version="2", precision="int8", threads=4, net=FACE, ms=9.0, sha256="0",
        date="2030-01-01",
    )  # fmt: skip
    found = told(profiles()["rpi-4b"], "int8", 85_000_000, measured=[mine])
    assert found.ms is not None
    assert found.ms.value == 9.0
    assert found.note.startswith("measured on your board")


@pytest.mark.parametrize("row", counts(), ids=lambda row: f"{row.core} {row.precision} {row.net}")
def test_counts_fit_their_nets(row):
    # A 64-bit Armv8.0 instruction multiplies at most 4 floats or 8 int8 numbers, a dot product 16; what else there is
    # in a call is at most as much again as one multiplication an instruction.
    has_dot = row.core not in TABLES
    most = {"float": 4, "int8": 16 if has_dot else 8}[row.precision]
    assert row.macs / most < row.total / 1e6 < 2 * row.macs
    assert row.total > row.simd + row.memory + row.branch > row.total / 2
    assert (row.dot > 0) == has_dot
    # Millions that the nets' papers state: arXiv 1704.04861, 1801.04381, 1905.02244; else what nets.csv counts, but for
    # the pooling that TFLite rounds down.
    stated = {"mobilenet": 569, "mobilenet_v2": 300, "mobilenet_v3": 219, "mobilenet_v3_small": 56}
    known = stated[row.net] if row.net in stated else nets()[row.net].macs
    assert row.macs == pytest.approx(known, rel=0.02 if row.net in stated else 0.06)


def test_larger_nets_execute_more_and_float_more_than_int8():
    table = {(row.core, row.precision, row.net): row.total for row in counts()}
    assert len(table) == len(counts())
    assert sum(row.core in TABLES for row in counts()) == 12
    names = ("mobilenet", "mobilenet_v2", "mobilenet_v3", "mobilenet_v3_small")
    for core in TABLES:
        order = [table[core, "float", net] for net in names]
        assert order == sorted(order, reverse=True)
        for net in ("mobilenet", "mobilenet_v2"):
            assert table[core, "int8", net] < table[core, "float", net]
    assert all(re.search(r"count_published\.py, (ai-edge-)?litert 2\.", row.source) for row in counts())


@pytest.fixture(scope="module")
def script() -> ModuleType:
    pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    spec = importlib.util.spec_from_file_location("count_published", ROOT / "scripts" / "count_published.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setitem(sys.modules, spec.name, loaded)  # where its dataclass looks for its module
    spec.loader.exec_module(loaded)
    monkeypatch.undo()
    return loaded


def test_the_script_builds_the_nets_that_were_counted(script: ModuleType):
    from edgeface_export.rewrite import cost_table

    macs = {row.net: row.macs for row in counts()}
    counted = {name: net for name, net in script.nets().items() if name in macs}
    assert counted.keys() == macs.keys()
    built = {
        name: sum(cost.macs for cost in cost_table(net.build().eval(), net.size).values()) / 1e6
        for name, net in counted.items()
    }
    assert built == pytest.approx(macs, abs=1e-3)


def test_an_emulated_row_has_no_time_and_its_estimate_stands_apart(
    make_tflite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = [make_tflite(tmp_path / f"{name}.tflite", cost=COST) for name in ("counted", "uncounted")]
    none = np.zeros((4, 8), np.float32)
    totals = iter([{"total": 90_000_000}, None])
    found = EngineStart("litert", "2", import_ms=1.0, load_ms=1.0, first_ms=1.0)
    monkeypatch.setattr(emulated.userland, "find", lambda: tmp_path)
    monkeypatch.setattr(emulated.userland, "install", lambda root: "/opt")
    monkeypatch.setattr(emulated, "embed_here", lambda *_, **__: (none, "2"))
    monkeypatch.setattr(emulated, "_run", lambda *_: (found, next(totals), none, ()))
    counted_row, other = emulated.emulate(files, profiles()["rpi-4b"]).to_json()["rows"]
    for row in (counted_row, other):
        assert row["source"] == "emulated"
        assert all(row[key] is None for key in row if key.endswith("_ms"))
        apart = row["estimate"]
        assert apart["source"] == "estimated"
        assert apart["threads"] == 4
        assert apart["interval_ms"][0] < apart["p50_ms"] < apart["interval_ms"][1]
        assert row["note"].startswith("estimate for the board itself, 4 threads: ")
        assert row["note"].endswith(f" ms, 90 % interval: {apart['note']}")
    assert counted_row["estimate"]["note"].startswith("90 million instructions of the emulated Cortex-A72")
    assert "litert in float against ncnn" in other["estimate"]["note"]
