from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeface_devices.boards.health import BoardState, Conditions
from edgeface_devices.boards.profiles import find_profile, profiles
from edgeface_devices.estimate import evidence
from edgeface_devices.estimate.evidence import Anchor, keep, load_anchors, ncnn_times, nets, rows
from edgeface_devices.estimate.latency import MEASURED_FACTOR, SAME_FACTOR, estimate
from edgeface_devices.figures import Figure
from edgeface_devices.measurement import of_file
from edgeface_devices.results import Device, Results
from edgeface_runtime import UsageError
from scripts import latency_fit
from scripts.latency_fit import by_family, cost_half_width, families, is_fitted_on, is_scored, predicted

NETS = nets()


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def measured(path: Path, ms: float = 50.0, throttled: tuple[str, ...] = (), **device: object) -> Results:
    file = of_file(path, threads=4, source="measured")
    row = replace(file, engine="onnxruntime", engine_version="1.32.0", p50_ms=Figure(ms, "measured"))
    board = Device("Raspberry Pi 4B", "measured", 4, "Linux", profile="rpi-4b")
    silent = BoardState(governor=None, mhz=None, max_mhz=None, celsius=None, throttled=None)
    state = Conditions(before=silent, after=silent, throttled=throttled)
    return Results(device=replace(board, **device), rows=(row,), state=state)


def anchor(net: str = "mobilenet_v2", ms: float = 50.0, **changes: object) -> Anchor:
    fields = {"board": "rpi-4b", "engine": "onnxruntime", "version": "1.32.0", "precision": "fp32", "threads": 4}
    return Anchor(**fields | {"net": NETS[net], "ms": ms, "sha256": net, "date": "2030-01-01"} | changes)


def test_a_measured_row_is_kept_and_a_newer_one_of_the_same_file_takes_its_place(tiny_onnx: Path, tiny_tflite: Path):
    assert load_anchors() == []
    net = NETS["mobilenet_v2"]
    keep(measured(tiny_onnx, 50.0), [net])
    keep(measured(tiny_tflite, 30.0), [net])
    keep(measured(tiny_onnx, 40.0), [net])
    assert [(row.ms, row.board, row.net) for row in load_anchors()] == [(30.0, "rpi-4b", net), (40.0, "rpi-4b", net)]
    assert [path.name for path in evidence.anchor_file().parent.iterdir()] == ["anchors.jsonl"]


def test_nothing_is_kept_that_is_no_good_basis(tiny_onnx: Path):
    net = NETS["mobilenet_v2"]
    assert keep(measured(tiny_onnx, source="emulated"), [net]) == []
    assert keep(measured(tiny_onnx, profile=None), [net]) == []
    assert keep(measured(tiny_onnx, throttled=("under-voltage",)), [net]) == []
    without_costs = replace(net, pointwise=0.0, conv=0.0, depthwise=0.0, linear=0.0)
    assert keep(measured(tiny_onnx), [without_costs]) == []
    assert load_anchors() == []


@pytest.mark.parametrize("line", ["no json", "[]", '{"board": "rpi-4b"}'])
def test_a_broken_file_names_the_line(line: str):
    path = evidence.anchor_file()
    path.parent.mkdir(parents=True)
    path.write_text(f"{line}\n")
    with pytest.raises(UsageError, match=r"anchors\.jsonl: line 1 is no measured row"):
        load_anchors()


def test_the_same_net_is_taken_as_it_was_measured():
    board = find_profile("rpi-4b")
    asked = {"engine": "onnxruntime", "precision": "fp32", "threads": 4}
    found = estimate(NETS["mobilenet_v2"], board, **asked, measured=[anchor(ms=70.0), anchor(ms=50.0)]).ms
    assert found is not None
    assert found.value == 50.0
    assert found.interval == (50.0 / SAME_FACTOR, 50.0 * SAME_FACTOR)


def test_a_board_without_a_basis_gets_one_and_a_wide_interval_becomes_narrower():
    net = NETS["resnet18"]
    for name, engine in (("rpi-zero-2w", "onnxruntime"), ("rpi-4b", "onnxruntime"), ("rpi-4b", "litert")):
        board, asked = find_profile(name), {"engine": engine, "precision": "fp32", "threads": 4}
        before = estimate(net, board, **asked).ms
        after = estimate(net, board, **asked, measured=[anchor(board=name, engine=engine, ms=60.0)]).ms
        assert after is not None
        assert after.interval is not None
        if before is None:
            continue
        assert before.interval is not None
        assert after.interval[1] / after.interval[0] < before.interval[1] / before.interval[0]
    assert estimate(net, find_profile("rpi-zero-2w"), engine="onnxruntime", precision="fp32", threads=4).ms is None


def test_rows_of_another_board_engine_precision_or_thread_count_do_not_count():
    board, asked = find_profile("rpi-zero-2w"), {"engine": "onnxruntime", "precision": "fp32", "threads": 4}
    for change in ({"board": "rpi-4b"}, {"engine": "litert"}, {"precision": "int8"}, {"threads": 1}):
        other = anchor(**{"board": "rpi-zero-2w"} | change)
        assert estimate(NETS["resnet18"], board, **asked, measured=[other]).ms is None


def test_one_measured_net_of_another_family_covers_what_the_docs_say():
    """Tables of another ncnn version, of int8 and of XNNPACK play the user's own engine, one net of them measured."""
    shares = []
    for board in profiles().values():
        for threads in (1, 4):
            version, table = ncnn_times(board.board, board.clock_mhz, "float", threads)
            fitted = {net: ms for net, ms in table.items() if is_fitted_on(net)}
            width = math.log(cost_half_width(fitted, "float") * MEASURED_FACTOR)
            for own in own_engines(board.board, board.clock_mhz, threads, version):
                errors = [
                    abs(
                        math.log(
                            left_out(target, fitted) * own[net] / predicted(NETS[net], fitted, "float") / own[target]
                        )
                    )
                    for target in own
                    for net in own
                    if by_family(net) != by_family(target)
                ]
                shares.append(np.mean(np.array(errors) <= width))
    assert len(shares) > 20
    assert np.mean(shares) == pytest.approx(0.945, abs=0.005)
    assert min(shares) == pytest.approx(0.81, abs=0.01)


def own_engines(board: str, mhz: int, threads: int, version: str) -> list[dict[str, float]]:
    tables: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows():
        table = (row.engine, row.precision, row.version)
        known = row.engine in ("ncnn", "xnnpack", "onnxruntime") and row.net in NETS
        if not known or (row.engine == "xnnpack" and joins(row.net)):
            continue
        at_home = (row.board, row.threads) == (board, threads) and row.clock_mhz in (None, mhz)
        if at_home and is_scored(row.net) and table != ("ncnn", "float", version):
            tables.setdefault(table, {})[row.net] = row.ms
    return [table for table in tables.values() if len({families()[net] for net in table}) > 1]


def joins(net: str) -> bool:
    """A net of which docs/estimates.md says that XNNPACK takes two to three times as long."""
    return by_family(net) in latency_fit.JOINED


def left_out(net: str, fitted: dict[str, float]) -> float:
    others = {other: ms for other, ms in fitted.items() if by_family(other) != by_family(net)}
    return predicted(NETS[net], others, "float")
