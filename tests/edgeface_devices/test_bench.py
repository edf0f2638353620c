from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgeface_devices.bench import interleaved as module
from edgeface_devices.bench.interleaved import bench
from edgeface_devices.bench.limits import Limits
from edgeface_devices.bench.protocol import EngineStart
from edgeface_runtime import ModelError, UsageError, load

# fmt: off
ROW_KEYS = [
    "path", "format", "engine", "engine_version", "precision", "threads", "load_ms", "first_ms", "p50_ms",
    "p90_ms", "p99_ms", "interval_ms", "calls", "peak_mb", "size_bytes", "top1", "auc", "source",
]
# fmt: on


@pytest.fixture(scope="module")
def four(make_onnx, make_tflite, tmp_path_factory) -> list[Path]:
    """fp32 and (by name) int8 in both formats, of one parent; each with weights of its own."""
    folder = tmp_path_factory.mktemp("four")
    parent = {"parent_sha256": "a" * 64}
    return [
        make_onnx(folder / "fp32.onnx", seed=0, precision="fp32", **parent),
        make_onnx(folder / "int8.onnx", seed=1, precision="int8", **parent),
        make_tflite(folder / "fp32.tflite", seed=2, precision="fp32", **parent),
        make_tflite(folder / "int8.tflite", seed=3, precision="int8", **parent),
    ]


class FakeWorker:
    """A worker whose n-th file always takes n milliseconds, and that notes when it was asked."""

    log: list[str] = []  # noqa: RUF012 - shared by all on purpose
    open = 0

    def __init__(self, path: Path, *, threads: int, limits: Limits) -> None:
        assert (threads, limits) == (3, Limits())
        self.path = path
        self.loaded = EngineStart("fake", "1", import_ms=1.0, load_ms=2.0, first_ms=3.0)
        FakeWorker.log.append(f"open {path.name}")
        FakeWorker.open += 1

    def time(self, calls: int) -> tuple[list[float], list[float]]:
        FakeWorker.log.append(f"{self.path.name} x {calls}")
        return [self.cost] * calls, [self.cost / 2] * calls

    @property
    def cost(self) -> float:
        return {"fp32.onnx": 8.0, "int8.onnx": 6.0, "fp32.tflite": 4.0, "int8.tflite": 1.0}[self.path.name]

    def peak_mb(self) -> float:
        return self.cost * 10

    def close(self) -> None:
        FakeWorker.open -= 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    monkeypatch.setattr(module, "Worker", FakeWorker)
    FakeWorker.log, FakeWorker.open = [], 0
    return FakeWorker


def workers() -> list[psutil.Process]:
    """Our worker processes that are alive, the newest last; other tests leave helpers of their own behind."""
    children = psutil.Process().children()
    return [child for child in children if "edgeface_devices.bench.worker" in child.cmdline()]


def test_each_round_asks_every_file_once_in_changing_order(four: list[Path], fake: type[FakeWorker]):
    bench(four, threads=3, calls=30, rounds=10)
    names = [path.name for path in four]
    assert fake.log[:4] == [f"open {name}" for name in names]
    assert fake.log[4:8] == [f"{name} x 10" for name in names]
    rounds = [fake.log[start : start + 4] for start in range(8, 48, 4)]
    assert len(fake.log) == 48
    assert all(sorted(turns) == sorted(f"{name} x 3" for name in names) for turns in rounds)
    assert len({tuple(turns) for turns in rounds}) > 3
    assert fake.open == 0


def test_each_row_has_its_own_samples_and_the_ratios_follow(four: list[Path], fake: type[FakeWorker]):
    result = bench(four, threads=3, calls=100, rounds=7)
    assert [row.median_ms for row in result.rows] == [8.0, 6.0, 4.0, 1.0]
    assert [row.cpu_p50_ms.value for row in result.rows] == [4.0, 3.0, 2.0, 0.5]
    assert [row.peak_mb for row in result.rows] == [80.0, 60.0, 40.0, 10.0]
    assert [row.rounds_ms for row in result.rows] == [None] * 4  # 7 rounds are too few
    assert bench(four[:1], threads=3, calls=20, rounds=10).to_json()["rows"][0]["rounds_ms"] == [8.0, 8.0]
    assert {row.calls for row in result.rows} == {105}
    fp32_onnx, int8_onnx, fp32_tflite, int8_tflite = map(str, four)
    found = {(ratio["a"], ratio["b"]): ratio["p50"] for ratio in result.to_json()["ratios"]}
    assert found == {
        (int8_onnx, fp32_onnx): 0.75,
        (int8_tflite, fp32_tflite): 0.25,
        (fp32_tflite, fp32_onnx): 0.5,
        (int8_tflite, int8_onnx): 0.1667,
    }
    assert [ratio.cpu_p50 for ratio in result.ratios] == [ratio.p50 for ratio in result.ratios]
    sizes = {(ratio.a, ratio.b): ratio.size for ratio in result.ratios}
    assert sizes[four[1], four[0]] == four[1].stat().st_size / four[0].stat().st_size


