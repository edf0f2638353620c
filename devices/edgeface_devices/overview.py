"""Rows of several files, engines, boards and runs side by side, each number with its source.

Works on the documents that ``bench --json`` prints, so that an earlier run, a board's run and an estimate
count alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from edgeface_devices.bench.interleaved import FORMAT_NAMES
from edgeface_devices.bench.timing import Figure, Source
from edgeface_runtime import ModelError, UsageError, read_contract

Document = dict[str, Any]

_MEASURED_KEYS = {
    "p50": "p50_ms",
    "p90": "p90_ms",
    "p99": "p99_ms",
    "cpu_p50": "cpu_p50_ms",
    "first": "first_ms",
    "load": "load_ms",
    "import": "import_ms",
    "peak": "peak_mb",
    "top1": "top1",
    "auc": "auc",
}
# Name of a figure → what it is; the names that --fail-if knows.
FIGURES = {
    "p50": "median time of a face, ms",
    "p90": "90th percentile, ms",
    "p99": "99th percentile, ms",
    "cpu_p50": "median processor time, ms",
    "fps": "faces a second, from the median",
    "first": "first call, ms",
    "load": "opening the file, ms",
    "import": "importing the engine, ms",
    "cold": "import, load and first call together, ms",
    "peak": "peak memory, MB",
    "size": "file size, MB",
    "top1": "share of held-out photos named rightly",
    "auc": "area under the ROC of held-out pairs",
    "accuracy": "top1 where it was measured, else the share of pairs told rightly that the contract states",
    "ratio": "median over that of --baseline",
    "cpu_ratio": "median processor time over that of --baseline",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file on one engine of one board."""

    device: str
    path: str
    label: str
    """Precision and format; the file's name where two files would have one label."""
    format: str
    engine: str
    engine_version: str | None
    precision: str
    threads: int
    source: Source
    origin: str
    """Where the time comes from, in words."""
    accuracy_kind: str | None
    """``top-1`` or ``pairs``; None: no accuracy is known."""
    figures: Mapping[str, Figure | None]
    """One for each name in ``FIGURES``; None: not obtained."""
    rounds_ms: tuple[float, float] | None
    """Between which medians the run's rounds moved; None: not known."""

    @property
    def file(self) -> str:
        """The file's name without its folder."""
        return Path(self.path).name

    @property
    def careful_ms(self) -> float | None:
        """The time to plan with: the upper end of an estimate, else p90, else the median."""
        p50, p90 = self.figures["p50"], self.figures["p90"]
        if p50 is not None and p50.interval is not None:
            return p50.interval[1]
        return p90.value if p90 is not None else p50.value if p50 is not None else None


def merge(current: Sequence[Document], earlier: Mapping[str, Document] | None = None) -> Document:
    """One document of several: each row names its ``device``, its ``origin`` and the contract's ``verification``.

    Args:
        current: documents of this call.
        earlier: file name → document that ``read_document`` gave.
    """
    parts = [(document, None) for document in current] + [(kept, name) for name, kept in (earlier or {}).items()]
    devices: list[Document] = []
    rows: list[Document] = []
    ratios: list[Any] = []
    for document, name in parts:
        known = document.get("devices", [document["device"]])
        devices += [device for device in known if device not in devices]
        for row in document["rows"]:
            device = row.get("device", document["device"]["name"])
            added = {"device": device, "origin": _origin(row, device, name or document["device"].get("host"))}
            added["verification"] = row["verification"] if "verification" in row else _verification(Path(row["path"]))
            rows.append(row | added)
        ratios += document.get("ratios", [])
    return {"schema": 1, "device": devices[0], "devices": devices, "rows": rows, "ratios": ratios}


def entries(document: Document) -> tuple[Entry, ...]:
    """The rows of a merged document. A file's accuracy holds on every board, so its rows share the measured one."""
    rows = document["rows"]
    scores = {row["path"]: row for row in rows if row.get("top1") is not None}
    labels = {row["path"]: f"{row['precision']} {FORMAT_NAMES[row['format']]}" for row in rows}
    if len(set(labels.values())) < len(labels):
        labels = {path: Path(path).name for path in labels}
    return tuple(_entry(row, scores.get(row["path"], row), labels[row["path"]]) for row in rows)


def read_document(path: Path) -> Document:
    """What ``bench --output`` wrote.

    Raises:
        UsageError: the file cannot be read or holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not JSON; name a file that bench --output wrote") from error
    try:
        entries(merge([], {path.name: document}))
        if document["schema"] != 1:
            raise KeyError("schema")
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UsageError(f"{path}: not a result of bench --output, schema 1 ({error})") from error
    found: Document = document
    return found


def table(rows: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of one board for a terminal; a time that was not measured says so in its cell."""
    columns = ["file", "engine", "ms", "p90", "fps", "cold ms", "peak", "size", "accuracy"]
    cells = [_cells(entry) for entry in rows]
    filled = [number for number in range(len(columns)) if any(line[number] != "–" for line in cells)]
    return [columns[number] for number in filled], [[line[number] for number in filled] for line in cells]


