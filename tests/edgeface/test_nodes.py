"""Two machines, here two agents of torchrun that meet by TCP on loopback: one is killed, and training goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from PIL import Image

from edgeface.training.checkpoints import load_tensors

pytestmark = pytest.mark.slow

PATIENCE = 400.0
EPOCHS = 7
SETTINGS = ["batch_size=12", "embedding_dim=16", "progressive_size=32", "progressive_ratio=0.99", "erase_prob=0.3"]


def command(photos: Path, run: Path, *torchrun: str) -> list[str]:
    train = ["-m", "edgeface", "train", str(photos), "-o", str(run), "--resume", "--json", f"--epochs={EPOCHS}"]
    train += ["--backbone=mobilefacenet-tiny", *(f"--set={setting}" for setting in SETTINGS)]
    return [sys.executable, "-m", "torch.distributed.run", *torchrun, *train]


@contextlib.contextmanager
def started(words: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else an agent that comes back is not told where to meet
    with log.open("w") as err:
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=err, text=True)
    try:
        yield process
    finally:
        kill_all(process.pid)
        process.communicate()


def children(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    with contextlib.suppress(OSError):
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [each for child in own for each in (child, *children(child))]
    return []


def kill_all(pid: int) -> None:
    for each in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            os.kill(each, signal.SIGKILL)


def wait_for(happened: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


def documents(*outputs: str) -> list[dict[str, object]]:
    return [json.loads(output) for output in outputs if output.strip()]


def test_a_node_that_is_killed_and_comes_back_changes_nothing(att: Path, tmp_path: Path) -> None:
    for person in range(1, 5):
        (tmp_path / "photos" / str(person)).mkdir(parents=True)
        for take in range(1, 11):
            with Image.open(att / f"s{person}" / f"{take}.pgm") as image:
                image.resize((112, 112)).save(tmp_path / "photos" / str(person) / f"{take}.png")
    photos, run, whole = tmp_path / "photos", tmp_path / "run", tmp_path / "whole"

    with started(command(photos, whole, "--standalone", "--nproc-per-node=2"), tmp_path / "whole.log") as undisturbed:
        out, _ = undisturbed.communicate(timeout=PATIENCE)
        assert undisturbed.returncode == 0, (tmp_path / "whole.log").read_text()
    assert [document["epochs"] for document in documents(out)] == [EPOCHS]  # one document, of the first process

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    node = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=5", "--rdzv-backend=c10d", "--rdzv-id=1"]
    words = command(photos, run, *node, f"--rdzv-endpoint=127.0.0.1:{port}")

    def epochs() -> int:
        with contextlib.suppress(OSError):
            return len((run / "curves.csv").read_text().splitlines()) - 1
        return 0

    def listening() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    with contextlib.ExitStack() as nodes:
        first = nodes.enter_context(started(words, tmp_path / "a.log"))
        wait_for(listening, first)  # the first agent holds the meeting point: whoever loses it has lost the run
        second = nodes.enter_context(started(words, tmp_path / "b.log"))
        # A process dies: both agents start theirs again.
        wait_for(lambda: epochs() >= 1, first, second)
        (worker,) = children(second.pid)[-1:]
        os.kill(worker, signal.SIGKILL)
        killed_at = epochs()
        # A machine dies and is started again.
        wait_for(lambda: epochs() > killed_at, first, second)
        kill_all(second.pid)
        second = nodes.enter_context(started(words, tmp_path / "c.log"))
        outputs = [each.communicate(timeout=PATIENCE)[0] for each in (first, second)]
        logs = "".join((tmp_path / f"{name}.log").read_text() for name in "abc")
        assert first.returncode == second.returncode == 0, logs
    assert [document["epochs"] for document in documents(*outputs)] == [EPOCHS]
    for name in ("last.safetensors", "best.safetensors"):
        (expected, _), (found, _) = (load_tensors(folder / name) for folder in (whole, run))
        assert [key for key in expected if not expected[key].equal(found[key])] == []
