"""Switches a relay on a Raspberry Pi's pin for some seconds whenever somebody who is enrolled is named.

    edgeface run --camera 0 -g people.gallery --json-lines | python relay.py --pin 17 --seconds 3
    edgeface run --camera 0 -g people.gallery --json-lines | python relay.py --pin 17 --name Ada --name Bea

A photo of Ada is Ada to a camera: switch a light or a bell with it, not a lock. ``gpiozero`` comes with Raspberry Pi OS
(``sudo apt install python3-gpiozero``). While the relay is on, whoever is named again keeps it on for longer.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Iterable
from typing import Protocol


class Pin(Protocol):
    """What is switched, such as gpiozero's ``OutputDevice``."""

    def on(self) -> None: ...

    def off(self) -> None: ...


def attend(lines: Iterable[str], pin: Pin, seconds: float, names: set[str]) -> None:
    """Switches on at each ``named`` event, and off so many seconds after the last; off at the end, whatever ends it."""
    timer: threading.Timer | None = None
    try:
        for line in lines:
            event = json.loads(line)
            name = event["name"]
            if event["kind"] != "named" or name is None or (names and name not in names):
                continue
            if timer:
                timer.cancel()
            pin.on()
            timer = threading.Timer(seconds, pin.off)
            timer.daemon = True
            timer.start()
    finally:
        if timer:
            timer.cancel()
        pin.off()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pin", type=int, required=True, help="its number as GPIO, not its place on the header")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--name", action="append", default=[], help="only for this person; may repeat")
    arguments = parser.parse_args()
    try:
        from gpiozero import OutputDevice
    except ModuleNotFoundError:
        parser.exit(2, "gpiozero is not installed: sudo apt install python3-gpiozero\n")
    with OutputDevice(arguments.pin, initial_value=False) as pin:
        try:
            attend(sys.stdin, pin, arguments.seconds, set(arguments.name))
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
