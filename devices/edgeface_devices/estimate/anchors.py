"""Rows that were measured on the user's own boards, kept to carry later estimates."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from edgeface_devices.estimate.published import Costs
from edgeface_devices.results import Results
from edgeface_runtime import UsageError
from edgeface_runtime.files import replacing


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One file measured on one board."""

    board: str
    """Name of its profile."""
    engine: str
    version: str
    precision: str
    threads: int
    net: Costs
    ms: float
    """Median of a call."""
    sha256: str
    """Of the file."""
    date: str


def anchor_file() -> Path:
    """``$XDG_DATA_HOME/edgeface/anchors.jsonl``: one row a line."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "edgeface" / "anchors.jsonl"


def load_anchors() -> list[Anchor]:
    """Every kept row, the oldest first.

    Raises:
        UsageError: the file is no list of rows; names it and the line.
    """
    path = anchor_file()
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else (), 1):
        try:
            entry = json.loads(line)
            rows.append(Anchor(**entry | {"net": Costs(**entry["net"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path}: line {number} is no measured row; remove it") from error
    return rows


def keep(results: Results, nets: Sequence[Costs]) -> list[Anchor]:
    """Keeps what a board measured, in the place of older rows of the same files there, and gives the new rows.

    Nothing is kept of an emulated machine, of a board that is not known, of one that was throttled, or of files
    whose contract has no costs.

    Args:
        results: of ``remote.measure``.
        nets: costs of its rows' files.
    """
    board = results.device.profile
    throttled = results.state is not None and results.state.throttled
    if results.device.source != "measured" or board is None or throttled:
        return []
    new = [
        Anchor(
            board=board,
            engine=row.engine,
            version=row.engine_version or "unknown",
            precision=row.precision,
            threads=row.threads,
            net=net,
            ms=row.median_ms,
            sha256=sha256(row.path.read_bytes()).hexdigest(),
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
        )
        for row, net in zip(results.rows, nets, strict=True)
        if net.macs
    ]
    replaced = {_identity(anchor) for anchor in new}
    rows = [anchor for anchor in load_anchors() if _identity(anchor) not in replaced] + new
    path = anchor_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text("".join(f"{json.dumps(asdict(anchor))}\n" for anchor in rows), encoding="utf-8")
    return new


def _identity(anchor: Anchor) -> tuple[object, ...]:
    return anchor.board, anchor.engine, anchor.version, anchor.precision, anchor.threads, anchor.sha256
