from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import tempfile
import tomllib
from pathlib import Path

import pytest

from edgeface.cli import run
from edgeface_devices import doctor
from edgeface_devices.boards.cameras import VideoDevice, video_devices
from edgeface_devices.boards.health import BoardState
from edgeface_devices.doctor import Finding, cameras, examine, features, int8_arithmetic, numpy_trap, power, try_out

CALM = BoardState(governor="ondemand", mhz=600, max_mhz=1800, celsius=45.0, throttled=0)


def test_this_machine_is_fit_and_every_finding_is_a_line(capsys: pytest.CaptureFixture[str]):
    assert run(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [finding for finding in findings if finding["level"] == "wrong"] == []
    topics = [finding["topic"] for finding in findings]
    assert topics[:2] == ["system", "Python"]
    assert topics.count("engine") >= 2
    assert all("\n" not in finding["text"] for finding in findings)


def test_something_wrong_is_exit_code_1_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor, "_CHECKS", (lambda: power(BoardState(**CALM.__dict__ | {"throttled": 0x50001})),))
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(
        "wrong power: held back now: under-voltage → cool the board, or give it a better power supply"
    )


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({"throttled": 0}, "ok", "never held back"),
        ({"throttled": 0x40000}, "note", "held back since the board started: throttled"),
        ({"throttled": 0x4}, "wrong", "held back now: throttled"),
        ({"celsius": 85.0}, "wrong", "85 °C"),
        ({"governor": "powersave"}, "note", "governor powersave, 600 of 1800 MHz"),
    ],
)
def test_power_heat_and_clock(change: dict[str, object], level: str, text: str):
    findings = list(power(BoardState(**CALM.__dict__ | change)))
    assert [finding.level for finding in findings if text in finding.text] == [level]
    assert {finding.level for finding in findings if text not in finding.text} <= {"ok"}


def test_a_machine_that_says_nothing_of_power_gets_no_finding():
    assert list(power(BoardState(governor=None, mhz=None, max_mhz=None, celsius=None, throttled=None))) == []


def test_tflite_runtime_under_numpy_2_is_a_trap():
    assert numpy_trap(None, None, "2.1.0") is None
    assert numpy_trap("2.14.0", None, "1.26.4") is None
    note, wrong = numpy_trap("2.14.0", "2.3.0", "2.1.0"), numpy_trap("2.14.0", None, "2.1.0")
    assert isinstance(note, Finding)
    assert isinstance(wrong, Finding)
    assert (note.level, wrong.level) == ("note", "wrong")
    assert wrong.remedy == "pip install ai-edge-litert, or pip install 'numpy<2'"


def test_an_engine_that_dies_or_fails_is_named(tmp_path: Path):
    python = tmp_path / "python"
    for does, says in (
        ("kill -ILL $$", "killed by SIGILL: its packages use an instruction"),
        ("echo Traceback >&2; echo ImportError: no libx >&2; exit 1", "ImportError: no libx"),
        ("exit 3", "exit 3"),
    ):
        python.write_text(f"#!/bin/sh\n{does}\n")
        python.chmod(0o755)
        assert (try_out("import net", python=str(python)) or "").startswith(says)


