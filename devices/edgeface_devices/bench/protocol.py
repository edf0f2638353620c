"""What a worker process and its parent tell each other, beside durations and embeddings.

Imports the standard library alone: what else a worker imports is timed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStart:
    """The answer to ``load``; durations in milliseconds."""

    engine: str
    engine_version: str
    import_ms: float
    load_ms: float
    first_ms: float


@dataclass(frozen=True)
class PhotoTimes:
    """The answer to ``photo``: each part of the way from a photo to names, one duration a call, in milliseconds."""

    faces: int
    gallery: int
    wall_ms: dict[str, list[float]]
    cpu_ms: dict[str, list[float]]
    peak_mb: float


@dataclass(frozen=True)
class PhotoMarks:
    """The answer to ``photo_marks``: the parts that ran between marks of the instruction counter."""

    faces: int
    gallery: int
    parts: list[str]
