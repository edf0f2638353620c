"""The parent's end of a worker: starts it, asks it, and says clearly when it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.errors import ModelError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Worker:
    """A running worker process that holds one model file.

    Every method raises ModelError, naming the file, when the process reports an error or is gone.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self.path = path
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        limits = dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgeface_devices.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=os.environ | limits,
            text=True,
        )
        try:
            self.loaded = self._ask(op="load", path=str(path), threads=threads)
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

    def embed(self, faces: Path, output: Path) -> NDArray[np.float32]:
        """Unit embeddings (N, D) of the (N, S, S, 3) uint8 faces in a .npy file; also written to ``output``."""
        self._ask(op="embed", faces=str(faces), output=str(output))
        embeddings: NDArray[np.float32] = np.load(output)
        return embeddings

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

    def _ask(self, **request: object) -> dict[str, Any]:
        line = ""
        with contextlib.suppress(BrokenPipeError):
            stdin = _opened(self.process.stdin)
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = _opened(self.process.stdout).readline()
        if not line.endswith("\n"):
            raise ModelError(f"{self.path}: its benchmark process died ({self._cause()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ModelError(answer["error"])
        return answer

    def _cause(self) -> str:
        code = self.process.wait()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit {code}"


def _opened(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
