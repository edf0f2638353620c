"""The ssh side against a stand-in for ssh that runs what it is given on this machine: no network, no emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeface.cli import run
from edgeface_devices.bench.interleaved import bench
from edgeface_devices.boards.profiles import find_profile
from edgeface_devices.remote import measure as remote
from edgeface_devices.remote import ssh
from edgeface_devices.remote.measure import measure
from edgeface_devices.remote.ssh import ConnectionLostError, connect, persistently
from edgeface_devices.way import Setting
from edgeface_runtime import ModelError, UsageError, load
from edgeface_runtime.model import find_model

_SSH = """#!/bin/sh
# The last argument is what the board's shell would get.
for last in "$@"; do :; done
case " $* " in *" -O exit "*) exit 0;; esac
[ ! -e {board}/refuse ] || {{ cat {board}/refuse >&2; exit 255; }}
lost() {{ rm {board}/lose; touch {board}/$1; echo 'client_loop: send disconnect: Broken pipe' >&2; exit 255; }}
export HOME={board}/home PATH={board}/bin:{python}:$PATH
unset XDG_CACHE_HOME PYTHONPATH
[ ! -e {board}/lose ] || case $last in *tail*) sh -c "$last" | head -n 2; lost "$(cat {board}/lose)";; esac
exec sh -c "$last"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remote.write_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def board(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a stand-in board: ``home``, ``bin`` (first on its PATH).

    A file ``refuse`` holds what ssh says instead of connecting; ``lose`` makes it lose the connection once, two lines
    after it follows the run, and make the file named in it.
    """
    folder = tmp_path / "board"
    for name in ("home", "bin", "client"):
        (folder / name).mkdir(parents=True)
    script(folder / "client" / "ssh", _SSH.format(board=folder, python=Path(sys.executable).parent))
    monkeypatch.setenv("PATH", f"{folder / 'client'}:{os.environ['PATH']}")
    # Built once: a file edited while the tests run would be another wheel, and so another job.
    monkeypatch.setattr(remote, "write_wheel", lambda _: wheel)
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def jobs(board: Path) -> list[Path]:
    return list((board / "home/.cache/edgeface").glob("bench-*"))


def ignore(_: str) -> None:
    pass


def test_a_measured_board_gives_times_states_and_the_same_answers_and_keeps_nothing(
    board: Path, tiny_onnx: Path, tiny_tflite: Path
):
    said: list[str] = []
    faces = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    result = measure("pi@board", [tiny_onnx, tiny_tflite], say=said.append, calls=12, faces=faces)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert (document["device"]["source"], document["device"]["host"]) == ("measured", "pi@board")
    assert [row["path"] for row in document["rows"]] == [str(tiny_onnx), str(tiny_tflite)]
    for row in document["rows"]:
        assert list(row) == list(bench([tiny_onnx], calls=1, rounds=1).rows[0].to_json())
        assert row["source"] == "measured"
        assert 0 < row["p50_ms"] <= row["p90_ms"]
        assert row["agreement"]["identical"]
        assert row["agreement"]["faces"] == 3
    for row, file in zip(result.rows, (tiny_onnx, tiny_tflite), strict=True):
        np.testing.assert_allclose(load(file).embed(faces), row.embeddings, atol=1e-6)
    assert document["ratios"][0]["a"] == str(tiny_tflite)
    assert set(document["state"]) == {"before", "after", "throttled"}
    assert "pi@board: timing, round 12 of 12" in said
    assert not jobs(board)


def test_a_sustained_run_repeats_and_tells_each_repetition(board: Path, tiny_onnx: Path):
    result = measure("pi@board", [tiny_onnx], say=ignore, calls=4, sustained_min=0.05)
    sustained = result.to_json()["sustained"]
    assert len(sustained) > 1
    assert [entry["minutes"] for entry in sustained] == sorted(entry["minutes"] for entry in sustained)
    assert sustained[-1]["minutes"] >= 0.05
    assert sustained[-1]["p50_ms"] == [result.to_json()["rows"][0]["p50_ms"]]


def test_the_whole_way_is_timed_there(board: Path):
    results = measure("pi@board", [find_model("mobilefacenet-tiny")], say=ignore, calls=3, photo=[Setting(min_face=80)])
    (row,) = results.rows
    assert [(way.scene, way.faces, way.source) for way in row.photo] == [
        ("one face", 1, "measured"),
        ("six faces", 6, "measured"),
        ("no face", 0, "measured"),
    ]
    assert all(way.setting == Setting(min_face=80) and way.peak_mb > 50 for way in row.photo)
    assert all(part.p50_ms.value >= 0 for way in row.photo for part in way.parts.values())
    assert all(way.frame_ms(6) < way.frame_ms(1) for way in row.photo)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_throttled_board_is_published_only_when_told(board: Path, tiny_onnx: Path, allowed: bool):
    script(board / "bin" / "vcgencmd", "#!/bin/sh\necho throttled=0x50005\n")
    if not allowed:
        with pytest.raises(UsageError, match=r"held back.*under-voltage, throttled.*--allow-throttled"):
            measure("pi@board", [tiny_onnx], say=ignore, calls=2)
    else:
        state = measure("pi@board", [tiny_onnx], say=ignore, calls=2, allow_throttled=True).to_json()["state"]
        assert state["throttled"] == ["under-voltage", "throttled"]
        assert state["before"]["throttled"] == "0x50005"
    assert not jobs(board)


def test_a_connection_lost_for_a_while_is_tried_again_and_the_run_goes_on(board: Path, tiny_onnx: Path):
    (board / "lose").write_text("nothing")
    said: list[str] = []
    result = measure("pi@board", [tiny_onnx], say=said.append, calls=20)
    assert result.rows[0].calls == 20
    rounds = [line for line in said if "round" in line]
    assert rounds == [f"pi@board: timing, round {number} of 20" for number in range(1, 21)]
    assert [line for line in said if "trying again" in line] == [
        "pi@board: cannot be reached: client_loop: send disconnect: Broken pipe; trying again"
    ]
    assert not jobs(board)


def test_a_connection_lost_for_good_says_where_it_stood_and_the_same_command_picks_it_up(
    board: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "PATIENCE_S", 0.0)
    (board / "lose").write_text("refuse")
    with pytest.raises(ConnectionLostError, match=r"stood at: timing, round 2 of 20; .*same command picks it up"):
        measure("pi@board", [tiny_onnx], say=ignore, calls=20)
    (folder,) = jobs(board)
    started = (folder / "pid").read_text()
    (board / "refuse").unlink()
    said: list[str] = []
    result = measure("pi@board", [tiny_onnx], say=said.append, calls=20)
    assert result.rows[0].calls == 20
    assert "joining the run" in said[0]
    assert started.strip().isdigit()
    assert not jobs(board)


def test_interrupting_it_here_ends_the_run_there(board: Path, tiny_onnx: Path):
    pids: list[int] = []

    def interrupt(line: str) -> None:
        if "round 2 of" in line:
            (folder,) = jobs(board)
            pids.append(int((folder / "pid").read_text()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure("pi@board", [tiny_onnx], say=interrupt, calls=10_000)
    assert not jobs(board)
    assert not Path(f"/proc/{pids[0]}").exists() or "Z" in Path(f"/proc/{pids[0]}/stat").read_text()


def test_a_run_killed_there_is_named_with_its_cause(board: Path, tiny_onnx: Path):
    def kill(line: str) -> None:
        if "round 2 of" in line:
            (folder,) = jobs(board)
            subprocess.run(["pkill", "-KILL", "-P", (folder / "pid").read_text().strip()], check=True)

    with pytest.raises(ModelError, match=r"pi@board: the run there was killed by SIGKILL: out of memory.*round"):
        measure("pi@board", [tiny_onnx], say=kill, calls=2000)
    assert not jobs(board)


def test_a_file_that_is_damaged_is_named_as_the_user_did(board: Path, tiny_onnx: Path, tmp_path: Path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(tiny_onnx.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError) as caught:
        measure("pi@board", [cut], say=ignore, calls=2)
    assert str(cut) in str(caught.value)
    assert "models/0" not in str(caught.value)
    assert not jobs(board)


_CHANGED = """@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@
Host key verification failed.
"""


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (_CHANGED, r"host key is not the known one.*ssh-keygen -R board"),
        ("Host key verification failed.\n", r"not known here yet: run ssh pi@board once"),
        ("pi@board: Permission denied (publickey).\n", r"takes none of your keys: ssh-copy-id pi@board"),
        ("ssh: Could not resolve hostname board: Name or service not known\n", r"no such host: ssh: Could not"),
        ("command-line: line 0: Bad configuration option: no\n", r"Bad configuration option: no"),
    ],
)
def test_a_refusal_says_what_to_do_and_is_not_tried_again(board: Path, tiny_onnx: Path, said: str, message: str):
    (board / "refuse").write_text(said)
    with pytest.raises(UsageError, match=message) as caught:
        measure("pi@board", [tiny_onnx], say=ignore)
    assert not isinstance(caught.value, ConnectionLostError)


# Program of the board → what it prints instead.
@pytest.mark.parametrize(
    ("program", "printed", "message"),
    [
        ("uname", "echo armv6l", r"pi@board: is armv6l; engines exist for aarch64"),
        ("getconf", "echo 32", r"32-bit system; the engines need the 64-bit Raspberry Pi OS"),
        ("python3", "exit 127", r"no Python is called python3 there"),
        ("python3", "echo python=3.9; echo packages=", r"Python 3\.9; edgeface needs 3\.11"),
        ("tar", "echo 'tar: x: Cannot write: No space left on device' >&2; exit 2", r"disk is full; \d+ MB are needed"),
        ("setsid", "exit 0", r"ended without a result"),
    ],
)
def test_a_machine_that_does_not_serve_is_named(board: Path, tiny_onnx: Path, program: str, printed: str, message: str):
    script(board / "bin" / program, f"#!/bin/sh\n{printed}\n")
    with pytest.raises((UsageError, ModelError), match=message):
        measure("pi@board", [tiny_onnx], say=ignore, calls=2)
    assert not jobs(board)


def test_another_board_than_the_one_asked_for_is_refused(board: Path, tiny_onnx: Path):
    with pytest.raises(UsageError, match=r"not a Raspberry Pi 5: --device rpi"):
        measure("pi@board", [tiny_onnx], say=ignore, board=find_profile("rpi-5"))


def test_engines_that_are_absent_are_installed_in_an_environment_of_our_own_or_asked_for(board: Path, tiny_onnx: Path):
    bare = "echo python=3.11; echo packages=numpy"
    script(board / "bin" / "python3", f"#!/bin/sh\ncase $1$2 in -mvenv) echo no venv here >&2; exit 1;; esac\n{bare}\n")
    with pytest.raises(UsageError, match=r"onnxruntime are not there and cannot be installed: no venv here"):
        measure("pi@board", [tiny_onnx], say=ignore)
    script(board / "bin" / "mine", f"#!/bin/sh\n{bare}\n")
    with pytest.raises(UsageError, match=r"mine lacks onnxruntime"):
        measure("pi@board", [tiny_onnx], say=ignore, python="mine")


@pytest.mark.parametrize("host", ["", "-oProxyCommand=touch x"])
def test_a_host_that_ssh_would_take_for_an_option_is_refused(host: str):
    with pytest.raises(UsageError, match="no host name"), connect(host):
        pass


def test_patience_ends(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(ssh.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ssh.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    tries: list[float] = []

    def fail() -> None:
        tries.append(now[0])
        raise ConnectionLostError("gone")

    with pytest.raises(ConnectionLostError):
        persistently(fail, ignore, patience_s=60)
    assert tries == [0, 1, 3, 7, 15, 30, 45, 60]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"exit": b"132"}, r"pi: the run there was killed by SIGILL: its packages use an instruction .*\(round 2\)"),
        ({"exit": b"1", "log": b"Traceback\nOSError: [Errno 28] No space left on device\n"}, r"its disk is full"),
        ({}, r"ended without a result \(round 2\): did it restart\?"),
        (
            {"result.json": b'{"error": "a.onnx: its benchmark process died"}'},
            r"pi: a\.onnx: its benchmark process died",
        ),
    ],
)
def test_a_run_that_brings_no_numbers_says_why(members: dict[str, bytes], message: str):
    with pytest.raises(ModelError, match=message):
        remote._results("pi", members, 1, "round 2")


def test_the_command_shows_times_the_state_and_the_drift(
    board: Path, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
):
    script(board / "bin" / "vcgencmd", "#!/bin/sh\necho throttled=0x0\n")
    command = ["bench", str(tiny_onnx), "--host", "pi@board", "--calls", "4", "--sustained", "0.01"]
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["state"]) == {"before", "after", "throttled"}
    assert document["sustained"][-1]["p50_ms"] == [document["rows"][0]["p50_ms"]]
    assert run(command) == 0
    shown = capsys.readouterr()
    assert "times in ms" in shown.out
    assert "identical" in shown.out
    assert "drift" in shown.out
    assert "pi@board: timing, round 4 of 4" in shown.err


@pytest.mark.parametrize("words", [["--emulate"], ["--device", "rpi-4b,rpi-5"]])
def test_a_host_is_one_machine(tiny_onnx: Path, words: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(["bench", str(tiny_onnx), "--host", "pi@board", *words]) == 2
    assert "--host measures one machine" in capsys.readouterr().err
