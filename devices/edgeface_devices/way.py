"""The whole way from a photo's file to names, in parts and as one: what a row of the bench says beside its own call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeface_devices.figures import Figure, Source, figure
from edgeface_runtime.checks import Count, Positive, build

PARTS = ("decode", "find", "align", "embed", "search")
WHOLE, FOLLOW, NETS = "whole", "follow", "nets"
"""``identify`` in one call; following the faces into the next frame of a stream; of an estimate the nets of finding and
embedding alone."""
NAMES = (*PARTS, WHOLE, FOLLOW, NETS)
INTERVALS = (1, 3, 6)
"""Frames from one look at a stream to the next for which the frames a second are said; 6 is what `run` does."""
_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How faces are looked for."""

    detector: str = "yunet"
    """As ``load_detector`` takes it."""
    min_face: float | None = None
    """Smallest face that it looks for, in pixels of the photo; None: its own."""

    def __str__(self) -> str:
        """For a person."""
        return self.detector if self.min_face is None else f"{self.detector} from {self.min_face:g} px"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the way, or all of it. None: not obtained."""

    p50_ms: Figure | None = None
    p90_ms: Figure | None = None
    cpu_p50_ms: Figure | None = None
    instructions: int | None = None
    """On an emulated core."""
    reason: str | None = None
    """Why there is no time."""

    @property
    def careful_ms(self) -> float | None:
        """The time to plan with: the upper end of an estimate, else p90, else the median."""
        if self.p50_ms is not None and self.p50_ms.interval is not None:
            return self.p50_ms.interval[1]
        careful = self.p90_ms or self.p50_ms
        return None if careful is None else careful.value

    def to_json(self) -> dict[str, object]:
        """Every key, null where nothing was obtained."""
        times = {name: getattr(self, name) for name in ("p50_ms", "p90_ms", "cpu_p50_ms")}
        found: dict[str, object] = {name: value and round(value.value, _DIGITS) for name, value in times.items()}
        interval = self.p50_ms.interval if self.p50_ms else None
        found["interval_ms"] = interval and [round(end, _DIGITS) for end in interval]
        return found | {"instructions": self.instructions, "reason": self.reason}

    @classmethod
    def from_json(cls, entries: object, source: Source, where: str = "part") -> Part:
        """What ``to_json`` gave.

        Raises:
            UsageError: it is something else; names the key.
        """
        found = build(_PartEntries, entries, where)
        interval = found.interval_ms
        times = {name: getattr(found, name) for name in ("p50_ms", "p90_ms", "cpu_p50_ms")}
        figures = {
            name: None if ms is None else figure(ms, source, interval if name == "p50_ms" else None, f"{where}.{name}")
            for name, ms in times.items()
        }
        return cls(**figures, instructions=found.instructions, reason=found.reason)


@dataclass(frozen=True, kw_only=True)
class _PartEntries:
    p50_ms: Positive | None = None
    p90_ms: Positive | None = None
    cpu_p50_ms: Positive | None = None
    interval_ms: tuple[Positive, Positive] | None = None
    instructions: Count | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class PhotoWay:
    """From one photo's file to the names of its faces, with one detector."""

    scene: str
    """A key of ``bench.scenes.SCENES``."""
    faces: int
    """That were found."""
    setting: Setting
    gallery: int
    """Photos that were searched."""
    source: Source
    parts: Mapping[str, Part] = field(default_factory=dict)
    """Of ``NAMES``; one that was not asked for is absent."""
    peak_mb: float | None = None
    """The most memory of the process: Python, numpy, the engine, all nets and the photo."""
    parts_over_whole: float | None = None
    """The parts together over the whole in one call: of processor times, median of the calls, or of instructions."""

    def part(self, name: str) -> Part:
        """One of ``NAMES``; empty where it is absent."""
        return self.parts.get(name, Part())

    def frame_ms(self, interval: int, *, careful: bool = False) -> float | None:
        """Milliseconds a frame of a stream where every ``interval``-th is looked at and faces are followed between.

        A frame comes decoded. None where the times are not known.

        Args:
            interval: frames from look to look, at least 1.
            careful: by the times to plan with instead of the medians.
        """

        def of(name: str) -> float | None:
            part = self.part(name)
            median = None if part.p50_ms is None else part.p50_ms.value
            return part.careful_ms if careful else median

        looked = [of(name) for name in PARTS if name != "decode"]
        if any(ms is None for ms in looked):
            return None
        look = sum(ms for ms in looked if ms is not None)
        if interval == 1:
            return look
        # A detector that follows nothing takes no time between looks.
        follow = of(FOLLOW) if self.faces and FOLLOW in self.parts else 0.0
        return None if follow is None else (look + (interval - 1) * follow) / interval

    def to_json(self) -> dict[str, object]:
        """An element of ``photo`` in a row of ``bench --json``."""
        plain = {name: getattr(self, name) for name in ("scene", "faces", "gallery", "source")}
        frames = {str(interval): self.frame_ms(interval) for interval in INTERVALS}
        rates = {interval: ms and round(1000 / ms, 2) for interval, ms in frames.items()}
        return (
            plain
            | vars(self.setting)
            | {
                "parts": {name: part.to_json() for name, part in self.parts.items()},
                "frames_per_second": rates if self.source == "measured" else None,
                "peak_mb": self.peak_mb,
                "parts_over_whole": self.parts_over_whole,
            }
        )

    @classmethod
    def from_json(cls, entries: object, where: str = "photo") -> PhotoWay:
        """What ``to_json`` gave; other keys are passed over.

        Raises:
            UsageError: it is something else; names the key.
        """
        found = build(_WayEntries, entries, where)
        known = {name: part for name, part in found.parts.items() if name in NAMES}
        return cls(
            scene=found.scene,
            faces=found.faces,
            setting=Setting(detector=found.detector, min_face=found.min_face),
            gallery=found.gallery,
            source=found.source,
            parts={name: Part.from_json(part, found.source, f"{where}.parts.{name}") for name, part in known.items()},
            peak_mb=found.peak_mb,
            parts_over_whole=found.parts_over_whole,
        )


@dataclass(frozen=True, kw_only=True)
class _WayEntries:
    scene: str
    faces: Count
    detector: str
    min_face: Positive | None = None
    gallery: Count
    source: Source
    parts: dict[str, object]
    peak_mb: Positive | None = None
    parts_over_whole: Positive | None = None
