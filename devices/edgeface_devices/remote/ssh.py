"""Commands on another machine, by the OpenSSH client with the user's own configuration, agent and known hosts."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgeface_runtime import UsageError

T = TypeVar("T")

_LOST = 255
"""Exit code of ssh itself; none of the commands sent has it."""
_DEFAULTS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=3")
# What ssh says → what it means and what to do. The first that is found counts.
_REFUSALS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the known one: another machine answers there, or it was set up anew "
        "(then: ssh-keygen -R {address})",
    ),
    (r"Host key verification failed", "its host key is not known here yet: run ssh {host} once and accept it"),
    (r"Could not resolve hostname", "no such host: {said}"),
    (r"Permission denied", "it takes none of your keys: ssh-copy-id {host}, or ssh-add for a key with a passphrase"),
    (r"Bad configuration option|command-line line|Bad owner or permissions", "{said}"),
)


class ConnectionLostError(UsageError):
    """The other machine cannot be reached, or is not there any more; another try may help."""


@dataclass(frozen=True)
class Connection:
    """A machine and how ssh reaches it."""

    host: str
    options: tuple[str, ...] = ()
    """As ssh -o takes them."""

    def command(self, script: str) -> list[str]:
        """The command line that runs a shell script there."""
        words = [word for option in (*self.options, *_DEFAULTS) for word in ("-o", option)]
        # Through sh: the login shell there may be of another family.
        return ["ssh", "-T", *words, "--", self.host, f"exec sh -c {shlex.quote(script)}"]

    def run(self, script: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs a shell script there, ``data`` on its stdin; its own failure is in the return code.

        Raises:
            ConnectionLostError: the machine cannot be reached.
            UsageError: it refuses us, or ssh is not installed; says why and what to do.
        """
        try:
            done = subprocess.run(self.command(script), input=data, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise UsageError("ssh is not installed here: sudo apt-get install openssh-client") from error
        self.check(done.returncode, done.stderr.decode(errors="replace"))
        return done

    def follow(self, script: str, take: Callable[[str], None]) -> None:
        """Runs a shell script there and gives each line of its output to ``take`` as it comes.

        Raises:
            ConnectionLostError, UsageError: as ``run``.
        """
        with tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                self.command(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, text=True
            )
            with process:
                try:
                    for line in process.stdout or ():
                        take(line.rstrip("\n"))
                except BaseException:
                    process.kill()
                    raise
            complaints.seek(0)
            self.check(process.returncode, complaints.read().decode(errors="replace"))

    def check(self, code: int, complaints: str) -> None:
        """Raises what ssh's exit code and words mean; nothing where the command itself ran."""
        if code != _LOST:
            return
        said = next((line for line in reversed(complaints.splitlines()) if line.strip()), "ssh gave no reason")
        for pattern, meaning in _REFUSALS:
            if re.search(pattern, complaints):
                address = self.host.rpartition("@")[2]
                raise UsageError(f"{self.host}: {meaning.format(said=said, host=self.host, address=address)}")
        raise ConnectionLostError(f"{self.host}: cannot be reached: {said}")


@contextlib.contextmanager
def connect(host: str, options: Sequence[str] = ()) -> Iterator[Connection]:
    """A connection whose sessions share one channel, closed with the block.

    Raises:
        UsageError: the name is none.
    """
    if not host or host.startswith("-"):
        raise UsageError(f"{host!r} is no host name: --host user@name")
    # /tmp, because the path of a socket may have 104 characters only.
    with tempfile.TemporaryDirectory(prefix="edgeface-", dir="/tmp") as folder:
        shared = ("ControlMaster=auto", f"ControlPath={folder}/%C", "ControlPersist=60")
        connection = Connection(host, (*options, *shared))
        try:
            yield connection
        finally:
            words = connection.command("")[1:-3]
            subprocess.run(["ssh", *words, "-O", "exit", "--", host], capture_output=True, check=False)


def persistently(action: Callable[[], T], say: Callable[[str], None], *, patience_s: float) -> T:
    """The result of an action that may be repeated, tried again after a lost connection.

    Args:
        action: what to do; every try starts it anew.
        say: takes a line about each new try.
        patience_s: seconds after the first loss in a row after which it is given up.

    Raises:
        ConnectionLostError: the machine did not come back.
    """
    deadline, wait = None, 1.0
    while True:
        try:
            return action()
        except ConnectionLostError as error:
            now = time.monotonic()
            deadline = deadline or now + patience_s
            if now + wait > deadline:
                raise
            say(f"{error}; trying again")
            time.sleep(wait)
            wait = min(2 * wait, 15.0)
