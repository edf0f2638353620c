"""``edgeface devices``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from edgeface.cli.console import Json, note, print_json, print_table


class Build(StrEnum):
    """What can be built for boards that are not at hand."""

    emulator = "emulator"


def devices(
    build: Annotated[Build | None, typer.Argument(help="emulator: build what `bench --emulate` runs files in.")] = None,
    json: Json = False,
) -> None:
    """List the boards that bench --device knows, or build their emulator.

    The name rpi stands for this machine where it is one of them, else for rpi-4b. --json has caches, processor
    features, wheels, and the source of each value.

    The emulator is a 64-bit Debian 12 for arm64 with Python and both engines, run by qemu on the boards' cores: about
    450 MB in the user's cache, in a minute. A build that was interrupted goes on where it stood. It needs Debian's or
    Ubuntu's qemu-user and mmdebstrap, and Linux 6.7; what is missing is said.

    \b
    Examples:
      edgeface devices
      edgeface devices --json
      edgeface devices emulator
    """
    from edgeface_devices.boards.profiles import profiles
    from edgeface_devices.emulate import userland as emulator

    if build is not None:
        root = emulator.build(note)
        if json:
            print_json({"schema": 1, "emulator": {"root": str(root), "counts": emulator.has_counter(root)}})
        else:
            typer.echo(root)
        return
    if json:
        print_json({"schema": 1, "devices": [board.as_json() for board in profiles().values()]})
        return
    columns = ["name", "board", "core", "cores", "MHz", "MiB", "threads"]
    rows = [
        [p.name, p.board, p.core, p.cores, p.clock_mhz, _span(p.memory_mib), p.threads] for p in profiles().values()
    ]
    print_table("boards (threads: recommended)", columns, rows)


def _span(sizes: tuple[int, ...]) -> str:
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
