from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface_devices.bench.interleaved import bench
from edgeface_devices.boards.profiles import BoardProfile, profiles
from edgeface_devices.estimate import evidence
from edgeface_devices.estimate import latency as module
from edgeface_devices.estimate.evidence import Costs, ncnn_times, nets, rows
from edgeface_devices.estimate.latency import VERSION_FACTOR, costs_of, estimate, outlook
from edgeface_devices.results import estimate_table
from edgeface_runtime.contract import Contract, EmbeddingSpec, OperatorCost
from scripts import fit_estimates as script
from scripts import latency_fit
from scripts.latency_fit import engine_ratios, errors, families, half_width, nnls, transfer

ROOT = Path(__file__).parents[2]
PI4, PI5 = profiles()["rpi-4b"], profiles()["rpi-5"]
FACE = Costs(pointwise=205.6, conv=5.4, depthwise=10.0, linear=0.0, parameters=1.0, activations=5.9, layers=83)
COST = {
    "pointwise": OperatorCost(count=32, macs=205_600_000, bytes=12_000_000),
    "grouped": OperatorCost(count=1, macs=3_000_000, bytes=400_000),
    "conv": OperatorCost(count=1, macs=5_400_000, bytes=800_000),
    "depthwise": OperatorCost(count=17, macs=10_000_000, bytes=4_000_000),
    "other": OperatorCost(count=33, macs=0, bytes=10_800_000),
}

boards = st.sampled_from(list(profiles().values()))
classes = st.sampled_from(["pointwise", "conv", "depthwise", "activations", "layers"])
faces = st.builds(
    Costs,
    pointwise=st.floats(30, 900),
    conv=st.floats(30, 900),
    depthwise=st.floats(0, 90),
    linear=st.floats(0, 3.9),
    parameters=st.floats(0.2, 12),
    activations=st.floats(0.5, 12),
    layers=st.integers(10, 200),
)


def middle(net: Costs, board: BoardProfile, engine: str = "ncnn", precision: str = "fp32", threads: int = 4) -> float:
    ms = estimate(net, board, engine=engine, precision=precision, threads=threads).ms
    assert ms is not None
    return ms.value


@pytest.mark.parametrize("seed", range(20))
def test_nnls_is_scipys(seed: int):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(seed)
    matrix, target = rng.normal(0, 1, (15, 6)), rng.normal(0, 1, 15)
    np.testing.assert_allclose(nnls(matrix, target), optimize.nnls(matrix, target)[0], atol=1e-8)


@settings(deadline=None)
@given(net=faces, board=boards, precision=st.sampled_from(["fp32", "int8"]), threads=st.sampled_from([1, 4]))
def test_every_estimate_has_an_interval_around_its_middle(
    net: Costs, board: BoardProfile, precision: str, threads: int
):
    ms = estimate(net, board, engine="ncnn", precision=precision, threads=threads).ms
    assert ms is not None
    assert ms.source == "estimated"
    assert ms.interval is not None
    low, high = ms.interval
    assert 0 < low < ms.value < high
    # Symmetric in the logarithm, and never narrower than the unknown version alone.
    assert ms.value / low == pytest.approx(high / ms.value)
    assert high / ms.value >= VERSION_FACTOR


@settings(deadline=None)
@given(net=faces, board=boards, grown=classes, factor=st.floats(1, 1.1), precision=st.sampled_from(["fp32", "int8"]))
def test_more_work_never_takes_less_time(net: Costs, board: BoardProfile, grown: str, factor: float, precision: str):
    larger = replace(net, **{grown: getattr(net, grown) * factor})
    assert middle(larger, board, precision=precision) >= middle(net, board, precision=precision) * (1 - 1e-9)


def test_mobilefacenet_on_a_4b_holds_the_one_published_measurement():
    # Qengineering/Face-Recognition-Raspberry-Pi-64-bits: the ArcFace step takes 40 ms at 1.5 GHz.
    ms = estimate(FACE, profiles()["rpi-4b-1500"], engine="ncnn", precision="fp32", threads=4).ms
    assert ms is not None
    assert ms.interval is not None
    assert ms.interval[0] < 40 < ms.interval[1]


def test_boards_and_threads_are_in_their_order():
    order = ["rpi-5", "rpi-4b", "rpi-4b-1500", "rpi-3b-plus", "rpi-zero-2w"]
    for threads in (1, 4):
        times = [middle(FACE, profiles()[name], threads=threads) for name in order]
        assert times == sorted(times)
    assert middle(FACE, PI4, threads=4) < middle(FACE, PI4, threads=1)


