"""One model file on one engine of one machine: measured here or over ssh, emulated, or estimated, in one type."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from edgeface_devices.figures import Figure, Source, figure
from edgeface_devices.way import PhotoWay
from edgeface_runtime import Contract, ModelError, UsageError, read_contract
from edgeface_runtime.checks import Count, Positive, Share, Span, build
from edgeface_runtime.metadata import file_format

Embeddings = NDArray[np.float32]
Faces = NDArray[np.uint8]
Json = dict[str, object]

FORMAT_NAMES = {"onnx": "ONNX", "tflite": "TFLite", "ncnn": "ncnn", "ensemble": "ensemble"}
ENGINES = {"onnx": "onnxruntime", "tflite": "litert", "ncnn": "ncnn", "ensemble": "ensemble"}
"""Format of a file → the engine that opens it."""
DISTURBED = 1.25
"""Median duration over median processor time; with several threads it is below 1."""
_DIGITS = 4
_WITH_INTERVAL, _INTERVAL = "p50_ms", "interval_ms"
"""In JSON the interval of this figure is a key of its own."""
_ESTIMATE_KEYS = ("threads", _WITH_INTERVAL, _INTERVAL, "source", "note")
_NOT_IN_JSON = ("photo", "contract", "embeddings", "embeddings_here")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the embeddings of the same faces compare on two machines."""

    faces: int
    identical: bool
    """To the last bit."""
    min_cosine: float
    max_difference: float
    """Of any component of a unit embedding."""
    engine_version_here: str | None = None
    """Of the engine on this machine."""

    def __str__(self) -> str:
        """For a person: identical, or how much not: the least cosine."""
        return "identical" if self.identical else f"cosine {self.min_cosine:.6f}"


