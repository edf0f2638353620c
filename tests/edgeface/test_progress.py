"""Training and exports are a library: they need no console, and what they say goes to whoever asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch")

from edgeface.cli.console import TerminalReporter
from edgeface.progress import SILENT

# Everything that a program calls to train, to fine-tune, to export and to run the demo.
LIBRARY = (
    "training.loop",
    "training.init",
    "training.qat",
    "deploy",
    "demo",
    "evaluation.pipeline",
    "live",
    "photo_folders",
)


def test_nothing_but_the_command_line_needs_a_console():
    imports = "; ".join(f"import edgeface.{name}" for name in LIBRARY)
    code = f"import sys; {imports}; print(sorted({{'typer', 'edgeface.cli'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_offers_its_names_and_waits_for_pytorch_until_one_is_used():
    code = """
import sys
import edgeface.training, edgeface.report.runs, edgeface.cli.runs
assert "torch" not in sys.modules
from edgeface.training import *
assert all(name in globals() for name in edgeface.training.__all__)
print(train.__module__, load_config(epochs=3).schedule.epochs, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["edgeface.training.loop", "3", "True"]


def test_without_a_reporter_nothing_is_said(capfd: pytest.CaptureFixture[str]):
    SILENT.say("a line", heading=True)
    assert list(SILENT.track([3, 1, 2], "counting")) == [3, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_the_command_line_says_each_line_on_stderr_as_it_is(capfd: pytest.CaptureFixture[str]):
    reporter = TerminalReporter()
    long = "runs/[bold]mine[/bold] :smile: " + "word " * 40 + "end"
    for heading in (False, True):
        reporter.say(long, heading=heading)
    assert list(reporter.track([3, 1, 2], "counting")) == [3, 1, 2]
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"{long}\n{long}\n"