def test_the_tables_own_version_narrows_the_interval_and_others_do_not():
    def width(version: str | None) -> float:
        ms = estimate(FACE, PI4, engine="ncnn", precision="fp32", threads=4, version=version).ms
        assert ms is not None
        assert ms.interval is not None
        return ms.interval[1] / ms.value

    assert width(None) == pytest.approx(width("2023-06") * VERSION_FACTOR)
    assert width("2019-01") == width(None)
    note = estimate(FACE, PI4, engine="ncnn", precision="fp32", threads=4).note
    assert "engine version unknown: interval widened by 1.4" in note


def test_a_published_row_of_the_same_net_beats_its_costs():
    _, times = ncnn_times(PI4.board, PI4.clock_mhz, "float", 4)
    found = estimate(nets()["mobilenet_v2"], PI4, engine="ncnn", precision="fp32", threads=4)
    assert found.note.startswith("published row of mobilenet_v2 on this board")
    assert found.ms is not None
    assert found.ms.value == times["mobilenet_v2"]


def test_a_net_without_a_row_here_takes_another_boards(monkeypatch: pytest.MonkeyPatch):
    real = ncnn_times

    def without(board: str, clock: int, kind: str, threads: int) -> tuple[str, dict[str, float]]:
        version, times = real(board, clock, kind, threads)
        return version, {net: ms for net, ms in times.items() if (board, net) != (PI4.board, "mobilenet_v2")}

    monkeypatch.setattr(module, "ncnn_times", without)
    found = estimate(nets()["mobilenet_v2"], PI4, engine="ncnn", precision="fp32", threads=4, version="2023-06")
    assert found.note.startswith("published row of mobilenet_v2 on a Raspberry Pi 3B+")
    published = real(PI4.board, PI4.clock_mhz, "float", 4)[1]["mobilenet_v2"]
    assert found.ms is not None
    assert found.ms.interval is not None
    assert found.ms.interval[0] < published < found.ms.interval[1]


def test_transfer_is_the_median_ratio_and_exact_where_boards_are_proportional():
    _, times = ncnn_times(PI4.board, PI4.clock_mhz, "float", 4)
    ratio, width = transfer(times, {name: 3 * ms for name, ms in times.items()})
    assert (ratio, width) == pytest.approx((3, 1))


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ({"pointwise": 3000.0}, {}, "3015 M multiply-accumulates; published nets carry 50 to 2000 M"),
        ({"pointwise": 10.0}, {}, "25 M multiply-accumulates"),
        ({"linear": 12.8}, {}, "13 M fully connected weights"),
        ({}, {"threads": 3}, "no published row of ncnn with 3 threads on a Raspberry Pi 4B"),
        ({}, {"precision": "int8-dynamic"}, "no published row in int8-dynamic"),
        ({}, {"engine": "onnxruntime", "precision": "int8"}, "no published int8 row of onnxruntime with 4 threads"),
        ({}, {"engine": "litert", "threads": 1}, "no published float row of litert with 1 thread on"),
        ({}, {"engine": "litert", "board": PI5, "threads": 1}, "on a Raspberry Pi 5"),
        ({}, {"engine": "litert", "precision": "int8", "threads": 1}, "no published int8 row of litert with 1 thread"),
        ({"pointwise": 3000.0}, {"engine": "litert", "precision": "int8"}, "3015 M multiply-accumulates"),
        ({}, {"engine": "onnxruntime", "board": profiles()["rpi-zero-2w"]}, "on a Raspberry Pi Zero 2 W"),
        ({}, {"engine": "onnxruntime", "board": profiles()["rpi-4b-1500"]}, "no published float row of onnxruntime"),
        (dict.fromkeys(Costs.__dataclass_fields__, 0.0), {}, "the contract has no cost table"),
    ],
)
def test_without_evidence_there_is_no_number(change: dict[str, float], options: dict[str, object], reason: str):
    defaults = {"board": PI4, "engine": "ncnn", "precision": "fp32", "threads": 4}
    found = estimate(replace(FACE, **change), **(defaults | options))  # type: ignore[arg-type]
    assert found.ms is None
    assert reason in found.note


@pytest.mark.parametrize(
    ("engine", "precision", "board"),
    [("litert", "fp32", PI4), ("onnxruntime", "fp32", PI4), ("onnxruntime", "fp32", PI5)],
)
def test_other_engines_are_a_ratio_to_ncnn_with_a_factor_of_two_or_more(
    engine: str, precision: str, board: BoardProfile
):
    ms = estimate(FACE, board, engine=engine, precision=precision, threads=4).ms
    assert ms is not None
    assert ms.interval is not None
    assert ms.interval[1] / ms.value >= 2
    ratios = engine_ratios(board, engine, "int8" if precision == "int8" else "float", 4)
    assert ms.value == pytest.approx(middle(FACE, board) * np.prod(list(ratios.values())) ** (1 / len(ratios)))


