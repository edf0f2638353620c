"""Tells systemd how a service fares: its protocol sd_notify, which is one datagram."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Sends ``READY=1``, ``WATCHDOG=1`` or the like to where ``NOTIFY_SOCKET`` says; nothing where it says nothing.

    https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    # systemd that has gone is no reason to stop.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
        way.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
