"""``edgeface devices``."""

from __future__ import annotations

from edgeface.cli.console import Json, print_json, print_table


def devices(json: Json = False) -> None:
    """List the boards that bench --device knows.

    The word rpi stands for this host where it is one of them, else for rpi-4b. --json has caches, processor
    features, wheels, and the source of each value.

    \b
    Examples:
      edgeface devices
      edgeface devices --json
    """
    from edgeface_devices.profiles import profiles

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
