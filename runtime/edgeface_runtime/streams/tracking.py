"""Follows faces from frame to frame by where they are.

E. Bochinski et al., "High-speed tracking-by-detection without using image information", AVSS 2017: a detection
belongs to the track whose box it overlaps most. Where nothing follows it between detections, a box moves on as it last
did.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.detection.boxes import overlap
from edgeface_runtime.faces import Face

_NEWEST = np.float32(0.5)  # share of the newest step in the speed


@dataclass(eq=False)
class Track:
    """One face followed."""

    number: int
    """1, 2, 3 … in the order of the first detection."""
    face: Face
    """As it was last detected, or followed from one frame to the next."""
    seconds: float
    """When that was."""
    hits: int = 1
    """How often it was detected."""
    speed: NDArray[np.float32] | None = None
    """(4,) pixels a second of x0, y0, x1, y1; None before the second detection."""
    step: float = 0.0
    """Seconds between its last two detections."""

    def box_at(self, seconds: float) -> NDArray[np.float32]:
        """(4,) x0, y0, x1, y1 in pixels: where the face should be at that time.

        A face that was not detected when it was due stays where it should have been then.
        """
        if self.speed is None:
            return self.face.box
        return np.asarray(self.face.box + self.speed * np.float32(min(seconds - self.seconds, self.step)), np.float32)

    def moved_to(self, face: Face, seconds: float, *, is_detected: bool = True) -> None:
        """Takes where the same face is now: detected anew, or followed from the frame before."""
        self.step = max(seconds - self.seconds, 1e-3)
        speed = np.asarray((face.box - self.face.box) / np.float32(self.step), np.float32)
        self.speed = speed if self.speed is None else (1 - _NEWEST) * self.speed + _NEWEST * speed
        self.face, self.seconds, self.hits = face, seconds, self.hits + is_detected


def associate(tracks: list[Track], faces: list[Face], seconds: float, least: float) -> dict[int, int]:
    """Which face continues which track: index of the face → index of the track; the largest overlap chooses first.

    Args:
        tracks: those that are followed.
        faces: what was detected now.
        seconds: now.
        least: intersection over union below which two boxes are not of one face, 0 to 1.
    """
    if not tracks or not faces:
        return {}
    shared = overlap(np.stack([face.box for face in faces]), np.stack([track.box_at(seconds) for track in tracks]))
    pairs: dict[int, int] = {}
    for flat in np.argsort(-shared, axis=None, kind="stable"):
        face, track = divmod(int(flat), len(tracks))
        if shared[face, track] < least:
            break
        if face not in pairs and track not in pairs.values():
            pairs[face] = track
    return pairs
