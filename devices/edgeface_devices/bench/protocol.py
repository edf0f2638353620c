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
