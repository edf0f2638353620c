"""Runs tasks in this process, in worker processes or on a Dask cluster, each through a function that gives a future."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from edgeface_runtime.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import distributed

T = TypeVar("T")
R = TypeVar("R")
_CONNECT_S = 10
_TRIES = 4
"""Of a task whose result was lost with the Dask worker that held it."""
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
    pool = _dask(work, scheduler) if scheduler else _pool(work, min(processes, len(tasks)))
    with interrupt_between() as check, pool as (submit, count):
        try:
            yield _windowed(submit, tasks, count * _AHEAD, check)
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
    submit: Callable[[T], Future[R]], tasks: Sequence[T], window: int, check: Callable[[], None]
) -> Iterator[tuple[int, R]]:
    waiting = iter(enumerate(tasks))
    running: dict[Future[R], int] = {}
    while True:
        while len(running) < window and (next_task := next(waiting, None)):
            running[submit(next_task[1])] = next_task[0]
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            check()
            yield running.pop(future), future.result()


@contextlib.contextmanager
def _pool(work: Callable[[T], R], processes: int) -> Iterator[tuple[Callable[[T], Future[R]], int]]:
    # Spawned, because the inference engines' threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker)
    try:
        yield (lambda task: executor.submit(work, task)), processes
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
def _dask(work: Callable[[T], R], scheduler: str) -> Iterator[tuple[Callable[[T], Future[R]], int]]:
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
        yield partial(_ask, client, work), count


def _ask(client: distributed.Client, work: Callable[[T], R], task: T) -> Future[R]:
    """What ``work`` makes of a task on the cluster, asked again where a worker died before it had given the result.

    The executor of distributed (2026.8) takes a result that had to be computed again for an exception.
    """
    answer: Future[R] = Future()
    left = iter(range(_TRIES - 1))

    def ask() -> None:
        client.submit(work, task, pure=False).add_done_callback(answered)

    def answered(done: distributed.Future[R]) -> None:
        try:
            answer.set_result(done.result())
        except CancelledError as error:
            if client.status == "running" and next(left, None) is not None:
                ask()
            else:
                answer.set_exception(error)
        except BaseException as error:
            answer.set_exception(error)

    ask()
    return answer