def test_a_disturbed_run_is_told_by_processor_time(four: list[Path], fake: type[FakeWorker]):
    disturbed = bench(four, threads=3, calls=4)
    assert disturbed.is_disturbed
    rows = [replace(row, cpu_p50_ms=row.p50_ms) for row in disturbed.rows]
    assert not replace(disturbed, rows=tuple(rows)).is_disturbed


def test_files_of_two_models_have_no_ratio(make_onnx: Callable[..., Path], tmp_path: Path, fake: type[FakeWorker]):
    a = make_onnx(tmp_path / "fp32.onnx", parent_sha256="a" * 64)
    b = make_onnx(tmp_path / "int8.onnx", precision="int8", parent_sha256="b" * 64)
    assert bench([a, b], threads=3, calls=2).ratios == ()


def test_too_few_calls_leave_percentiles_null(four: list[Path], fake: type[FakeWorker]):
    row = bench(four[:1], threads=3, calls=5, rounds=20).to_json()["rows"][0]
    assert (row["p50_ms"], row["p90_ms"], row["p99_ms"], row["calls"]) == (8.0, None, None, 5)


def test_real_files_give_the_stable_document_and_their_own_embeddings(four: list[Path]):
    faces = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    result = bench(four, calls=12, rounds=3, faces=faces)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["schema"] == 1
    assert document["device"]["name"]
    assert document["device"]["source"] == "measured"
    assert [row["path"] for row in document["rows"]] == [str(path) for path in four]
    assert [row["format"] for row in document["rows"]] == ["onnx", "onnx", "tflite", "tflite"]
    assert [row["precision"] for row in document["rows"]] == ["fp32", "int8"] * 2
    for row in document["rows"]:
        assert set(ROW_KEYS) <= set(row)
        assert row["source"] == "measured"
        assert row["top1"] is row["auc"] is row["interval_ms"] is row["p99_ms"] is None
        assert 0 < row["p50_ms"] <= row["p90_ms"]
        assert row["size_bytes"] == Path(row["path"]).stat().st_size
    for row in result.rows:
        np.testing.assert_allclose(row.embeddings, load(row.path).embed(faces), atol=1e-6)
    assert not workers()


def test_a_truncated_file_among_good_ones_stops_the_bench_and_leaves_no_process(four: list[Path], tmp_path: Path):
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(four[2].read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"cut\.tflite"):
        bench([*four[:2], cut], calls=4)
    assert not workers()


def test_a_process_killed_in_the_middle_is_named_and_the_others_end(four: list[Path], tmp_path: Path):
    victim = Path(shutil.copy(four[0], tmp_path / "victim.onnx"))

    def kill_the_second(rounds: Sequence[list[int]]) -> Iterator[list[int]]:
        yield from rounds[:2]
        workers()[1].kill()
        yield from rounds[2:]

    with pytest.raises(ModelError, match=r"victim\.onnx.*SIGKILL"):
        bench([four[1], victim, four[2]], calls=30, rounds=10, progress=kill_the_second)
    assert not workers()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"calls": 0}, "calls is 0"), ({"threads": 0}, "threads is 0"), ({"rounds": -1}, "rounds is -1")],
)
def test_numbers_below_one_are_refused(four: list[Path], options: dict[str, int], message: str):
    with pytest.raises(UsageError, match=message):
        bench(four, **options)


def test_no_file_and_one_file_twice_are_refused(tiny_onnx: Path):
    with pytest.raises(UsageError, match="no model file"):
        bench([])
    with pytest.raises(UsageError, match="twice"):
        bench([tiny_onnx, tiny_onnx.parent / "." / tiny_onnx.name])


def test_a_file_without_a_contract_is_refused_before_anything_runs(tmp_path: Path, fake: type[FakeWorker]):
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(b"\x08\x09")
    with pytest.raises(ModelError, match=r"plain\.onnx.*contract"):
        bench([plain], threads=3)
    assert fake.log == []
