"""What ``edgeface bench`` says of machines that are elsewhere: over ssh, or emulated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.cli.console import ERR, bar, note, print_table

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData
    from edgeface_devices.away import Away


def emulated(files: Sequence[Path], faces: FaceData | None, device: str) -> Away:
    """The files on the emulated core of a board."""
    from edgeface.evaluation.benchmark import score
    from edgeface_devices.boards.profiles import find_profile
    from edgeface_devices.emulate.core import emulate
    from edgeface_devices.estimate.anchors import load_anchors

    result = emulate(
        files,
        find_profile(device),
        faces=None if faces is None else faces.faces,
        measured=load_anchors(),
        progress=lambda chunks, name: bar(ERR, chunks, f"emulating {name}"),
    )
    return result if faces is None else score(result, faces)


def over_ssh(
    host: str,
    files: Sequence[Path],
    faces: FaceData | None,
    device: str | None,
    *,
    threads: int,
    calls: int,
    sustained: float,
    allow_throttled: bool,
    ssh_option: Sequence[str],
    python: str,
) -> Away:
    """The files on a machine over ssh; what a known board measured is kept for later estimates."""
    from edgeface.evaluation.benchmark import score
    from edgeface_devices.boards.profiles import find_profile
    from edgeface_devices.estimate.anchors import anchor_file, keep
    from edgeface_devices.estimate.latency import net_of
    from edgeface_devices.remote.measure import measure
    from edgeface_runtime import read_contract

    with ERR.status(host) as status:
        result = measure(
            host,
            files,
            say=(lambda line: status.update(line)) if ERR.is_terminal else note,
            board=None if device in (None, "rpi") else find_profile(device),
            threads=threads,
            calls=calls,
            faces=None if faces is None else faces.faces,
            sustained_min=sustained,
            allow_throttled=allow_throttled,
            options=ssh_option,
            python=python,
        )
    kept = keep(result, [net_of(read_contract(path), path.stat().st_size) for path in files])
    if kept:
        note(f"{len(kept)} measured rows are kept for estimates in {anchor_file()}")
    return result if faces is None else score(result, faces)


def print_away(result: Away) -> None:
    """Tables of one machine: its files, its state before and after, and how their times drifted."""
    is_emulated = result.source == "emulated"
    unit = "instructions of a call in millions, never times" if is_emulated else "times in ms, peak in MB"
    print_table(f"{result.device['name']} ({unit}; top-1 in %)", *result.table())
    if is_emulated:
        estimates = [[f"{result.name(row)}: {row.facts['note']}"] for row in result.rows if "estimate" in row.facts]
        if estimates:
            print_table("", ["estimated, neither measured nor emulated"], estimates)
        return
    state = result.extra["state"]
    columns = ["the board", "MHz", "°C", "governor", "throttled"]
    rows = [[when, *_reading(state[when]), state[when]["throttled"] or "–"] for when in ("before", "after")]
    print_table("", columns, rows)
    sustained = result.extra.get("sustained")
    if sustained:
        columns = ["minute", *map(result.name, result.rows), "MHz", "°C"]
        rows = [[f"{at['minutes']:.1f}", *(f"{ms:.2f}" for ms in at["p50_ms"]), *_reading(at)[:2]] for at in sustained]
        first, last = sustained[0]["p50_ms"], sustained[-1]["p50_ms"]
        drift = [f"{100 * (b / a - 1):+.1f} %" for a, b in zip(first, last, strict=True)]
        print_table("median ms of each repetition", columns, [*rows, ["drift", *drift, "", ""]])


def _reading(state: dict[str, Any]) -> list[Any]:
    return ["–" if state[key] is None else state[key] for key in ("mhz", "celsius", "governor")]
