from __future__ import annotations

from pathlib import Path

import pytest

from edgeface_devices.bench.process import death, oom_kills
from edgeface_devices.boards.health import BoardState, read_state, throttling
from edgeface_devices.boards.profiles import profile_of


def reading(throttled: int | None) -> BoardState:
    return BoardState(governor=None, mhz=None, max_mhz=None, celsius=None, throttled=throttled)


@pytest.mark.parametrize(
    ("readings", "words"),
    [
        ([None, None], []),
        ([0x0, 0x0], []),
        ([0x50000, 0x50000], []),
        ([0x50000, 0x50005, 0x50000], ["under-voltage", "throttled"]),
        ([0x0, 0x80000], ["soft temperature limit"]),
        ([0x10000, 0x30000], ["clock capped"]),
    ],
)
def test_only_what_happened_between_the_readings_counts(readings: list[int | None], words: list[str]):
    assert throttling([reading(bits) for bits in readings]) == words


def test_a_board_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    frequency, zone = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq", tmp_path / "sys/class/thermal/thermal_zone0"
    for folder in (frequency, zone, tmp_path / "bin"):
        folder.mkdir(parents=True)
    (frequency / "scaling_governor").write_text("ondemand\n")
    (frequency / "scaling_cur_freq").write_text("600000\n")
    (frequency / "cpuinfo_max_freq").write_text("1800000\n")
    (zone / "temp").write_text("48312\n")
    tool = tmp_path / "bin" / "vcgencmd"
    tool.write_text("#!/bin/sh\n[ $1 = get_throttled ] && echo throttled=0x50000\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    state = read_state(tmp_path)
    assert state == BoardState(governor="ondemand", mhz=600, max_mhz=1800, celsius=48.312, throttled=0x50000)
    assert state.to_json()["throttled"] == "0x50000"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_state(tmp_path / "bin") == reading(None)


@pytest.mark.parametrize(
    ("model", "mhz", "name"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4", 1800, "rpi-4b"),
        ("Raspberry Pi 4 Model B Rev 1.1", 1500, "rpi-4b-1500"),
        ("Raspberry Pi 5 Model B Rev 1.0", 2400, "rpi-5"),
        ("Raspberry Pi Zero 2 W Rev 1.0", None, "rpi-zero-2w"),
        ("NVIDIA Jetson Nano", 1479, None),
    ],
)
def test_a_board_is_known_by_its_model_and_clock(model: str, mhz: int | None, name: str | None):
    found = profile_of(model, mhz)
    assert (found.name if found else None) == name


def test_a_death_is_named_with_its_cause(tmp_path: Path):
    assert death(4).startswith("killed by SIGILL: its packages use an instruction that this processor does not have")
    assert death(9, out_of_memory=True) == "killed by SIGKILL: out of memory"
    assert death(9) == "killed by SIGKILL: out of memory, or by somebody"
    assert death(15) == "killed by SIGTERM"
    (tmp_path / "vmstat").write_text("nr_free 1\noom_kill 3\noom_kill_x 9\n")
    assert oom_kills(tmp_path / "vmstat") == 3
    assert oom_kills(tmp_path / "absent") == 0
