"""Runs tasks in this process, in worker processes or on a Dask cluster, all through one executor interface."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import TypeVar

from edgeface_runtime.errors import MissingExtraError, UsageError

T = TypeVar("T")
R = TypeVar("R")
_CONNECT_S = 10
_AHEAD = 2
"""Tasks in flight for each worker: enough to keep it busy, few enough to keep memory flat."""


@contextlib.contextmanager
def results(
    work: Callable[[T], R], tasks: Sequence[T], processes: int, scheduler: str | None
) -> Iterator[Iterator[tuple[int, R]]]:
    """An iterator over (position of the task, its result), in the order in which they are done.

    Args:
        work: a pure function; a task whose worker died may run twice.
        tasks: what to call it with.
        processes: worker processes; 1 calls ``work`` here.
        scheduler: address of a Dask scheduler (``tcp://host:8786``), whose workers replace ours.

    Raises:
        UsageError: no scheduler answers, or a worker process was killed.
        MissingExtraError: ``scheduler`` without the package distributed.
    """
    if not tasks or (processes == 1 and scheduler is None):
        yield ((position, work(task)) for position, task in enumerate(tasks))
        return
    pool = _dask(scheduler) if scheduler else _pool(min(processes, len(tasks)))
    with interrupt_between() as check, pool as (executor, count):
        try:
            yield _windowed(executor, work, tasks, count * _AHEAD, check)
        except BrokenProcessPool as error:
            check()  # a signal to the whole group ends the workers too
            raise UsageError(
                "a worker process was killed (out of memory?); run the same command again with fewer --workers to go on"
            ) from error


@contextlib.contextmanager
def interrupt_between() -> Iterator[Callable[[], None]]:
    """Keeps Ctrl-C, SIGTERM and SIGHUP until the function that this gives is called, which then raises for them.

    Raised at any other moment, it may leave a lock of the executor held for ever (``Condition.__enter__``, once it has
    its lock), and the end of the executor would wait for that lock. A second signal does not wait. Outside the main
    thread, to which signals never come, and where Ctrl-C does not raise at all, this does nothing.
    """
    heeded = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in heeded.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread() or signal.SIGINT not in before:
        yield lambda: None
        return
    came: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def keep(number: int, _: FrameType | None) -> None:
        came.append(number)
        restore()

    def check() -> None:
        if came:
            before[signal.Signals(came[0])](came[0], None)

    for number in before:
        signal.signal(number, keep)
    try:
        yield check
    finally:
        restore()


def _windowed(
    executor: Executor, work: Callable[[T], R], tasks: Sequence[T], window: int, check: Callable[[], None]
) -> Iterator[tuple[int, R]]:
    waiting = iter(enumerate(tasks))
    running: dict[Future[R], int] = {}
    while True:
        while len(running) < window and (next_task := next(waiting, None)):
            running[executor.submit(work, next_task[1])] = next_task[0]
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            check()
            yield running.pop(future), future.result()


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[tuple[Executor, int]]:
    # Spawned, because the inference engines' threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker)
    try:
        yield executor, processes
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it, even when it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _dask(scheduler: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError("distributed", "dask") from error
    try:
        client = Client(scheduler, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise UsageError(f"{scheduler}: no Dask scheduler answers there") from error
    with client:
        count = sum(client.nthreads().values())
        if not count:
            raise UsageError(f"{scheduler}: the scheduler has no worker; start one with: dask worker {scheduler}")
        yield client.get_executor(), count
