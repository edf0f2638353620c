"""The parent's end of a worker: starts it, asks it, and says clearly when it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeface_devices.bench.limits import NO_LIMITS, Limits
from edgeface_devices.bench.protocol import EngineStart, PhotoMarks, PhotoTimes
from edgeface_devices.way import Setting
from edgeface_runtime.errors import ModelError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Worker:
    """A running worker process that holds one model file.

    Every method raises ModelError, naming the file, when the process reports an error or is gone.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        limits: Limits = NO_LIMITS,
        command: Sequence[str] | None = None,
        seen_as: str | None = None,
    ) -> None:
        """Starts the process and loads the file.

        Args:
            path: the model file, as errors name it.
            threads: of one call.
            limits: on the process, until it embeds photos.
            command: starts the worker where it does not run in this Python.
            seen_as: the file's path where that command runs.
        """
        self.path = path
        self._threads = threads
        self._seen_as = seen_as or str(path)
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._oom_kills = oom_kills()
        self.process = subprocess.Popen(
            command or [sys.executable, "-P", "-m", "edgeface_devices.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=os.environ | thread_settings(threads),
            text=True,
        )
        try:
            self.loaded = EngineStart(**self._ask(op="load", path=self._seen_as, threads=threads, **asdict(limits)))
        except BaseException:
            self.close()
            raise

    def time(self, calls: int) -> tuple[list[float], list[float]]:
        """Wall and CPU milliseconds of each of ``calls`` calls; one call before them is not counted."""
        answer = self._ask(op="time", calls=calls)
        return answer["wall_ms"], answer["cpu_ms"]

    def peak_mb(self) -> float:
        """The most memory that the process has held so far, in 10⁶ bytes."""
        return float(self._ask(op="peak")["peak_mb"])

    def embed(self, faces: Path, output: Path, *, seen_here: Path | None = None) -> NDArray[np.float32]:
        """Unit embeddings (N, D) of the (N, S, S, 3) uint8 faces in a .npy file; also written to ``output``.

        Both are paths where the process runs; ``seen_here`` is the folder of ``output`` as this one sees it.
        """
        self._ask(op="embed", faces=str(faces), output=str(output))
        embeddings: NDArray[np.float32] = np.load(output if seen_here is None else seen_here / output.name)
        return embeddings

    def mark(self, calls: int) -> None:
        """Runs ``calls`` calls, with a mark of the instruction counter before the first and after each."""
        self._ask(op="mark", calls=calls)

    def photo(self, scene: str, setting: Setting, calls: int) -> PhotoTimes:
        """Times ``calls`` ways from one photo to names, in parts and as one call."""
        asked = {"scene": scene, "threads": self._threads, "calls": calls} | asdict(setting)
        return PhotoTimes(**self._ask(op="photo", **asked))

    def photo_marks(self, scene: str, setting: Setting) -> PhotoMarks:
        """Runs each part of one way from a photo to names between two marks of the instruction counter."""
        return PhotoMarks(**self._ask(op="photo_marks", scene=scene, threads=self._threads, **asdict(setting)))

    def profile(self, calls: int) -> tuple[float, list[tuple[str, str, float]]]:
        """(median processor milliseconds of a call, (name, kind, milliseconds) of each operator)."""
        answer = self._ask(op="profile", threads=self._threads, calls=calls)
        return answer["cpu_ms"], [(name, kind, ms) for name, kind, ms in answer["operators"]]

    def close(self) -> None:
        """Ends the process and waits for it."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                _opened(pipe).close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._complaints.close()

    def _ask(self, **request: object) -> Any:
        line = ""
        with contextlib.suppress(BrokenPipeError):
            stdin = _opened(self.process.stdin)
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = _opened(self.process.stdout).readline()
        if not line.endswith("\n"):
            raise ModelError(f"{self.path}: its benchmark process died ({self._cause()})")
        answer = json.loads(line)
        if "error" in answer:
            raise ModelError(answer["error"].replace(self._seen_as, str(self.path)))
        return answer

    def _cause(self) -> str:
        code = self.process.wait()
        if code < 0:
            return death(-code, out_of_memory=oom_kills() > self._oom_kills)
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit {code}"


def thread_settings(threads: int) -> dict[str, str]:
    """Environment variables that keep the numeric libraries to that many threads."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"OMP_WAIT_POLICY": "PASSIVE"}


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """How many processes Linux has killed for want of memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", vmstat.read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def death(number: int, *, out_of_memory: bool = False) -> str:
    """What a signal that ended a process means, for a person."""
    name = signal.Signals(number).name
    if number == signal.SIGILL:
        return f"killed by {name}: its packages use an instruction that this processor does not have"
    if number == signal.SIGKILL:
        return f"killed by {name}: {'out of memory' if out_of_memory else 'out of memory, or by somebody'}"
    return f"killed by {name}"


def _opened(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
