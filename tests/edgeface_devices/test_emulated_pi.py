"""The whole way to a board: OpenSSH, a real sshd, and an arm64 system under emulation behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeface.cli import run
from edgeface_devices.remote.measure import measure
from edgeface_devices.way import WHOLE, Setting
from edgeface_runtime import ModelError, UsageError
from edgeface_runtime.model import find_model

_NULL = ("import_ms", "load_ms", "first_ms", "p50_ms", "p90_ms", "p99_ms", "cpu_p50_ms", "interval_ms", "peak_mb")

# An engine that holds an instruction no processor has (A64: udf #0).
_ILLEGAL = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes(4))
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""


def ignore(_: str) -> None:
    pass


def options_of(pi) -> list[str]:
    return [word for option in pi.options for word in ("--ssh-option", option)]


def test_bench_brings_back_emulated_rows_without_times_over_a_connection_that_breaks(
    pi, tiny_onnx: Path, tiny_tflite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    cuts: list[str] = []

    def cut_once(line: str) -> None:
        if "embedding with file 1" in line and not cuts:
            cuts.append(line)
            pi.cut()

    monkeypatch.setattr("edgeface.cli.bench_runs.note", cut_once)
    command = ["bench", str(tiny_onnx), str(tiny_tflite), "--device", "rpi", "--host", pi.host, *options_of(pi)]
    assert run([*command, "--json"]) == 0
    assert cuts
    document = json.loads(capsys.readouterr().out)
    assert document["device"]["source"] == "emulated"
    assert document["device"]["system"].startswith("Linux aarch64, Python 3.11")
    for row, path in zip(document["rows"], (tiny_onnx, tiny_tflite), strict=True):
        assert row["path"] == str(path)
        assert row["source"] == "emulated"
        assert all(row[key] is None for key in _NULL)
        assert row["agreement"]["min_cosine"] > 0.999999
        assert row["engine_version"] == row["agreement"]["engine_version_here"]
    assert not pi.jobs()


@pytest.mark.slow
def test_the_parts_of_the_whole_way_are_its_instructions(pi):
    """Over ssh, on a machine that counts: no time, and the parts together within 5 % of one call."""
    options = (*pi.options, "SetEnv=EDGEFACE_BOARD=counted")
    model = find_model("mobilefacenet-tiny")
    results = measure(pi.host, [model], say=ignore, options=options, photo=[Setting()])
    (row,) = results.rows
    assert [(way.scene, way.faces) for way in row.photo] == [("one face", 1), ("six faces", 6), ("no face", 0)]
    for way in row.photo:
        assert way.source == "emulated"
        assert all(part.p50_ms is None for part in way.parts.values())
        assert all(way.part(name).instructions > 10_000 for name in ("decode", "find", WHOLE))
        assert way.parts_over_whole == pytest.approx(1, abs=0.05)


def test_an_instruction_that_the_core_lacks_is_named(pi, tiny_onnx: Path):
    folder = pi.folder / "mnt" / "illegal"
    (folder / "onnxruntime").mkdir(parents=True, exist_ok=True)
    (folder / "onnxruntime" / "__init__.py").write_text(_ILLEGAL)
    python = folder / "python3"
    python.write_text('#!/bin/sh\nPYTHONPATH=/mnt/illegal:$PYTHONPATH exec /usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    with pytest.raises(ModelError, match=r"tiny\.onnx.*killed by SIGILL: its packages use an instruction"):
        measure(pi.host, [tiny_onnx], say=ignore, options=pi.options, python="/mnt/illegal/python3")
    assert not pi.jobs()


@pytest.mark.parametrize(
    ("board", "message"),
    [
        ("full", r"its disk is full; \d+ MB are needed there"),
        ("no-python", r"no Python is called python3 there"),
        ("32-bit", r"a 32-bit system; the engines need the 64-bit Raspberry Pi OS"),
    ],
)
def test_a_board_that_does_not_serve_says_so(pi, tiny_onnx: Path, board: str, message: str):
    other = pi.folder / "mnt" / "32-bit" / "getconf"
    other.parent.mkdir(exist_ok=True)
    other.write_text("#!/bin/sh\necho 32\n")
    other.chmod(0o755)
    with pytest.raises(UsageError, match=message):
        measure(pi.host, [tiny_onnx], say=ignore, options=[*pi.options, f"SetEnv=EDGEFACE_BOARD={board}"])
    assert not pi.jobs()


@pytest.mark.parametrize(
    ("host", "option", "message"),
    [
        ("nobody@no-such-board.invalid", None, r"no such host"),
        (None, "IdentityFile={folder}/other", r"takes none of your keys: ssh-copy-id"),
        (None, "UserKnownHostsFile={folder}/changed", r"host key is not the known one.*ssh-keygen -R 127\.0\.0\.1"),
        (None, "UserKnownHostsFile=/dev/null", r"host key is not known here yet: run ssh"),
    ],
)
def test_what_ssh_refuses_says_what_to_do(pi, tiny_onnx: Path, host: str | None, option: str | None, message: str):
    # ssh takes the first value of an option, but every IdentityFile.
    mine = [] if option is None else [option.format(folder=pi.folder)]
    rest = [given for given in pi.options if not mine or not mine[0].startswith(given.split("=")[0])]
    with pytest.raises(UsageError, match=message):
        measure(host or pi.host, [tiny_onnx], say=ignore, options=[*mine, *rest])


def test_emulate_counts_instructions_and_int8_tflite_answers_alike_to_the_last_bit(
    emulated_root: Path, trained, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
):
    int8 = trained.file("int8", "tflite")
    assert run(["bench", str(int8), str(tiny_onnx), "--device", "rpi-4b", "--emulate", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["device"]["name"] == "Raspberry Pi 4B (emulated Cortex-A72)"
    for row in document["rows"]:
        counts = row["instructions"]
        assert counts["total"] > counts["simd"] + counts["memory"] + counts["branch"] > counts["total"] / 2
        # The core has no dot product.
        assert counts["dot"] == 0
        assert row["source"] == "emulated"
        assert all(row[key] is None for key in _NULL)
        assert row["estimate"]["source"] == "estimated"
    # The large net's TFLite file is estimated; the tiny net has no cost table.
    estimate = document["rows"][0]["estimate"]
    assert estimate["note"].startswith("costs, fitted to ")
    assert estimate["interval_ms"][0] < estimate["p50_ms"] < estimate["interval_ms"][1]
    assert document["rows"][1]["estimate"]["p50_ms"] is None
    first, second = (row["agreement"] for row in document["rows"])
    assert (first["identical"], first["faces"]) == (True, 4)
    assert second["min_cosine"] == pytest.approx(1, abs=1e-6)
    # 221 M multiply-accumulates, 16 to an instruction at the very best and 4 in the plainest kernel.
    assert 221e6 / 16 < document["rows"][0]["instructions"]["total"] < 221e6


def test_doctor_examines_the_board(pi, capsys: pytest.CaptureFixture[str]):
    assert run(["doctor", "--host", pi.host, *options_of(pi), "--json"]) == 0
    findings = {finding["topic"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["system"]["text"] == "Debian GNU/Linux 12 (bookworm), aarch64, 64 bit"
    assert findings["board"]["text"].startswith("emulated")
    assert findings["engine"]["level"] == "ok"
    assert not list((pi.folder / "mnt/home/.cache/edgeface").glob("doctor-*"))
