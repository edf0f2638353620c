"""Measurements of one machine, or of several side by side: the document of ``bench --json`` and ``--output``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgeface_devices.boards.health import Conditions, Repetition
from edgeface_devices.measurement import Json, Measurement, Source, stated_verification
from edgeface_runtime import UsageError

SCHEMA = 1
_DIGITS = 4


@dataclass(frozen=True)
class Device:
    """The machine that the numbers belong to. None: not known, or of no meaning there."""

    name: str
    source: Source
    cores: int
    system: str
    profile: str | None = None
    """Name of the board's profile."""
    clock_mhz: int | None = None
    host: str | None = None
    """As ssh reached it."""
    model: str | None = None
    """As the machine calls itself."""

    def to_json(self) -> Json:
        """An element of ``devices``, without what is not known."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Device:
        """What ``to_json`` gave; other keys are passed over.

        Raises:
            KeyError: one that is needed is absent.
        """
        known: dict[str, Any] = {}
        for entry in fields(cls):
            known[entry.name] = entries[entry.name] if entry.default is MISSING else entries.get(entry.name)
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One file's medians and size divided by another's of the same model."""

    a: Path
    b: Path
    p50: float
    cpu_p50: float
    """Of the processor time, which other programs' load touches less."""
    size: float

    def to_json(self) -> Json:
        """An element of ``ratios``."""
        return {key: str(x) if isinstance(x, Path) else round(x, _DIGITS) for key, x in vars(self).items()}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Ratio:
        """What ``to_json`` gave.

        Raises:
            KeyError: a number is absent.
        """
        numbers = {key: float(entries[key]) for key in ("p50", "cpu_p50", "size")}
        return cls(a=Path(entries["a"]), b=Path(entries["b"]), **numbers)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Rows in the order in which files, then machines, were given."""

    device: Device
    """Of an unmerged run; the first of a merged one."""
    rows: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...] = ()
    devices: tuple[Device, ...] = ()
    """Once results are merged: all machines."""
    state: Conditions | None = None
    """Clock, heat and power of a board over ssh."""
    sustained: tuple[Repetition, ...] = field(default=())
    """With ``--sustained``: every repetition of the measurement."""

    @property
    def is_disturbed(self) -> bool:
        """Whether other programs held the processor of any row."""
        return any(row.is_disturbed for row in self.rows)

    def to_json(self) -> Json:
        """The document of ``bench --json``, schema 1."""
        extra: Json = {
            "devices": [device.to_json() for device in self.devices],
            "state": self.state and self.state.to_json(),
            "sustained": [repetition.to_json() for repetition in self.sustained],
        }
        return {
            "schema": SCHEMA,
            "device": self.device.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "ratios": [ratio.to_json() for ratio in self.ratios],
        } | {key: value for key, value in extra.items() if value}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Results:
        """What ``to_json`` gave; other keys are passed over.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is something else.
        """
        if document["schema"] != SCHEMA:
            raise KeyError("schema")
        return cls(
            device=Device.from_json(document["device"]),
            rows=tuple(map(Measurement.from_json, document["rows"])),
            ratios=tuple(map(Ratio.from_json, document.get("ratios", ()))),
            devices=tuple(map(Device.from_json, document.get("devices", ()))),
            state=Conditions.from_json(document["state"]) if document.get("state") else None,
            sustained=tuple(map(Repetition.from_json, document.get("sustained", ()))),
        )


def merge(current: Sequence[Results], earlier: Mapping[str, Results] | None = None) -> Results:
    """Several results as one: each row names its ``device``, its ``origin`` and the contract's ``verification``.

    Args:
        current: of this call.
        earlier: file name → what ``read_results`` gave.
    """
    parts = [(run, run.device.host) for run in current] + [(run, name) for name, run in (earlier or {}).items()]
    return Results(
        device=parts[0][0].device,
        devices=tuple(dict.fromkeys(device for run, _ in parts for device in run.devices or (run.device,))),
        rows=tuple(_named(row, run.device.name, place) for run, place in parts for row in run.rows),
        ratios=tuple(ratio for run, _ in parts for ratio in run.ratios),
        state=next((run.state for run in current if run.state), None),
        sustained=next((run.sustained for run in current if run.sustained), ()),
    )


def share_accuracy(rows: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """The rows with the measured accuracy of their file, which holds on every board."""
    scored = {row.path: row for row in rows if row.top1 is not None}
    return tuple(
        replace(row, top1=scored[row.path].top1, auc=scored[row.path].auc)
        if row.top1 is None and row.path in scored
        else row
        for row in rows
    )


def ratios(rows: Iterable[Measurement]) -> tuple[Ratio, ...]:
    """int8 over fp32 within a format, then TFLite and ncnn over ONNX within a precision, of one trained model."""
    return tuple(_ratios([row for row in rows if row.source == "measured"]))


def read_results(path: Path) -> Results:
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
        return Results.from_json(document)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UsageError(f"{path}: not a result of bench --output, schema {SCHEMA} ({error})") from error


def _named(row: Measurement, device: str, place: str | None) -> Measurement:
    """The row with its machine; ``place``: the host or file that it comes from."""
    merged = row.device is not None
    device = row.device or device
    verification = row.verification or (None if merged else stated_verification(row.path))
    return replace(row, device=device, origin=_origin(row, device, place), verification=verification)


def _origin(row: Measurement, device: str, place: str | None) -> str:
    if row.source == "estimated":
        return f"no basis: {row.note}" if row.p50_ms is None else f"estimated, 90 % interval: {row.note}"
    where = f"{row.source} here" if place is None else f"{row.source} on {device} ({place})"
    return f"{where}; {row.note}" if row.note else where


def _ratios(rows: Sequence[Measurement]) -> Iterator[Ratio]:
    pairs = [(a, b) for a in rows for b in rows if _model(a) == _model(b) and a is not b]
    within = [(a, b) for a, b in pairs if a.format == b.format and a.precision != "fp32" == b.precision]
    across = [(a, b) for a, b in pairs if b.format == "onnx" != a.format and a.precision == b.precision]
    for a, b in within + across:
        assert a.cpu_p50_ms is not None
        assert b.cpu_p50_ms is not None
        yield Ratio(
            a=a.path,
            b=b.path,
            p50=a.median_ms / b.median_ms,
            cpu_p50=a.cpu_p50_ms.over(b.cpu_p50_ms),
            size=a.size_bytes / b.size_bytes,
        )


def _model(row: Measurement) -> tuple[str | None, str] | None:
    return None if row.contract is None else (row.contract.parent_sha256, row.contract.backbone)