def test_an_engine_that_the_processor_cannot_run_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *ncnn*) kill -ILL $$;; esac\n')
    python.chmod(0o755)
    monkeypatch.setattr(doctor, "try_out", functools.partial(try_out, python=str(python)))
    versions = {"onnxruntime": "1.21.0", "ncnn": "1.0", "numpy": "2.1"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    works, dies = [finding for finding in examine() if finding.topic == "engine"]
    assert (works.level, works.text) == ("ok", "onnxruntime 1.21.0: runs a small net in a process of its own")
    assert dies.text.startswith("ncnn 1.0: killed by SIGILL: its packages use an instruction")
    assert (dies.level, dies.remedy) == ("wrong", "pip install 'ncnn!=1.0'")
    monkeypatch.setattr(doctor, "_version", {"tflite-runtime": "2.14.0", "numpy": "1.26"}.get)
    (works,) = [finding for finding in examine() if finding.topic == "engine"]
    assert (works.level, works.text) == ("ok", "tflite-runtime 2.14.0: can be imported")
    monkeypatch.setattr(doctor, "_version", {"ncnn": "1.0"}.get)
    *_, none = [finding for finding in examine() if finding.topic == "engine"]
    assert (none.level, none.text) == ("wrong", "none works")


def test_ncnn_is_started_too():
    pytest.importorskip("ncnn")
    assert try_out("import ncnn") is None


def test_no_engine_at_all_is_wrong(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    (finding,) = [finding for finding in examine() if finding.topic == "engine"]
    assert (finding.level, finding.remedy) == ("wrong", "pip install ai-edge-litert onnxruntime")


def test_features_are_read_in_either_spelling(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd crc32\n")
    assert features(cpuinfo) == {"fp", "asimd", "crc32"}
    cpuinfo.write_text("flags\t\t: sse avx2\n")
    assert features(cpuinfo) == {"sse", "avx2"}
    assert features(tmp_path / "absent") == set()


@pytest.mark.parametrize(
    ("has", "found"),
    [
        ({"sse2", "avx2", "avx512_vnni"}, ("ok", "dot products in one instruction (avx512_vnni)")),
        ({"avx2", "avx_vnni"}, ("ok", "dot products in one instruction (avx_vnni)")),
        ({"asimd", "asimddp"}, ("ok", "dot products in one instruction (asimddp)")),
        ({"sse2", "avx2"}, ("note", "no VNNI: an int8 file is smaller here than a float one, but little faster")),
        ({"asimd"}, None),
        (set(), None),
    ],
)
def test_what_the_processor_has_for_int8(has: set[str], found: tuple[str, str] | None):
    finding = int8_arithmetic(has)
    assert (finding and (finding.level, finding.text.split(" (docs")[0])) == found


def test_cameras_are_named_and_those_that_may_not_be_opened():
    devices = [VideoDevice(Path("/dev/video0"), "USB Camera"), VideoDevice(Path("/dev/video2"), None)]
    seen, denied = cameras(devices)
    assert (seen.level, seen.text) == ("ok", "/dev/video0 (USB Camera)")
    assert (denied.level, denied.text) == ("note", "no permission to open /dev/video2")
    assert denied.remedy.startswith("sudo usermod -aG video ")
    assert list(cameras([])) == []


def test_what_is_no_camera_is_passed_over(tmp_path: Path):
    (tmp_path / "video0").write_bytes(b"")
    (tmp_path / "video1").symlink_to("/dev/null")
    (tmp_path / "video2").symlink_to("nowhere")
    (tmp_path / "videos").mkdir()
    assert video_devices(tmp_path) == []


def test_a_device_that_may_not_be_opened_is_told():
    with tempfile.TemporaryDirectory() as scratch:
        folder, user = Path(scratch), os.geteuid()
        folder.chmod(0o755)
        for number in (10, 9):
            (folder / f"video{number}").touch(0)
        os.seteuid(user or 65534)  # root may open everything
        try:
            found = video_devices(folder)
        finally:
            os.seteuid(user)
    assert found == [VideoDevice(folder / f"video{number}", None) for number in (9, 10)]


def test_every_extra_that_a_use_needs_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    there = importlib.util.find_spec
    absent = {"cv2", "matplotlib", "torch"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else there(name, *rest))
    for machine, extras in (("x86_64", ["camera", "report", "train", "export"]), ("aarch64", ["camera", "report"])):
        monkeypatch.setattr(doctor.platform, "machine", lambda machine=machine: machine)
        notes = [finding for finding in examine() if finding.topic == "extra"]
        assert [note.remedy for note in notes] == [f"pip install 'edgeface[{extra}]'" for extra in extras]
        assert "(matplotlib)" in notes[1].text


def test_what_the_doctor_asks_for_is_what_the_extra_brings():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    providers = importlib.metadata.packages_distributions()
    for extra, (modules, _) in doctor.EXTRAS.items():
        brought = {re.match(r"[\w-]+", text)[0].lower() for text in project["optional-dependencies"][extra]}
        for module in modules:
            assert {name.lower().replace("_", "-") for name in providers.get(module, [module])} & brought, (
                extra,
                module,
            )
