from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeface.cli import run
from edgeface_devices.bench.interleaved import bench
from edgeface_devices.bench.limits import DoesNotFitError, Limits
from edgeface_devices.bench.process import Worker
from edgeface_runtime import ModelError, UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")


def test_the_process_runs_on_as_many_processors_and_in_as_much_memory(tiny_onnx: Path):
    worker = Worker(tiny_onnx, limits=Limits(cpus=1, memory_mb=400))
    try:
        assert os.sched_getaffinity(worker.process.pid) == {min(os.sched_getaffinity(0))}
        limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
        assert re.search(r"Max data size\s+400000000\s", limits)
    finally:
        worker.close()


def test_without_limits_nothing_is_taken_away(tiny_onnx: Path):
    worker = Worker(tiny_onnx)
    try:
        assert os.sched_getaffinity(worker.process.pid) == os.sched_getaffinity(0)
        assert Path(f"/proc/{worker.process.pid}/limits").read_text() == Path("/proc/self/limits").read_text()
    finally:
        worker.close()


@pytest.mark.parametrize("fixture", ["tiny_onnx", "tiny_tflite"])
@pytest.mark.parametrize("memory_mb", [1, 30])
def test_a_model_that_does_not_fit_is_one_clear_line(fixture: str, memory_mb: int, request, capsys):
    path = request.getfixturevalue(fixture)
    assert run(["bench", str(path), "--calls", "2", "--memory", str(memory_mb)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    line = f"edgeface: {path}: does not fit into {memory_mb} MB (--memory); without the limit it runs"
    assert captured.err.splitlines() == [line]


def test_a_damaged_file_is_not_blamed_on_memory(tiny_onnx: Path, tmp_path: Path):
    changed = tmp_path / "changed.onnx"
    data = bytearray(tiny_onnx.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    with pytest.raises(ModelError) as error:
        bench([changed], limits=Limits(memory_mb=400), calls=2)
    assert not isinstance(error.value, DoesNotFitError)


def test_photos_are_embedded_without_the_models_limit(tiny_onnx: Path):
    faces = np.zeros((2000, 32, 32, 3), np.uint8)
    limits = Limits(cpus=1, memory_mb=250)
    result = bench([tiny_onnx], limits=limits, calls=2, faces=faces)
    assert result.rows[0].embeddings.shape == (2000, 8)
    assert result.to_json()["rows"][0]["note"] == "on 1 cpu, in 250 MB"
    assert bench([tiny_onnx], calls=2).to_json()["rows"][0]["note"] is None


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(cpus=0), "--cpus is 0"),
        (Limits(cpus=10_000), "--cpus is 10000; this machine has"),
        (Limits(memory_mb=0), "--memory is 0"),
    ],
)
def test_limits_that_cannot_be_imposed_are_refused(limits: Limits, message: str, tiny_onnx: Path):
    with pytest.raises(UsageError, match=message):
        bench([tiny_onnx], limits=limits, calls=2)


def test_limits_are_refused_where_nothing_runs(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["bench", str(tiny_onnx), "--device", "rpi-4b", "--memory", "100"]) == 2
    assert "--device here" in capsys.readouterr().err
