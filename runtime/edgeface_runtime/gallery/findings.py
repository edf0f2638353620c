"""What is wrong in a gallery, what could be better, and what to do about it, a sentence each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.gallery.likeness import CHUNK, NEARER, SAME, UNLIKE, Enrolled, Scores, likeness_of
from edgeface_runtime.gallery.linkage import enough

Kind = Literal[
    "wrong_name", "unlike", "two_people", "two_names", "hard_face", "lookalike", "seldom_named", "few_photos"
]
FAULTS: frozenset[Kind] = frozenset({"wrong_name", "unlike", "two_people", "two_names"})
"""Kinds of findings that are mistakes in the gallery; the others are advice."""
RATES = np.outer(10.0 ** -np.arange(1, 7), [5, 2, 1]).ravel()
"""FPIRs among which ``apart`` finds one: 0.5, 0.2, 0.1 …"""


@dataclass(frozen=True)
class GalleryFinding:
    """Something about a person's photos, and what to do."""

    kind: Kind
    name: str
    other: str | None
    """The person whom they resemble."""
    photos: tuple[int, ...]
    """Their ids."""
    score: float | None
    """Cosine, −1 to 1; None where none is meant."""
    limit: float | None
    """What ``score`` was held against."""
    text: str
    remedy: str

    @property
    def is_fault(self) -> bool:
        """False: advice."""
        return self.kind in FAULTS


@dataclass(frozen=True)
class PersonCheck:
    """One person of a gallery."""

    name: str
    photos: int
    named: int | None
    """Photos that get this name when they are left out and searched for; None where there is one photo only."""
    nearest: str | None
    """The other person with the photo most like one of this person's; None where there is nobody else."""
    nearest_score: float | None
    nearest_fpir: float | None
    """The largest FPIR whose threshold lies above ``nearest_score``; None where every threshold lies below."""
    missing: tuple[str, ...]
    """What none of the photos has."""


def same_people(
    enrolled: Enrolled, scores: Scores, likeness: float, surely: float
) -> dict[tuple[int, int], tuple[float, float]]:
    """Pairs of names that show one person, each with a score and what it was held against.

    Either the directions of the means are as near as those of one person's photos, or most of a person's photos are
    nearer to the other's.
    """
    unit_PD = enrolled.means / np.maximum(np.linalg.norm(enrolled.means, axis=1, keepdims=True), 1e-6)
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for start in range(0, len(unit_PD), CHUNK):
        cosines = unit_PD[start : start + CHUNK] @ unit_PD.T
        for row, other in np.argwhere(cosines >= surely).tolist():
            if start + row < other and likeness_of(enrolled, start + row, other) >= SAME:
                found[start + row, other] = (float(cosines[row, other]), surely)
    nearer = (scores.other_mean >= likeness) & (scores.other_mean > scores.own_mean) & (enrolled.groups == 0)
    for person in np.unique(enrolled.who[nearer]).tolist():
        rows = np.array(enrolled.of(person))
        main = rows[enrolled.groups[rows] == 0]
        others, counts = np.unique(scores.other_person[main[nearer[main]]], return_counts=True)
        if len(main) > 1 and 2 * counts.max() > len(main):
            other = int(others[counts.argmax()])
            pair = min(person, other), max(person, other)
            found.setdefault(pair, (float(scores.other_mean[main].mean()), likeness))
    return found


def misplaced(
    enrolled: Enrolled,
    scores: Scores,
    likeness: float,
    least: float,
    pairs: set[tuple[int, int]],
    hard: NDArray[np.bool_],
) -> Iterator[GalleryFinding]:
    """Photos that do not show the person whose name they have, or hide the face so that nothing tells.

    Args:
        enrolled: the gallery.
        scores: of its photos.
        likeness: the mean score from which photos show the person with whose photos they score it.
        least: the score from which two photos are taken for those of one person.
        pairs: names that show one person.
        hard: (N,) photos whose face is hard to recognize.
    """
    for person, name in enumerate(enrolled.names):
        rows = np.array(enrolled.of(person))
        nearer = (scores.other_mean[rows] >= likeness) & (NEARER * scores.other_mean[rows] > scores.own_mean[rows])
        lone = [rows[i : i + 1] for i in np.flatnonzero(nearer & (enrolled.groups[rows] == 0))]
        groups = [rows[enrolled.groups[rows] == group] for group in range(1, enrolled.groups[rows].max() + 1)]
        for part in (*groups, *lone):
            means = enrolled.embeddings[part].mean(axis=0) @ enrolled.means.T
            means[person] = -np.inf
            nearest, mean = int(means.argmax()), float(means.max())
            if (min(person, nearest), max(person, nearest)) in pairs:
                continue
            ids, own, main = enrolled.ids(part), float(scores.own_mean[part].mean()), rows[enrolled.groups[rows] == 0]
            what = f"{_photos(enrolled, part)} of {name}"
            both = enrolled.embeddings[np.append(part, main)]
            unlike = enough(both @ both.T, np.arange(len(part)), np.arange(len(part), len(both)), UNLIKE * least)
            at_hand = f"mean score {own:.2f}, at least {unlike:.2f}"
            it, shows = ("it", "shows") if len(ids) == 1 else ("them", "show")
            if len(enrolled.names) > 1 and mean >= likeness:
                other = enrolled.names[nearest]
                text = f"{what}: probably {shows} {other} (mean score {mean:.2f}; with {name} {own:.2f})"
                remedy = f"remove {it} and enroll {it} as {other}"
                yield GalleryFinding("wrong_name", name, other, ids, mean, likeness, text, remedy)
            elif hard[part].all() and len(part) < len(main) and mean < least:
                text = f"{what}: not like the other photos of {name} ({at_hand}), and hard to recognize"
                remedy = (
                    f"replace {it} if the face is covered, painted or turned away, remove {it} if it is somebody else's"
                )
                yield GalleryFinding("hard_face", name, None, ids, own, unlike, text, remedy)
            elif len(part) == len(main):
                text = f"{_photos(enrolled, main)} of {name} and {_photos(enrolled, part)}: not alike ({at_hand})"
                remedy = f"look at them, and remove those that do not show {name}"
                ids = enrolled.ids(np.stack([main, part], axis=1).ravel())
                yield GalleryFinding("two_people", name, None, ids, own, unlike, text, remedy)
            elif len(part) == 1:
                text = f"{what}: not like the other photos of {name} ({at_hand})"
                remedy = "remove it if it shows somebody else; replace it if the face is hidden, turned or cut"
                yield GalleryFinding("unlike", name, None, ids, own, unlike, text, remedy)
            else:
                text = f"{what}: alike, but not like the other photos of {name} ({at_hand})"
                remedy = "if they show somebody else, remove them and enroll them under that name"
                yield GalleryFinding("two_people", name, None, ids, own, unlike, text, remedy)


