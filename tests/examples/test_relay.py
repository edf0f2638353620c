from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "relay.py"
# What gpiozero 2.0 has of it, and a note of what is done.
GPIOZERO = """
class OutputDevice:
    def __init__(self, pin, *, active_high=True, initial_value=False, pin_factory=None):
        self.say("open", pin)

    def say(self, *words):
        print(*words, flush=True)

    def on(self):
        self.say("on")

    def off(self):
        self.say("off")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.say("closed")
"""


class Pin:
    def __init__(self) -> None:
        self.said: list[tuple[str, float]] = []

    def on(self) -> None:
        self.said.append(("on", time.monotonic()))

    def off(self) -> None:
        self.said.append(("off", time.monotonic()))


@pytest.fixture
def relay() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("relay", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(kind: str, name: str | None = None) -> str:
    return json.dumps({"kind": kind, "name": name})


def test_it_switches_for_those_who_are_meant_and_goes_off_by_itself(relay: types.ModuleType):
    pin = Pin()

    def events() -> Iterator[str]:
        for kind, name in (("appeared", None), ("unknown", None), ("named", None), ("named", "Cem"), ("lost", None)):
            yield line(kind, name)
        assert pin.said == []
        yield line("named", "Ada")
        time.sleep(0.2)
        yield line("named", "Ada")  # again: it stays on for longer
        time.sleep(0.6)
        assert [word for word, _ in pin.said] == ["on", "on", "off"]
        assert pin.said[2][1] - pin.said[1][1] >= 0.29

    relay.attend(events(), pin, 0.3, {"Ada"})
    assert pin.said[-1][0] == "off"


def test_it_goes_off_where_its_events_end_or_make_no_sense(relay: types.ModuleType):
    pin = Pin()
    with pytest.raises(json.JSONDecodeError):
        relay.attend([line("named", "Ada"), "nonsense"], pin, 60, set())
    assert [word for word, _ in pin.said] == ["on", "off"]


def test_it_reads_the_lines_of_edgeface_run(tmp_path: Path):
    (tmp_path / "gpiozero.py").write_text(GPIOZERO)
    command = [sys.executable, str(EXAMPLE), "--pin", "17"]
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, input=line("named", "Ada"), env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (0, ["open 17", "on", "off", "closed"]), done.stderr
    (tmp_path / "gpiozero.py").unlink()
    done = subprocess.run(command, input="", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "gpiozero is not installed: sudo apt install python3-gpiozero\n")
