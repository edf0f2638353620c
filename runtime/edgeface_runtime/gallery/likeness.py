"""The photos of a gallery held against each other: which show one person, and who else is near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.contract import HardFaces
from edgeface_runtime.gallery.enrollment import Photo
from edgeface_runtime.gallery.linkage import GROUP, alike, within

UNLIKE = 0.51
"""Of the threshold for an FMR of 0.01. Below it are the mean scores of 95 % of other people's photos with a person's
photos, of 99 % of crops without a face, and of 0.1 % of the person's own (LFW, ten photos a person)."""
FOREIGN = 0.4
"""Of the same threshold. A face alone in being unlike the person's others is called somebody else's below it only: of
photos that do show the person half as many are (CelebA and LFW, looked at), of other people's nine in ten as many."""
SAME = 0.8
"""Photos of one person under two names score at least this share of what they score under each name. Of galleries of
CelebA, Families in the Wild and LFW with planted mistakes, the least share that names as many of these as any other and
fewest pairs besides."""
NEARER = 0.8
"""A photo of somebody else scores at most this share of what it scores with that person's photos, with those of the
person whose name it has: so do 99 % of the photos of those sets, put under the name of whoever they are most like."""
CHUNK = 256
"""Photos whose scores with all others are in memory at once."""


@dataclass(frozen=True, eq=False)
class Enrolled:
    """The gallery's photos, a person's side by side."""

    photos: list[Photo]
    names: list[str]
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    who: NDArray[np.intp]
    """(N,) number in ``names``."""
    embeddings: NDArray[np.float32]
    groups: NDArray[np.intp]
    """(N,) of the photos that show one person, the same number; 0: the person whose name it is."""
    means: NDArray[np.float32]
    """(P, D) mean embedding of each person's photos of group 0."""

    def of(self, person: int) -> range:
        """The rows of a person."""
        return range(int(self.starts[person]), int(self.ends[person]))

    def ids(self, rows: Sequence[int] | NDArray[np.intp]) -> tuple[int, ...]:
        """The ids of photos."""
        return tuple(self.photos[row].id for row in rows)


@dataclass(frozen=True, eq=False)
class Scores:
    """Of each photo."""

    own: NDArray[np.float32]
    own_mean: NDArray[np.float32]
    """With the person's other photos of group 0; NaN where there is none."""
    other: NDArray[np.float32]
    other_photo: NDArray[np.intp]
    other_mean: NDArray[np.float32]
    """With the photos of the other person who is nearest by it."""
    other_person: NDArray[np.intp]


def grouped(photos: list[Photo], rows_ND: NDArray[np.float32], least: float) -> Enrolled:
    """The photos by person, and which of a person's show somebody else.

    Args:
        photos: a person's side by side.
        rows_ND: (N, D) their unit embeddings.
        least: the score from which two photos are taken for those of one person.
    """
    names = list(dict.fromkeys(photo.name for photo in photos))
    number = {name: place for place, name in enumerate(names)}
    who = np.array([number[photo.name] for photo in photos], np.intp)
    starts = np.flatnonzero(np.diff(who, prepend=-1))
    ends = np.append(starts[1:], len(who))
    groups = np.zeros(len(who), np.intp)
    means_PD = np.empty((len(names), rows_ND.shape[1]), np.float32)
    for person, (start, end) in enumerate(zip(starts, ends, strict=True)):
        groups[start:end] = people_shown(rows_ND[start:end] @ rows_ND[start:end].T, least)
        means_PD[person] = rows_ND[start:end][groups[start:end] == 0].mean(axis=0)
    return Enrolled(photos, names, starts, ends, who, rows_ND, groups, means_PD)


