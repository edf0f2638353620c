"""``python -m edgeface.tuning.child``: the ``edgeface`` command, ended when the search that started it ends.

A run whose search is killed would take the processor from the one that goes on. The run itself asks the kernel for
that: between fork and exec nothing can safely be called in a search, whose libraries have threads.
"""

from __future__ import annotations

import ctypes
import runpy
import signal

_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    _end_with_parent()
    runpy.run_module("edgeface", run_name="__main__")