@pytest.mark.parametrize("board", profiles().values(), ids=lambda board: board.name)
def test_int8_tflite_has_an_interval_on_every_board(board: BoardProfile):
    found = estimate(FACE, board, engine="litert", precision="int8", threads=4)
    assert found.ms is not None
    low, high = found.ms.interval
    assert high / found.ms.value == pytest.approx(found.ms.value / low)
    assert high / found.ms.value <= 1.8
    assert "litert in int8" in found.note


def test_int8_onnxruntime_is_estimated_where_a_row_says_so():
    number = {
        name: estimate(FACE, board, engine="onnxruntime", precision="int8", threads=4).ms
        for name, board in profiles().items()
    }
    assert [name for name, ms in number.items() if ms is not None] == ["rpi-5"]
    assert middle(FACE, PI5, "onnxruntime", "int8") > 2 * middle(FACE, PI5, "litert", "int8")


@pytest.mark.parametrize(("net", "ms"), [("mobilenet", 25.97), ("mobilenet_v2", 21.98)])
def test_rows_that_had_no_part_in_the_ratio_lie_inside(net: str, ms: float):
    (row,) = [row for row in rows() if (row.engine, row.net, row.clock_mhz) == ("tflite", net, 1950)]
    assert row.ms == ms
    low, high = estimate(nets()[net], PI4, engine="litert", precision="int8", threads=4).ms.interval
    assert low < ms * 1950 / PI4.clock_mhz < high


def test_the_pooled_ratio_never_sees_the_relatives_of_what_it_is_scored_on():
    logs = latency_fit.pooled("litert", "int8", 4)
    scored = latency_fit.pooled_errors(logs, latency_fit.by_family)
    moved = {key: log + (key[1] == "resnet50") for key, log in logs.items()}
    again = latency_fit.pooled_errors(moved, latency_fit.by_family)
    for key, (error, width) in scored.items():
        if families()[key[1]] == "resnet":
            assert again[key][0] == pytest.approx(error - (key[1] == "resnet50"))
            assert again[key][1] == width
        else:
            assert again[key][0] > error


def test_onnxruntimes_ratio_is_within_one_source():
    # The Pi 5's YOLO11n: 168.08 ms against ncnn's 88.03 in the same table.
    assert engine_ratios(PI5, "onnxruntime", "float", 4)["yolo11n ultralytics 8.3.39"] == pytest.approx(168.08 / 88.03)


def test_families_left_out_never_see_their_relatives():
    _, times = ncnn_times(PI4.board, PI4.clock_mhz, "float", 1)
    times = {name: ms for name, ms in times.items() if nets()[name].linear <= 4}
    before = errors(times, "float", lambda name: families()[name])["squeezenet"]
    spoilt = times | {"squeezenet_ssd": times["squeezenet_ssd"] * 5}
    assert errors(spoilt, "float", lambda name: families()[name])["squeezenet"] == pytest.approx(before)
    assert errors(spoilt, "float", lambda name: name)["squeezenet"] != pytest.approx(before)


def test_half_width_is_the_conformal_rank():
    logs = np.log(np.arange(1, 20) / 10 + 1)
    assert half_width(logs) == pytest.approx(2.8)  # ceil(0.9 * 20) = 18th of 19
    assert half_width(-logs[:5]) == pytest.approx(1.5)  # too few: the largest


def contract(**changes: object) -> Contract:
    return Contract(name="face", backbone="face", embedding=EmbeddingSpec(length=8), **({"cost": COST} | changes))  # type: ignore[arg-type]


def test_costs_come_from_the_contract_and_the_files_size():
    net = costs_of(contract(), 4_000_000)
    assert (net.pointwise, net.conv, net.depthwise, net.linear) == pytest.approx((205.6, 8.4, 10.0, 0.0))
    assert (net.parameters, net.activations, net.layers) == pytest.approx((1.0, 6.0, 84))