def people_shown(scores: NDArray[np.float32], least: float) -> NDArray[np.intp]:
    """(N,) numbers of the people whom photos of one name show, the one with most photos first.

    Groups join below ``least``, down to ``UNLIKE`` of it, for profiles and masks, but two that are each much more alike
    in themselves than to each other do not, however high they score.
    """
    firsts, part, counts = np.unique(alike(scores, 0, UNLIKE * least), return_inverse=True, return_counts=True)
    numbers = np.empty(len(firsts), np.intp)
    numbers[np.lexsort((firsts, -counts))] = np.arange(len(firsts))
    return numbers[part]


def likeness_of(enrolled: Enrolled, a: int, b: int) -> float:
    """The mean score of two people's photos of group 0, as a share of what each one's score; 1 for few photos."""
    counts = np.array([(enrolled.groups[enrolled.of(person)] == 0).sum() for person in (a, b)])
    if counts.min() < GROUP:
        return 1.0
    means = enrolled.means[[a, b]]
    totals = counts**2 * (means**2).sum(axis=1)
    return float(means[0] @ means[1]) / max(float(np.sqrt(within(totals, counts).prod())), 1e-6)


def seen_in(hard_faces: HardFaces, rows_ND: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) True where a face is covered, painted or turned away, and (N,) True where there is a face at all.

    Args:
        hard_faces: of the model's contract.
        rows_ND: (N, D) unit embeddings.
    """
    lines = np.array([hard_faces.agreement, hard_faces.no_face], np.float32)
    below_N2 = rows_ND @ lines[:, :-1].T + lines[:, -1] < 0
    return below_N2[:, 0], below_N2[:, 1]


def hard_to_recognize(
    hard_faces: HardFaces | None, enrolled: Enrolled, scores: Scores, least: float
) -> NDArray[np.bool_]:
    """(N,) True for faces that are covered, painted or turned away, as far as the model tells them.

    A photo with a face that is alone in being unlike the person's others, and not by much, counts as one too.

    Args:
        hard_faces: of the model's contract; where None, no face is said to be hard.
        enrolled: the gallery.
        scores: of its photos.
        least: the score from which two photos are taken for those of one person.
    """
    if hard_faces is None:
        return np.zeros(len(enrolled.who), bool)
    hidden, is_face = seen_in(hard_faces, enrolled.embeddings)
    parts = enrolled.who * len(enrolled.who) + enrolled.groups
    _, part, counts = np.unique(parts, return_inverse=True, return_counts=True)
    is_near = (counts[part] == 1) & (scores.own_mean >= FOREIGN * least)
    return np.asarray(is_face & (hidden | is_near), bool)


def compared(enrolled: Enrolled) -> Scores:
    """Each photo's scores with the rest of its person's photos and with everybody else's."""
    rows_ND, who, count = enrolled.embeddings, enrolled.who, len(enrolled.who)
    own, own_mean, other, other_mean = np.full((4, count), np.nan, np.float32)
    other_photo, other_person = np.zeros((2, count), np.intp)
    for person in range(len(enrolled.names)):
        rows = np.array(enrolled.of(person))
        if len(rows) > 1:
            scores = rows_ND[rows] @ rows_ND[rows].T
            np.fill_diagonal(scores, -np.inf)
            own[rows] = scores.max(axis=1)
            np.fill_diagonal(scores, 0)
            main = enrolled.groups[rows] == 0
            behind = main.sum() - main
            own_mean[rows] = np.where(behind > 0, (scores * main).sum(axis=1) / np.maximum(behind, 1), np.nan)
    people = np.arange(len(enrolled.names))
    for start in range(0, count if len(people) > 1 else 0, CHUNK):
        part = slice(start, start + CHUNK)
        scores = rows_ND[part] @ rows_ND.T
        scores[who[part, None] == who] = -np.inf
        other_photo[part], other[part] = scores.argmax(axis=1), scores.max(axis=1)
        means = rows_ND[part] @ enrolled.means.T
        means[who[part, None] == people] = -np.inf
        other_person[part], other_mean[part] = means.argmax(axis=1), means.max(axis=1)
    return Scores(own, own_mean, other, other_photo, other_mean, other_person)
