"""Measured rates with their intervals, where photos of one person depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_NORMAL = 1.959964
"""97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class Rate:
    """A share of photos, 0 to 1, with its 95 % interval."""

    value: float
    low: float
    high: float
    photos: int
    people: int

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % ({100 * self.low:.2f} to {100 * self.high:.2f})"


def rate_over_people(events: ArrayLike, photos: ArrayLike) -> Rate | None:
    """The share of photos with an event, people as the unit of chance; None where there is no photo.

    Wilson's interval with the effective number of photos: as many independent ones as would vary as much as people do
    (E. Korn, B. Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data", Survey Methodology 1998, with Wilson's interval for Clopper's). Where no photo has an event, or
    each has, people are counted.

    Args:
        events: (P,) of each person, how many photos had the event.
        photos: (P,) how many there are.
    """
    had, asked = (np.asarray(counts, np.float64) for counts in (events, photos))
    had, asked = had[asked > 0], asked[asked > 0]
    people, total = len(asked), float(asked.sum())
    if not people:
        return None
    share = float(had.sum()) / total
    variance = float(np.square(had - share * asked).sum()) / total**2 * people / max(people - 1, 1)
    effective = min(total, share * (1 - share) / variance) if variance > 0 and people > 1 else float(people)
    # Student's t of as many people, for the normal point (Cornish and Fisher's expansion), and back for that of photos.
    t_people, t_photos = (
        _NORMAL + (_NORMAL**3 + _NORMAL) / (4 * max(count - 1, 1)) for count in (people, max(total, people))
    )
    effective *= (t_photos / t_people) ** 2
    square = _NORMAL**2 / effective
    middle = (share + square / 2) / (1 + square)
    half = _NORMAL / (1 + square) * np.sqrt(share * (1 - share) / effective + square / (4 * effective))
    return Rate(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)), int(total), people)
