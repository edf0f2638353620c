"""An environment for each engine: a virtual environment or a folder of npm's packages, made once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from reproduce.engines.manifest import Engine

INSTALL_S = 1800
READY = ".ready"


class NotInstalledError(Exception):
    """The engine cannot be installed here; the message is a line."""


def prepare(engine: Engine, folder: Path) -> Path:
    """The folder with the engine's packages, filled unless it is whole already.

    Raises:
        NotInstalledError: pip or npm is not there, or has no such packages for this machine.
    """
    place = folder / engine.environment
    if (place / READY).exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if engine.pip:
        _call([sys.executable, "-m", "venv", "--without-pip", str(place)])
        pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "-q", "--no-compile"]
        _call([*pip, "--disable-pip-version-check", *engine.pip])
    if engine.npm:
        npm = shutil.which("npm")
        if npm is None:
            raise NotInstalledError("npm is not installed")
        (place / "package.json").write_text("{}")
        _call([npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *engine.npm], place)
    (place / READY).touch()
    return place


def _call(command: list[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"took longer than {INSTALL_S} s to install") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise NotInstalledError(said[-1].removeprefix("ERROR: ") if said else f"exit code {done.returncode}")