def test_an_int8_contract_gives_the_same_net():
    cost = {name: replace(row, bytes=row.bytes // 4) for name, row in COST.items()}
    net = costs_of(contract(cost=cost, precision="int8", recipe="static_wi8_ai8"), 1_000_000)
    assert net == costs_of(contract(), 4_000_000)


def test_a_file_larger_than_its_net_has_no_negative_activations():
    net = costs_of(contract(), 10**9)
    assert (net.parameters, net.activations) == pytest.approx((7.0, 0.0))


def test_the_document_has_the_keys_of_a_measured_one(make_onnx, make_tflite, tmp_path: Path):
    files = [make_onnx(tmp_path / "a.onnx", cost=COST), make_tflite(tmp_path / "b.tflite", cost=COST)]
    result = outlook(files, PI4, threads=4)
    document = result.to_json()
    measured = bench(files[:1], calls=1, rounds=1).to_json()
    assert document.keys() == measured.keys()
    assert document["device"]["source"] == "estimated"
    assert document["device"].keys() >= measured["device"].keys()
    assert [(row["engine"], row["format"]) for row in document["rows"]] == [
        ("onnxruntime", "onnx"),
        ("ncnn", "onnx"),
        ("litert", "tflite"),
        ("ncnn", "tflite"),
    ]
    for row in document["rows"]:
        assert row.keys() == measured["rows"][0].keys()
        assert row["source"] == "estimated"
        low, high = row["interval_ms"]
        assert low < row["p50_ms"] < high
        assert row["p90_ms"] is row["load_ms"] is row["peak_mb"] is row["cpu_p50_ms"] is None
    assert all("estimated" in line[-1] and " to " in line[-1] for line in estimate_table(result.rows)[1])


def test_facts_carry_their_source_and_are_whole():
    assert len(rows()) == 462
    assert all(
        re.search(r"@[0-9a-f]{7}|^(huggingface\.co/Arm|learn\.arm\.com)/.*not stated", row.source) for row in rows()
    )
    assert all(row.ms > 0 and row.threads in (1, 4) and row.precision in ("float", "int8") for row in rows())
    assert len(nets()) == len(families()) == 29


def test_the_documented_numbers_are_what_the_code_computes():
    number = re.compile(r"\d+(?:\.\d+)?")
    written = script.PAGE.read_text(encoding="utf-8")
    made = script.page(written)
    assert number.sub("", made) == number.sub("", written)
    # A rounding step apart is what another machine's arithmetic may give.
    for old, new in zip(number.findall(written), number.findall(made), strict=True):
        assert float(new) == pytest.approx(float(old), abs=0.011 if "." in old else 1.01, rel=0.002)


def test_the_shipped_numbers_are_what_the_script_fits():
    shipped, made = (
        json.loads(evidence.FITTED.read_text(encoding="utf-8")),
        json.loads(latency_fit.text(latency_fit.fit())),
    )
    assert {name: len(table) for name, table in shipped.items()} == {name: len(table) for name, table in made.items()}
    for name, table in made.items():
        for ours, theirs in zip(shipped[name], table, strict=True):
            for key, value in theirs.items():
                # Another machine's linear algebra may differ in the last digits.
                assert ours.pop(key) == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9, abs=1e-12))
            assert ours == {}


def test_shipped_numbers_that_are_not_current_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    stale = tmp_path / "fitted.json"
    stale.write_text(evidence.FITTED.read_text(encoding="utf-8").replace('"nets": 22', '"nets": 21', 1))
    monkeypatch.setattr(evidence, "FITTED", stale)
    monkeypatch.setattr(script, "PAGE", tmp_path / "absent.md")
    monkeypatch.setattr(script.sys, "argv", ["fit_estimates.py", "--check"])
    assert script.main() == 1
    assert "fitted.json" in capsys.readouterr().err
    monkeypatch.setattr(script.sys, "argv", ["fit_estimates.py"])
    assert script.main() == 0
    assert stale.read_text().count('"nets": 22') == latency_fit.text(latency_fit.fit()).count('"nets": 22')


def test_a_changed_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    page = tmp_path / "estimates.md"
    page.write_text(script.PAGE.read_text(encoding="utf-8").replace("| rpi-5 | float | 1 |", "| rpi-5 | float | 2 |"))
    fitted = tmp_path / "fitted.json"  # written too, and another processor's last digits are others
    fitted.write_text(evidence.FITTED.read_text(encoding="utf-8"))
    monkeypatch.setattr(evidence, "FITTED", fitted)
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script.sys, "argv", ["fit_estimates.py", "--check"])
    assert script.main() == 1
    assert "not current" in capsys.readouterr().err
    monkeypatch.setattr(script.sys, "argv", ["fit_estimates.py"])
    assert script.main() == 0
    assert "| rpi-5 | float | 1 |" in page.read_text()
