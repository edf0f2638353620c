from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeface_devices.bench.process import Worker
from edgeface_runtime import ModelError, load

SIZE = 32
Oracle = Callable[[np.ndarray], np.ndarray]


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    path = tmp_path / "faces.npy"
    np.save(path, np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8))
    return path


@pytest.mark.parametrize("fixture", ["tiny_onnx", "tiny_tflite"])
def test_a_worker_answers_every_request(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path, faces: Path, tiny_oracle: Oracle
):
    path = request.getfixturevalue(fixture)
    worker = Worker(path)
    try:
        assert worker.loaded.engine == {"tiny_onnx": "onnxruntime", "tiny_tflite": "litert"}[fixture]
        assert worker.loaded.engine_version == load(path).engine.version
        assert all(getattr(worker.loaded, name) > 0 for name in ("import_ms", "load_ms", "first_ms"))
        wall_ms, cpu_ms = worker.time(7)
        assert len(wall_ms) == len(cpu_ms) == 7
        assert min(wall_ms) > 0
        np.testing.assert_allclose(worker.embed(faces, tmp_path / "out.npy"), tiny_oracle(np.load(faces)), atol=1e-5)
    finally:
        worker.close()
    assert worker.process.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_peak_memory_is_the_workers_own(tiny_onnx: Path):
    ballast = np.ones(400_000_000, np.uint8)
    worker = Worker(tiny_onnx)
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024 / 1e6
    peak = worker.peak_mb()
    worker.close()
    assert 0.9 * resident <= peak < 400 < ballast.nbytes / 1e6 + 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fixture", ["tiny_onnx", "tiny_tflite"])
def test_a_waiting_workers_threads_sleep(fixture: str, threads: int, request: pytest.FixtureRequest):
    worker = Worker(request.getfixturevalue(fixture), threads=threads)
    worker.time(3)
    try:
        assert falls_asleep(worker.process.pid)
    finally:
        worker.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_thread_that_spins_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            assert not falls_asleep(spinning.pid, seconds=1)
        finally:
            spinning.kill()


def falls_asleep(pid: int, *, seconds: float = 60) -> bool:
    """Whether all threads of a process are found asleep 20 times in a row; one that spins never is, on any machine.

    A pool of threads looks for more work for a moment before it sleeps, hence the patience.
    """
    end, in_a_row = time.monotonic() + seconds, 0
    while in_a_row < 20 and time.monotonic() < end:
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        in_a_row = in_a_row + 1 if set(states) == {"S"} else 0
        time.sleep(0.01)
    return in_a_row == 20


def test_a_truncated_file_is_one_clear_error_that_names_it(tiny_onnx: Path, tmp_path: Path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(tiny_onnx.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"cut\.onnx.*truncated"):
        Worker(cut)


def test_a_changed_byte_of_the_weights_is_refused(tiny_onnx: Path, tmp_path: Path):
    changed = tmp_path / "changed.onnx"
    data = bytearray(tiny_onnx.read_bytes())
    at = data.index(onnx.load(tiny_onnx).graph.initializer[0].raw_data)
    data[at] ^= 1
    changed.write_bytes(data)
    with pytest.raises(ModelError, match=r"changed\.onnx.*digest"):
        Worker(changed)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match=r"none\.onnx"):
        Worker(tmp_path / "none.onnx")


def test_an_engine_that_crashes_is_named(tiny_onnx: Path):
    stand_in = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"]
    with pytest.raises(ModelError, match=r"tiny\.onnx: its benchmark process died \(killed by SIGABRT\)"):
        Worker(tiny_onnx, command=stand_in)


def test_a_killed_worker_is_named_and_the_other_goes_on(
    tiny_onnx: Path, tmp_path: Path, faces: Path, tiny_oracle: Oracle
):
    victim_path = Path(shutil.copy(tiny_onnx, tmp_path / "victim.onnx"))
    victim, other = Worker(victim_path), Worker(tiny_onnx)
    try:
        os.kill(victim.process.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match=r"victim\.onnx.*SIGKILL"):
            victim.time(1)
        np.testing.assert_allclose(other.embed(faces, tmp_path / "out.npy"), tiny_oracle(np.load(faces)), atol=1e-5)
    finally:
        victim.close()
        other.close()


def test_faces_of_another_size_are_an_error_and_the_worker_lives(tiny_onnx: Path, tmp_path: Path):
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros((2, 16, 16, 3), np.uint8))
    worker = Worker(tiny_onnx)
    try:
        with pytest.raises(ModelError, match="uint8"):
            worker.embed(wrong, tmp_path / "out.npy")
        assert len(worker.time(2)[0]) == 2
    finally:
        worker.close()
