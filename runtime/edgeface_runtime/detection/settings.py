"""What a detector is set to that proposes faces with one net and judges them with another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeface_runtime.errors import UsageError

SMALLEST = 12
"""Pixels: no detector finds a smaller face."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProposalSettings:
    """Settings of the detectors that O-Net or its like has the last word in."""

    min_face: float = 40.0
    """Smallest face to look for, in pixels of the photo; the time goes with the square of its inverse."""
    proposal: float = 0.2
    """Confidence from which a proposal is looked at, 0 to 1."""
    threshold: float = 0.7
    """Least confidence of the judging net that it is a face, 0 to 1."""
    sure: float = 0.97
    """Where no face of a photo is as confident, ``find_faces`` also looks at its quarter turns; 0: never."""

    def __post_init__(self) -> None:
        require_min_face(self.min_face)
        require_shares(proposal=self.proposal, threshold=self.threshold)


def require_min_face(value: float) -> None:
    """Raises UsageError unless a face of so many pixels can be looked for."""
    if not SMALLEST <= value < math.inf:
        raise UsageError(f"min_face is {value}; no face below {SMALLEST} pixels is found")


def require_shares(**values: float) -> None:
    """Raises UsageError unless each lies between 0 and 1."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise UsageError(f"{name} is {value}; it must lie between 0 and 1")
