"""Opens a model file in a process of its own, so that an engine that crashes on it ends that process alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeface_runtime.errors import ModelError
from edgeface_runtime.files import replacing
from edgeface_runtime.metadata import graph_formats

MOST = 1000
"""Digests that are remembered, the latest."""
_LARGEST = 1 << 20
_DISTRIBUTIONS = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert", "tflite-runtime"), "ncnn": ("ncnn",)}
_RUN = """
import contextlib, sys
import numpy as np
with contextlib.suppress(ImportError, ValueError, OSError):
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from edgeface_runtime.contract import read_contract
from edgeface_runtime.engines import open_engine
from edgeface_runtime.errors import ContractError
from edgeface_runtime.model import load
try:
    read_contract(sys.argv[1])
except ContractError:
    engine = open_engine(sys.argv[1])
    shape = [side or (112 if place else 1) for place, side in enumerate(engine.input_shape)]
    for kind in (np.float32, np.uint8):
        with contextlib.suppress(Exception):
            engine.run(np.zeros(shape, kind))
else:
    model = load(sys.argv[1])
    model.embed(np.zeros((1, model.contract.input.size, model.contract.input.size, 3), np.uint8))
"""
COMMAND = (sys.executable, "-P", "-c", _RUN)
"""Opens the file that is named next and runs it once on zeros."""
_REMEDY = {
    "SIGILL": "its packages use an instruction that this processor does not have: edgeface doctor",
    "SIGKILL": "out of memory, or killed by somebody",
}


def try_model(path: Path) -> None:
    """Has the engine open a file and run it once on zeros, in a process of its own; once for each file and engine.

    What ends with an error of Python's says nothing here: whoever opens the file next says it better.

    Raises:
        ModelError: a signal ended that process.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return
    engine = " and ".join(map(_engine, graph_formats(path)))
    line = f"{hashlib.sha256(data).hexdigest()} {engine}"
    del data
    if line in _remembered():
        return
    done = subprocess.run([*COMMAND, str(path)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        remedy = _REMEDY.get(name, "take another file of the model, or another version of the engine")
        raise ModelError(f"{path}: {engine} ended by signal {name} while it opened this file; {remedy}")
    if done.returncode == 0:
        _remember(line)


def memory() -> Path:
    """The file that remembers what was tried: ``$XDG_CACHE_HOME/edgeface/tried-models.txt``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeface" / "tried-models.txt"


def _engine(kind: str) -> str:
    """Name and version of the engine that opens files of that format."""
    for name in _DISTRIBUTIONS[kind]:
        with contextlib.suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
    return _DISTRIBUTIONS[kind][0]


def _remembered() -> list[str]:
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
        if memory().is_file() and memory().stat().st_size < _LARGEST:
            return memory().read_text("utf-8", errors="replace").splitlines()[-MOST:]
    return []


def _remember(line: str) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        memory().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = [*_remembered(), line][-MOST:]
        with replacing(memory()) as part:
            part.touch(mode=0o600)
            part.write_text("\n".join(lines) + "\n", "utf-8")
