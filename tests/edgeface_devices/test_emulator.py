from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeface_devices.boards.profiles import find_profile, profiles
from edgeface_devices.emulate import userland as emulator
from edgeface_devices.emulate.core import emulate
from edgeface_devices.emulate.counts import instructions
from edgeface_devices.measurement import compare_embeddings
from edgeface_devices.wheel import requirements, write_wheel
from edgeface_runtime import UsageError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgeface"


def test_without_the_emulator_the_error_says_how_to_get_it(cache: Path, tiny_onnx: Path):
    with pytest.raises(UsageError, match=r"the emulator is not there .*; edgeface devices emulator builds it"):
        emulate([tiny_onnx], find_profile("rpi-4b"))


def test_every_board_has_a_core_that_is_emulated():
    assert {emulator.core_of(board) for board in profiles().values()} == set(emulator.CORES)
    for board in profiles().values():
        assert emulator.CORES[emulator.core_of(board)][3].split() == board.features.split()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": "riscv64"}, r"64-bit x86 Linux, not on \w+ riscv64"),
        ({"which": {"qemu-aarch64", "gcc"}}, r"sudo apt-get install qemu-user gcc libc6-dev"),
        ({"release": "6.1.0-21-amd64"}, r"Linux 6\.7 or newer is needed .*here is 6\.1\.0"),
        ({"unshare": 1}, r"user namespaces are switched off: sudo sysctl"),
    ],
)
def test_what_a_machine_lacks_is_named(change: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch):
    absent = change.get("which", set())
    monkeypatch.setattr(emulator.shutil, "which", lambda name: None if name in absent else f"/usr/bin/{name}")
    monkeypatch.setattr(emulator, "_KEYRING", Path(__file__))
    monkeypatch.setattr(emulator.sys, "platform", "linux")
    monkeypatch.setattr(emulator.platform, "machine", lambda: change.get("machine", "x86_64"))
    monkeypatch.setattr(emulator.platform, "release", lambda: change.get("release", "6.12.0"))
    done = subprocess.CompletedProcess([], change.get("unshare", 0))
    monkeypatch.setattr(emulator.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(UsageError, match=message):
        emulator.build(print)


def test_a_build_that_was_interrupted_goes_on_after_its_last_whole_step(cache: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []

    def first(part: Path) -> None:
        if not (part / "userland").exists():
            with emulator._fresh(part / "userland") as root:
                done.append("first")
                (root / "file").write_text("whole")

    def second(part: Path) -> None:
        if len(done) == 1:
            done.append("interrupted")
            raise KeyboardInterrupt
        done.append("second")

    monkeypatch.setattr(emulator, "missing", lambda: None)
    monkeypatch.setattr(emulator, "_STEPS", (("one", first), ("two", second)))
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        emulator.build(said.append)
    with pytest.raises(UsageError, match="the emulator is not there"):
        emulator.find()
    root = emulator.build(said.append)
    assert emulator.find() == emulator.build(said.append) == root
    assert (root / "file").read_text() == "whole"
    assert done == ["first", "interrupted", "second"]
    assert said == ["1 of 2: one", "2 of 2: two"] * 2


def test_a_step_that_fails_leaves_nothing_that_looks_whole(cache: Path):
    def half(root: Path) -> None:
        (root / "file").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), emulator._fresh(cache / "userland") as root:
        half(root)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("tools", "last"),
    [
        ({"mmdebstrap": "echo no such suite >&2; exit 25"}, "no such suite"),
        ({"mmdebstrap": "exec yes", "tar": "exit 2"}, "no reason given"),  # tar gives up while there is more to come
    ],
)
def test_a_userland_that_cannot_be_built_leaves_nothing_open(
    tools: dict[str, str], last: str, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = cache.parent / "bin"
    folder.mkdir()
    for name, script in tools.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(emulator, "missing", lambda: None)
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(UsageError, match=f"mmdebstrap failed: {last}"):
        emulator.build(print)
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert not list(cache.rglob("userland"))


def test_the_wheel_holds_what_runs_here_and_installs_alone(tmp_path: Path):
    wheel = write_wheel(tmp_path)
    (tmp_path / "again").mkdir()
    assert write_wheel(tmp_path / "again").read_bytes() == wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
        assert archive.read("edgeface_devices/emulate/userland.py") == Path(emulator.__file__).read_bytes()
    assert {"edgeface_devices/emulate/qemu/enter.sh", "edgeface_runtime/detection/nets/pnet.onnx"} <= set(names)
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    code = "import edgeface_devices.remote.job as b, importlib.metadata as m; print(b.__file__, m.version('edgeface'))"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env={"PYTHONPATH": str(target)}, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(str(target)), done.stderr
    assert any(text.startswith("numpy") for text in requirements())
    assert not any("torch" in text for text in requirements())


def test_instructions_of_a_call_are_the_median_difference_of_marks():
    lines = [f"{number} total={total} dot={total // 10}" for number, total in enumerate([1000, 5000, 7000, 9500])]
    assert instructions("\n".join(lines)) == {"total": 2500, "dot": 250}
    assert instructions("") is None
    assert instructions(lines[0]) is None


def test_agreement_tells_equal_bits_from_equal_numbers():
    here = np.eye(3, dtype=np.float32)
    same = compare_embeddings(here, here.copy())
    assert (same.identical, same.min_cosine, same.max_difference, str(same)) == (True, 1.0, 0.0, "identical")
    there = here.copy()
    there[1, 0] = 3e-4
    other = compare_embeddings(here, there)
    assert not other.identical
    assert other.max_difference == pytest.approx(3e-4, rel=1e-6)
    assert str(other) == "cosine 1.000000"
    there = here.copy()
    there[0, 1] = -0.0
    assert not compare_embeddings(here, there).identical