def by_board(rows: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Board → its rows, in the order of the boards."""
    return {name: [entry for entry in rows if entry.device == name] for name in dict.fromkeys(e.device for e in rows)}


def origins(rows: Sequence[Entry]) -> list[tuple[str, str]]:
    """(rows in words, where their times come from), each origin of a board once."""
    grouped: dict[tuple[str, str, str], dict[str, None]] = {}
    for entry in rows:
        grouped.setdefault((entry.device, entry.engine, entry.origin), {})[entry.precision] = None
    return [(f"{device}, {engine}, {', '.join(kinds)}", origin) for (device, engine, origin), kinds in grouped.items()]


def told(figure: Figure | None, digits: int | None = None) -> str:
    """A figure for a cell whose row names the source: three digits, or both ends of an interval of time."""
    if figure is None:
        return "–"
    low, high = figure.interval or (figure.value, figure.value)
    digits = _digits(high) if digits is None else digits
    return f"{low:.{digits}f}" if figure.interval is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _digits(size: float) -> int:
    return 2 if size < 9.995 else 1 if size < 99.95 else 0


def _cells(entry: Entry) -> list[str]:
    p50, accuracy = entry.figures["p50"], entry.figures["accuracy"]
    engine = f"{entry.engine} ×{entry.threads}" if entry.threads > 1 else entry.engine
    source = "" if entry.source == "measured" else f" {entry.source}"
    time = f"{told(p50)}{source}" if p50 else "no basis" if entry.source == "estimated" else f"–{source}"
    share = "–" if accuracy is None else f"{100 * accuracy.value:.2f} {entry.accuracy_kind}"
    others = [told(entry.figures[name]) for name in ("p90", "fps", "cold", "peak", "size")]
    return [entry.label, engine, time, *others, share]


def _entry(row: Document, scores: Document, label: str) -> Entry:
    source: Source = row["source"]
    if source not in get_args(Source):
        raise ValueError(f"source {source!r}")
    interval = tuple(row["interval_ms"]) if row.get("interval_ms") else None
    figures: dict[str, Figure | None] = dict.fromkeys(FIGURES)
    for name, key in _MEASURED_KEYS.items():
        value = (scores if name in ("top1", "auc") else row).get(key)
        if value is not None:
            kind: Source = "measured" if name in ("top1", "auc") else source
            figures[name] = Figure(float(value), kind, interval if name == "p50" else None)
    p50, cold = figures["p50"], [figures[name] for name in ("import", "load", "first")]
    if p50 is not None:
        low, high = p50.interval or (p50.value, p50.value)
        figures["fps"] = Figure(1000 / p50.value, source, (1000 / high, 1000 / low) if p50.interval else None)
    if None not in cold:
        figures["cold"] = Figure(sum(part.value for part in cold if part), source)
    figures["size"] = Figure(row["size_bytes"] / 1e6, "measured")
    figures["accuracy"], kind_of_accuracy = _accuracy(figures["top1"], row["verification"])
    rounds = row.get("rounds_ms")
    return Entry(
        **{key: row[key] for key in ("device", "path", "format", "engine", "precision", "threads", "origin")},
        label=label,
        engine_version=row.get("engine_version"),
        source=source,
        accuracy_kind=kind_of_accuracy,
        figures=figures,
        rounds_ms=(rounds[0], rounds[1]) if rounds else None,
    )


def _accuracy(top1: Figure | None, verification: Mapping[str, Any] | None) -> tuple[Figure | None, str | None]:
    if top1 is not None:
        return top1, "top-1"
    if verification:
        low, high = verification.get("low"), verification.get("high")
        interval = None if low is None or high is None else (low, high)
        return Figure(verification["value"], "measured", interval), "pairs"
    return None, None


def _verification(path: Path) -> dict[str, Any] | None:
    """Share of pairs told rightly, from the file's contract; None where it states none."""
    try:
        found = read_contract(path).accuracy.get("verification")
    except ModelError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("value"), float | int) else None


def _origin(row: Document, device: str, name: str | None) -> str:
    note = row.get("note") or ""
    if row["source"] == "estimated":
        return f"no basis: {note}" if row["p50_ms"] is None else f"estimated, 90 % interval: {note}"
    where = f"{row['source']} here" if name is None else f"{row['source']} on {device} ({name})"
    return f"{where}; {note}" if note else where
