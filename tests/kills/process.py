"""One command in a process of its own, which something befalls.

The process is a fork of this one, which has imported everything: what is disturbed is the command's work, not its
imports, and two hundred take minutes.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WARM = (
    "edgeface.cli.data", "edgeface.cli.train", "edgeface.data.prepare", "edgeface.training.loop", "edgeface.adapting",
    "edgeface.deploy", "edgeface.evaluation.pipeline", "edgeface.report.evaluation", "edgeface.report.curves",
    "edgeface.grouping.run", "edgeface.live", "edgeface.snapshots", "edgeface_export.pipeline", "edgeface_runtime",
    "onnx", "onnxruntime", "onnxruntime.quantization", "onnxscript", "torch", "accelerate", "sklearn",
    "sklearn.linear_model", "scipy.stats", "imagehash", "cv2", "matplotlib.pyplot", "rich.progress", "jinja2",
    "torch.onnx", "torch._dynamo", "torch.export",
)  # fmt: skip
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code, or minus the signal."""

    code: int
    out: str
    err: str
    seconds: float
    """Of processor time, which other programs do not stretch."""
    points: int
    """Changes of files below the command's folder that Python told of."""
    most: int
    """Bytes used on the folder's file system at the most, where ``watched``."""


def warm() -> None:
    """Imports what the commands need, and starts no thread."""
    import importlib

    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    for name in WARM:
        importlib.import_module(name)


def run(
    words: list[str],
    place: Path,
    *,
    kill_after: float | None = None,
    kill_at: int | None = None,
    with_signal: int = signal.SIGKILL,
    limit: Callable[[], None] = lambda: None,
    watched: bool = False,
) -> Done:
    """Runs ``edgeface`` with these words in ``place``.

    Args:
        words: the arguments.
        place: the working folder; ``tmp`` in it is the command's temporary folder.
        kill_after: seconds of processor time after which the signal comes.
        kill_at: the signal comes before this change of a file, counted from 1.
        with_signal: that signal.
        limit: called in the new process first.
        watched: measures ``most``.
    """
    told = place.parent / "told"
    told.mkdir(exist_ok=True)
    (place / "tmp").mkdir(exist_ok=True)
    for name in ("out", "err", "points"):
        (told / name).write_bytes(b"")
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(words, place, told, kill_at, with_signal, limit)
    most, ended, seconds = 0, 0, 0.0
    while not ended:
        if watched:
            most = max(most, used(place))
        seconds = time.clock_gettime(~child << 3 | 2)  # the clock of another process, as clock_getcpuclockid makes it
        if kill_after is not None and seconds >= kill_after:
            os.kill(child, with_signal)
            kill_after = None
        if time.monotonic() - started > 600:
            os.kill(child, signal.SIGKILL)
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.002)
    return Done(
        os.waitstatus_to_exitcode(status),
        (told / "out").read_text("utf-8", "replace"),
        (told / "err").read_text("utf-8", "replace"),
        seconds,
        len((told / "points").read_bytes()),
        most,
    )


def used(place: Path) -> int:
    """Bytes used on the file system."""
    system = os.statvfs(place)
    return (system.f_blocks - system.f_bfree) * system.f_frsize


def _become(
    words: list[str], place: Path, told: Path, kill_at: int | None, with_signal: int, limit: Callable[[], None]
) -> None:
    """Turns this process into the command; never comes back."""
    code = 70
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(told / name, os.O_WRONLY | os.O_APPEND), number)
        os.chdir(place)
        os.environ["TMPDIR"] = str(place / "tmp")
        import tempfile

        tempfile.tempdir = None
        points = os.open(told / "points", os.O_WRONLY | os.O_APPEND)
        _count(str(place), points, kill_at, with_signal)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit()
        sys.argv = ["edgeface", *words]
        from edgeface.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = code or 120
        os._exit(code)


def _count(place: str, points: int, kill_at: int | None, with_signal: int) -> None:
    """Counts the changes of files below ``place`` that this process makes, and sends itself the signal at one."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in _CHANGES:
            return
        named = arguments[0]
        if isinstance(named, (str, bytes, os.PathLike)) and Path(os.fsdecode(named)).absolute().is_relative_to(place):
            count += 1
            os.write(points, b".")
            if count == kill_at:
                os.kill(os.getpid(), with_signal)

    sys.addaudithook(hook)
