"""Every module that is called as a command answers when it is."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

FOLDER = Path(__file__).parents[1]
COMMANDS = [path.stem for path in sorted(FOLDER.glob("*.py")) if "python -m reproduce." + path.stem in path.read_text()]


def test_there_are_commands():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_shown(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"reproduce.{name}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"reproduce.{name}", run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out
