"""A measured run as a file to send to others: what the board is and what it measured, and nothing of whose it is."""

from __future__ import annotations

from edgeface_devices.estimate.latency import costs_of
from edgeface_devices.measurement import Json
from edgeface_devices.results import SCHEMA, Results
from edgeface_runtime import UsageError

_OF_DEVICE = ("name", "source", "cores", "system", "profile", "clock_mhz", "model")
_NOT_OF_ROW = ("device", "origin", "top1", "auc", "top1_here", "auc_here", "agreement", "estimate", "verification")


def shareable(results: Results) -> Json:
    """The measured rows with their nets' costs: names of files without folders, no host, no account, no address.

    Args:
        results: of one machine.

    Raises:
        UsageError: nothing in it was measured.
    """
    rows: list[Json] = []
    for row in results.rows:
        if row.source != "measured":
            continue
        kept: Json = {key: value for key, value in row.to_json().items() if key not in _NOT_OF_ROW}
        costs = vars(costs_of(row.contract, row.size_bytes)) if row.contract else None
        rows.append(kept | {"path": row.file, "net": row.contract.name if row.contract else None, "costs": costs})
    if not rows:
        raise UsageError("--share is for what was measured: run it on the board, or with --host")
    return {
        "schema": SCHEMA,
        "device": {key: value for key, value in results.device.to_json().items() if key in _OF_DEVICE},
        "state": results.state and results.state.to_json(),
        "rows": rows,
    }
