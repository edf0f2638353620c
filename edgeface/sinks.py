"""Where events go besides the terminal: a local command, a web hook. Neither may hold up the camera."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import queue
import shlex
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict

from edgeface.live import Row
from edgeface_runtime import UsageError
from edgeface_runtime.streams.captures import without_secrets

WAITING = 1000
"""Events that wait for a slow receiver; further ones are dropped, and said to be."""
_PATIENCE = 10.0  # seconds that a command or a web hook may take, and that the last events get at the end
_TRIES = 3


def line(row: Row) -> str:
    """An event as one line of JSON."""
    document = asdict(row)
    return json.dumps({"kind": document.pop("event"), **document}, ensure_ascii=False)


@contextlib.contextmanager
def behind(deliver: Callable[[Row], None], note: Callable[[str], None]) -> Iterator[Callable[[Row], None]]:
    """Takes events at once and delivers them one after the other in a thread of its own.

    Args:
        deliver: raises OSError where it cannot.
        note: is told of what was not delivered.
    """
    waiting: queue.Queue[Row | None] = queue.Queue(WAITING + 1)
    dropped = 0

    def work() -> None:
        while (row := waiting.get()) is not None:
            try:
                deliver(row)
            except (OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError) as error:
                note(f"an event was not delivered: {error}")

    def put(row: Row) -> None:
        nonlocal dropped
        if waiting.qsize() < WAITING:
            waiting.put(row)
            return
        dropped += 1
        if dropped == 1:
            note("the receiver is too slow: events are dropped")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield put
    finally:
        waiting.put(None)
        thread.join(_PATIENCE)
        if thread.is_alive():
            note(f"{waiting.qsize()} events were not delivered within {_PATIENCE:.0f} s after the end")
        if dropped:
            note(f"{dropped} events were dropped: the receiver was too slow")


def command(text: str) -> Callable[[Row], None]:
    """Runs a local command for each event, without a shell: its line of JSON on stdin, its words in the environment.

    Raises:
        UsageError: there is no such command.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--exec {text}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise UsageError(f"--exec {text}: no such command")

    def deliver(row: Row) -> None:
        said = {"KIND": row.event, "NAME": row.name or "", "CAMERA": row.camera, "SNAPSHOT": row.snapshot or ""}
        environment = {**os.environ, **{f"EDGEFACE_{key}": value for key, value in said.items()}}
        done = subprocess.run(
            words, input=line(row) + "\n", text=True, env=environment, timeout=_PATIENCE, stdout=subprocess.DEVNULL
        )
        if done.returncode:
            raise OSError(f"{words[0]} ended with code {done.returncode}")

    return deliver


def webhook(address: str) -> Callable[[Row], None]:
    """Posts each event as JSON to an address, and again where that fails.

    Raises:
        UsageError: it is no ``http://`` or ``https://`` address.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_address = None
    if not is_address or not address.isascii() or not address.isprintable() or " " in address:
        raise UsageError("--webhook takes an http:// or https:// address")
    login, at, place = parts.netloc.rpartition("@")
    target = urllib.parse.urlunsplit(parts._replace(netloc=place))
    headers = {"Content-Type": "application/json"}
    if at:
        secret = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        headers["Authorization"] = f"Basic {secret}"

    def deliver(row: Row) -> None:
        body = line(row).encode()
        for left in range(_TRIES - 1, -1, -1):
            request = urllib.request.Request(target, body, headers)
            try:
                with urllib.request.urlopen(request, timeout=_PATIENCE):
                    return
            except OSError as error:  # the address may hold a secret, and the error the address
                if not left:
                    reason = getattr(error, "reason", None) or type(error).__name__
                    raise OSError(f"{without_secrets(address)}: {reason}") from None

    return deliver