def compare_embeddings(here: Embeddings, there: Embeddings, *, engine_version_here: str | None = None) -> Agreement:
    """Compares (N, D) unit embeddings of the same faces."""
    return Agreement(
        faces=len(here),
        identical=here.tobytes() == there.tobytes(),
        min_cosine=float((here.astype(np.float64) * there).sum(axis=1).min()),
        max_difference=float(np.abs(here.astype(np.float64) - there).max()),
        engine_version_here=engine_version_here,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """A row of ``edgeface bench``: its fields are the keys of the JSON. None: not obtained."""

    path: Path
    format: str
    engine: str
    engine_version: str | None = None
    precision: str
    recipe: str | None = None
    threads: int
    import_ms: Figure | None = None
    load_ms: Figure | None = None
    first_ms: Figure | None = None
    p50_ms: Figure | None = None
    p90_ms: Figure | None = None
    p99_ms: Figure | None = None
    cpu_p50_ms: Figure | None = None
    """Median processor time of a call, all threads: what remains when other programs interrupt."""
    rounds_ms: tuple[float, float] | None = None
    """10th and 90th percentile of the medians of the rounds: how far the machine itself wanders."""
    cpu_rounds_ms: tuple[float, float] | None = None
    """The same of the processor time."""
    calls: int | None = None
    peak_mb: float | None = None
    size_bytes: int
    top1: float | None = None
    auc: float | None = None
    source: Source
    """Of the durations."""
    note: str | None = None
    """Under which limits it ran, or what an estimate rests on."""
    instructions: Mapping[str, int] | None = None
    """Of one call on an emulated core, by class."""
    estimate: Measurement | None = None
    """For the board itself, of a file that ran on its emulated core."""
    agreement: Agreement | None = None
    """With this machine's embeddings, of a file that ran elsewhere; ``top1`` and ``auc`` are then those there."""
    top1_here: float | None = None
    auc_here: float | None = None
    device: str | None = None
    """Name of the machine, once results are merged."""
    origin: str | None = None
    """Where the time comes from, in words, once results are merged."""
    verification: Mapping[str, float] | None = None
    """1:1 accuracy from the contract with the ends of its interval, once results are merged."""
    photo: tuple[PhotoWay, ...] = ()
    """From photos to names with this file, where that was asked for."""
    contract: Contract | None = field(default=None, repr=False)
    embeddings: Embeddings | None = field(default=None, repr=False)
    """(N, D) of the faces that were given, where the file ran."""
    embeddings_here: Embeddings | None = field(default=None, repr=False)
    """(N, D) of the same faces on this machine, of a file that ran elsewhere."""

    @property
    def label(self) -> str:
        """Precision and format for a person: ``int8 TFLite``."""
        return f"{self.precision} {FORMAT_NAMES[self.format]}"

    @property
    def file(self) -> str:
        """The file's name without its folder."""
        return self.path.name

    @property
    def median_ms(self) -> float:
        """The number of ``p50_ms``.

        Raises:
            ValueError: there is none.
        """
        if self.p50_ms is None:
            raise ValueError(f"{self.path}: no time was obtained")
        return self.p50_ms.value

    @property
    def runs(self) -> bool:
        """Whether this very file ran, or its engine opens its format."""
        return self.source != "estimated" or self.engine == ENGINES[self.format]

    @property
    def fps(self) -> Figure | None:
        """Faces a second, from the median."""
        if self.p50_ms is None:
            return None
        low, high = self.p50_ms.interval or (0.0, 0.0)
        return Figure(1000 / self.p50_ms.value, self.source, (1000 / high, 1000 / low) if high else None)

    @property
    def cold_ms(self) -> Figure | None:
        """Import, load and first call together."""
        parts = [part.value for part in (self.import_ms, self.load_ms, self.first_ms) if part is not None]
        return Figure(sum(parts), self.source) if len(parts) == 3 else None

    @property
    def peak(self) -> Figure | None:
        """``peak_mb`` with its source."""
        return None if self.peak_mb is None else Figure(self.peak_mb, self.source)

    @property
    def size_mb(self) -> Figure:
        """Size of the file in 10⁶ bytes."""
        return Figure(self.size_bytes / 1e6, "measured")

    @property
    def accuracy(self) -> Figure | None:
        """``top1`` where it was measured, else the 1:1 accuracy that the contract states; a share of 1."""
        if self.top1 is not None:
            return Figure(self.top1, "measured")
        if not self.verification:
            return None
        low, high = self.verification.get("low"), self.verification.get("high")
        return Figure(self.verification["value"], "measured", None if low is None or high is None else (low, high))

    @property
    def accuracy_kind(self) -> str | None:
        """``top-1`` or ``pairs``; None: no accuracy is known."""
        return "top-1" if self.top1 is not None else "pairs" if self.verification else None

    @property
    def careful_ms(self) -> float | None:
        """The time to plan with: the upper end of an estimate, else p90, else the median."""
        if self.p50_ms is not None and self.p50_ms.interval is not None:
            return self.p50_ms.interval[1]
        careful = self.p90_ms or self.p50_ms
        return None if careful is None else careful.value

    @property
    def is_disturbed(self) -> bool:
        """Other programs held the processor for so long that calls took much longer than they computed."""
        p50, cpu = self.p50_ms, self.cpu_p50_ms
        return p50 is not None and cpu is not None and p50.value > DISTURBED * cpu.value

    def to_json(self) -> Json:
        """The row as in ``bench --json``: every key, null where nothing was obtained."""
        found: Json = {}
        for name in _KEYS:
            value = getattr(self, name)
            if isinstance(value, Measurement):
                whole = value.to_json()
                value = {key: whole[key] for key in _ESTIMATE_KEYS}
            found[name] = _plain(value)
            if name == _WITH_INTERVAL:
                found[_INTERVAL] = _plain(value.interval) if value else None
        return found | ({"photo": [way.to_json() for way in self.photo]} if self.photo else {})

    @classmethod
    def from_json(cls, entries: Mapping[str, object], where: str = "row") -> Measurement:
        """A row that ``to_json`` gave; other keys are passed over.

        Raises:
            UsageError: it is none; names the key.
        """
        kinds = _kinds()
        for name in _NEEDED:
            if entries.get(name) is None:
                raise UsageError(f"{where} has no {name!r}")
        given = {name: value for name in _KEYS if (value := entries.get(name)) is not None}
        found: dict[str, Any] = {
            name: build(kinds[name], value, f"{where}.{name}") for name, value in given.items() if name != "estimate"
        }
        source, ends = found["source"], entries.get(_INTERVAL)
        interval = None if not ends else build(_Interval, ends, f"{where}.{_INTERVAL}")
        for name in _FIGURES & found.keys():
            found[name] = figure(found[name], source, interval if name == _WITH_INTERVAL else None, f"{where}.{name}")
        if "estimate" in given:
            inner = build(dict, given["estimate"], f"{where}.estimate")
            found["estimate"] = cls.from_json({name: entries[name] for name in _NEEDED} | inner, f"{where}.estimate")
        if "verification" in found and "value" not in found["verification"]:
            raise UsageError(f"{where}.verification has no 'value'")
        ways = build(list[dict[str, object]], entries.get("photo") or [], f"{where}.photo")
        photo = tuple(PhotoWay.from_json(way, f"{where}.photo[{place}]") for place, way in enumerate(ways))
        return cls(**found | {"photo": photo})


class _Instructions(TypedDict):
    total: Count
    simd: Count
    memory: Count
    branch: Count
    dot: Count


_Interval: Any = tuple[Positive, Positive]
_TYPES = {entry.name: str(entry.type).removesuffix(" | None") for entry in fields(Measurement)}
_KEYS = tuple(name for name in _TYPES if name not in _NOT_IN_JSON)
_FIGURES = {name for name, kind in _TYPES.items() if kind == "Figure"}
_NEEDED = tuple(entry.name for entry in fields(Measurement) if entry.default is MISSING)


@functools.cache
def _kinds() -> dict[str, Any]:
    """Key → what it is in JSON."""
    once = Annotated[float, Span(0)]
    figures = {name: once if name in ("import_ms", "load_ms", "first_ms") else Positive for name in _FIGURES}
    size = Annotated[int, Span(1)]
    return (
        typing.get_type_hints(Measurement)
        | figures
        | dict.fromkeys(("rounds_ms", "cpu_rounds_ms"), tuple[once, once])
        | dict.fromkeys(("top1", "auc", "top1_here", "auc_here"), Share)
        | {"format": Literal["onnx", "tflite", "ncnn", "ensemble"], "threads": size, "size_bytes": size}
        | {"peak_mb": Positive}
        | {"calls": Count, "instructions": _Instructions}
    )


def of_file(path: Path, *, threads: int, source: Source) -> Measurement:
    """A row with what a file says of itself, on the engine that opens its format; nothing is measured yet.

    Args:
        path: of the file.
        threads: of one call.
        source: of the durations that will be filled in.

    Raises:
        ModelError: the file is no model; names it.
    """
    contract, kind = read_contract(path), file_format(path.read_bytes())
    return Measurement(
        path=path,
        format=kind,
        engine=ENGINES[kind],
        precision=contract.precision,
        recipe=contract.recipe,
        threads=threads,
        size_bytes=path.stat().st_size,
        source=source,
        contract=contract,
    )


def names(rows: Sequence[Measurement]) -> dict[Path, str]:
    """Path → the shortest name that tells its file from the others: the label, the file's name, or the whole path."""
    by_path = {row.path: row for row in rows}
    for name in ("label", "file"):
        found = {path: str(getattr(row, name)) for path, row in by_path.items()}
        if len(set(found.values())) == len(found):
            return found
    return {path: str(path) for path in by_path}


def by_board(rows: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Board → its rows, in the order of the boards."""
    boards: dict[str, list[Measurement]] = {}
    for row in rows:
        boards.setdefault(row.device or "", []).append(row)
    return boards


def stated_verification(path: Path) -> Mapping[str, float] | None:
    """1:1 accuracy from a file's contract; None where there is no such file, or it states none."""
    try:
        found = read_contract(path).accuracy.get("verification")
    except ModelError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("value"), float | int) else None


def _plain(value: object) -> object:
    """As JSON takes it; durations and their ends are rounded."""
    if isinstance(value, Figure):
        return round(value.value, _DIGITS)
    if isinstance(value, tuple):
        return [round(end, _DIGITS) for end in value]
    if isinstance(value, Agreement):
        return asdict(value)
    return str(value) if isinstance(value, Path) else dict(value) if isinstance(value, Mapping) else value
