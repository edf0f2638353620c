"""Ctrl-C at the worst moment, and the executor's end."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgeface.data.workers import interrupt_between, results

WORST = """
import signal, time
from concurrent.futures import _base
from edgeface.data.workers import results

acquire = _base._AcquireFutures.__enter__

def interrupted(self):
    acquire(self)
    _base._AcquireFutures.__enter__ = acquire
    signal.raise_signal(signal.SIGINT)

if __name__ == "__main__":
    _base._AcquireFutures.__enter__ = interrupted
    with results(time.sleep, [0.05] * 40, 2, None) as done:
        for position, _ in done:
            print(position, flush=True)
"""
"""A program that is interrupted while it holds the locks of all that runs."""


def test_an_interrupt_that_meets_a_held_lock_ends_the_run(tmp_path: Path) -> None:
    script = tmp_path / "worst.py"
    script.write_text(WORST)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    assert ended.returncode == -signal.SIGINT, ended.stderr
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert len(ended.stdout.split()) < 10


def test_an_interrupt_waits_for_the_check_and_a_second_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupt_between() as check:
        check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with results(abs, [-1, 2], 2, None) as done:
            seen.append(signal.getsignal(signal.SIGINT))
            seen.append(sorted(done))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, [(0, 1), (1, 2)]]


def test_an_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt_between() as check:
            signal.raise_signal(signal.SIGINT)
            check()
    finally:
        signal.signal(signal.SIGINT, before)
