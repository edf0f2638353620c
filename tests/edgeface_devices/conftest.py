"""A Raspberry Pi 4 that answers ssh on this machine: sshd on loopback whose every session runs under emulation."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from edgeface_devices.emulate import userland as emulator
from edgeface_devices.emulate.userland import ENTER
from edgeface_runtime import UsageError

_SSHD = Path("/usr/sbin/sshd")

# What a session does first, by the client's EDGEFACE_BOARD: how a board may be found. The mounts are the session's own.
_SESSION = """#!/bin/sh
export EMULATED_ROOT={root} EMULATED_MNT={folder}/mnt EMULATED_COUNT= EMULATED_BOARD=cortex-a72
first=: path=
case ${{EDGEFACE_BOARD-}} in
    full) first="mount -t tmpfs -o size=64k none $EMULATED_MNT/home";;
    no-python) first="mount --bind /dev/null $EMULATED_ROOT/usr/bin/python3.11";;
    32-bit) path=/mnt/32-bit:;;
    counted) export EMULATED_COUNT={folder}/count;;
esac
exec unshare --user --map-root-user --mount sh -c "$first; "'exec "$@"' sh sh {enter} cortex-a72 \\
    /bin/sh -c "export HOME=/mnt/home PATH=$path\\$PATH; "'cd; exec sh -c "$1"' sh "$SSH_ORIGINAL_COMMAND"
"""

_CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/user.pub
AuthenticationMethods publickey
UsePAM no
StrictModes no
PermitRootLogin yes
ForceCommand {folder}/session
AcceptEnv EDGEFACE_BOARD
"""


@pytest.fixture(scope="session")
def emulated_root() -> Path:
    """The emulator, built in the user's cache where it is not there yet (a minute)."""
    lacking = emulator.missing()
    if lacking:
        pytest.skip(f"no emulator: {lacking}")
    try:
        return emulator.build(print)
    except UsageError as error:
        pytest.skip(f"no emulator: {error}")


@dataclass(frozen=True)
class Pi:
    """The emulated board: its name for ssh, what ssh needs to reach it, and its folders as this machine sees them."""

    host: str
    options: tuple[str, ...]
    folder: Path
    """``mnt`` in it is /mnt there, with ``home`` and what a test puts there."""
    daemon: psutil.Process

    def jobs(self) -> list[Path]:
        """What runs have left there."""
        return list((self.folder / "mnt/home/.cache/edgeface").glob("bench-*"))

    def cut(self) -> None:
        """Kills every connection, as a broken network does; what runs on its own there goes on."""
        for child in self.daemon.children():
            for process in [*child.children(), child]:
                if process.name().startswith("sshd"):
                    process.kill()


@pytest.fixture(scope="session")
def pi(emulated_root: Path) -> Iterator[Pi]:
    """sshd with keys and configuration of its own; the machine's own sshd and users are not touched."""
    if not _SSHD.exists() or not all(map(shutil.which, ("ssh", "ssh-keygen"))):
        pytest.skip("no sshd: apt-get install openssh-server openssh-client")
    with tempfile.TemporaryDirectory(prefix="pi-") as scratch:
        folder = Path(scratch)
        (folder / "mnt" / "home").mkdir(parents=True)
        (folder / "count").touch()
        for name in ("host", "user", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name]
            subprocess.run(command, check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        session = folder / "session"
        session.write_text(_SESSION.format(root=emulated_root, folder=folder, enter=ENTER))
        session.chmod(0o755)
        (folder / "sshd_config").write_text(_CONFIGURATION.format(port=port, folder=folder))
        for known, key in (("known", "host"), ("changed", "other")):
            words = (folder / f"{key}.pub").read_text().split()[:2]
            (folder / known).write_text(f"[127.0.0.1]:{port} {' '.join(words)}\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        command = [_SSHD, "-D", "-e", "-f", folder / "sshd_config"]
        with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as daemon:
            try:
                _wait_for(port, daemon, folder / "log")
                options = (f"Port={port}", f"IdentityFile={folder}/user", "IdentitiesOnly=yes")
                options += (f"UserKnownHostsFile={folder}/known", "StrictHostKeyChecking=yes")
                yield Pi(f"{getpass.getuser()}@127.0.0.1", options, folder, psutil.Process(daemon.pid))
            finally:
                daemon.terminate()


def _wait_for(port: int, daemon: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if daemon.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"sshd does not answer: {log.read_text()}")
