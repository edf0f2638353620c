"""Lets one engine open one file, in a process of its own with a time limit."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgeface_runtime.files import write_text
from reproduce.engines import probes
from reproduce.engines.files import ModelFile
from reproduce.engines.manifest import Engine

HERE = Path(__file__).parent
LIMIT_S = 120


@dataclass(frozen=True)
class Trial:
    """What came of one engine and one file."""

    outcome: str
    """``ran``, ``refused``, ``crashed``, ``too slow`` or ``not installed``."""
    said: str = ""
    """The engine's own words where it refused."""
    outputs: list[list[float]] | None = None
    """The raw embedding of each golden probe."""
    fingerprint: str = ""
    """Of the file, the packages and the probe."""


def known_trial(engine: Engine, file: ModelFile, folder: Path) -> Trial | None:
    """What an earlier run found with the same engine, probe and bytes."""
    try:
        found = Trial(**json.loads(_record(engine, file, folder).read_text("utf-8")))
    except FileNotFoundError:
        return None
    return found if found.fingerprint == fingerprint(engine, file) and found.outcome != "not installed" else None


def keep(engine: Engine, file: ModelFile, folder: Path, trial: Trial) -> None:
    """Writes it for the next run."""
    place = _record(engine, file, folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, json.dumps(asdict(trial)) + "\n")


def attempt(engine: Engine, file: ModelFile, environment: Path, limit_s: float = LIMIT_S) -> Trial:
    """Opens the file and runs the golden probes."""
    print_of = fingerprint(engine, file)
    with tempfile.TemporaryDirectory() as work:
        images, answer = Path(work) / "images.npy", Path(work) / "answer.json"
        np.save(images, file.images())
        copy = shutil.copy(file.path, work)  # some engines write beside what they read
        ends = [str(copy), str(images), str(answer)]
        command = {
            "node": ["node", str(HERE / "probe.mjs"), str(environment), *ends],
            "browser": [sys.executable, "-m", "reproduce.engines.browser", str(environment), *ends],
        }.get(engine.probe, [str(environment / "bin" / "python"), str(HERE / "probes.py"), engine.probe, *ends])
        kept = {"PATH", "HOME", "LANG", "TMPDIR", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
        if engine.probe == "browser":  # it is this harness's own Python
            kept.add("PYTHONPATH")
        variables = {name: value for name, value in os.environ.items() if name in kept}
        if engine.pip:  # what a package calls by name is its own environment's or the system's, never the caller's
            variables["PATH"] = f"{environment / 'bin'}:{os.defpath}"
        variables |= {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            done = subprocess.run(
                command,
                cwd=HERE.parents[1] if engine.probe == "browser" else work,
                env=variables,
                capture_output=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Trial("too slow", fingerprint=print_of)
        if not answer.exists():
            return Trial("crashed", _last_line(done.stderr), fingerprint=print_of)
        found = json.loads(answer.read_text("utf-8"))
    if "error" in found:
        return Trial("refused", found["error"], fingerprint=print_of)
    return Trial("ran", "", found["outputs"], fingerprint=print_of)


def _last_line(data: bytes) -> str:
    lines = data.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def _record(engine: Engine, file: ModelFile, folder: Path) -> Path:
    return folder / engine.slug / f"{file.path.name}.json"


def fingerprint(engine: Engine, file: ModelFile) -> str:
    """Of all that decides what comes out, so that a changed file, package or probe is tried again."""
    scripts = {"node": "probe.mjs", "browser": "browser.py"}
    name, _, option = engine.probe.partition(":")
    probe = (HERE / scripts[name]).read_text("utf-8") if name in scripts else inspect.getsource(getattr(probes, name))
    parts = [file.path.read_bytes(), *(text.encode() for text in (engine.environment, probe, option))]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