def two_names(enrolled: Enrolled, pairs: Mapping[tuple[int, int], tuple[float, float]]) -> Iterator[GalleryFinding]:
    """Pairs of names that show one person."""
    for (a, b), (score, limit) in sorted(pairs.items()):
        one, two = enrolled.names[a], enrolled.names[b]
        shown = " and ".join(f"{_photos(enrolled, enrolled.of(row), 2)} of {enrolled.names[row]}" for row in (a, b))
        text = f"{one} and {two}: probably one person under two names (score {score:.2f}, from {limit:.2f}): {shown}"
        remedy = "if so, remove one and enroll its photos as the other; if they are twins, do not rely on either name"
        ids = enrolled.ids([*enrolled.of(a), *enrolled.of(b)])
        yield GalleryFinding("two_names", one, two, ids, score, limit, text, remedy)


def advice(
    enrolled: Enrolled,
    scores: Scores,
    threshold: float,
    values: NDArray[np.float64],
    people: Sequence[PersonCheck],
    clean: NDArray[np.bool_],
) -> Iterator[GalleryFinding]:
    """What is no mistake, but will cause some, of people without mistakes: with them gone, all may be well.

    Args:
        enrolled: the gallery.
        scores: of its photos.
        threshold: the score that is enough for a name.
        values: the thresholds for ``RATES``.
        people: what is known of each person.
        clean: (N,) False for the photos of people whom faults name.
    """
    nearest: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in np.flatnonzero(clean & (scores.other >= threshold)).tolist():
        if clean[scores.other_photo[row]]:
            a, b = sorted((int(enrolled.who[row]), int(enrolled.who[scores.other_photo[row]])))
            nearest[a, b].append(row)
    for (a, b), rows in sorted(nearest.items()):
        row = max(rows, key=lambda row: float(scores.other[row]))
        score, one, two = float(scores.other[row]), enrolled.names[a], enrolled.names[b]
        rate = apart(values, score)
        pair = f"{_photos(enrolled, [row])} and {_photos(enrolled, [int(scores.other_photo[row])])}"
        text = f"{one} and {two} are alike: {pair} score {score:.2f}, and {threshold:.2f} is enough for a name"
        remedy = "no measured rate keeps them apart: do not rely on a name of the two"
        if rate is not None:
            remedy = f"ask for --far {rate:g}, which keeps them apart, or look at each name of the two"
        ids = enrolled.ids([row, int(scores.other_photo[row])])
        yield GalleryFinding("lookalike", one, two, ids, score, threshold, text, remedy)
    for number, person in enumerate(people):
        ids = enrolled.ids(enrolled.of(number))
        if not clean[enrolled.starts[number]]:
            continue
        if person.named is not None and 2 * person.named < person.photos:
            text = f"{person.name}: {person.named} of {person.photos} photos would be named if they were not enrolled"
            remedy = "enroll more photos, taken as they will be asked about, or allow a larger --far"
            yield GalleryFinding("seldom_named", person.name, None, ids, None, None, text, remedy)
        elif person.named is None:
            text = f"{person.name}: one photo, so nothing says whether others of {person.name} will be named"
            yield GalleryFinding(
                "few_photos", person.name, None, ids, None, None, text, "enroll two more, of other days"
            )


def _photos(enrolled: Enrolled, rows: Sequence[int] | NDArray[np.intp], most: int = 4) -> str:
    shown = [enrolled.photos[row] for row in rows]
    named = [f"{photo.id} ({photo.source})" if photo.source else str(photo.id) for photo in shown[:most]]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return f"photo{'s' if len(shown) > 1 else ''} {', '.join(named)}{more}"


def apart(values: NDArray[np.float64], score: float) -> float | None:
    """The largest of ``RATES`` whose threshold lies above a score."""
    above = np.flatnonzero(values > score)
    return float(RATES[above[0]]) if len(above) else None
