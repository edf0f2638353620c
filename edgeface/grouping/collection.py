"""The people of a collection: groups of faces, whom they show, and which of their photos to enroll."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeface.grouping.cache import SeenFace
from edgeface.grouping.whispers import LinkThreshold, group_faces, link_threshold
from edgeface_runtime import Enrollment, EnrollmentError, Gallery, ImageError, Refusal
from edgeface_runtime.contract import Contract
from edgeface_runtime.images import shown

MIN_SHARPNESS = 66.0
"""Of faces that are grouped: 99.9 % of Pins and LFW are above, and most shrunk to 20 pixels are not.

So little detail makes people alike: shrunk to 24, 20, 16, 12 pixels, 4, 13, 80, 1,000 times as many pairs of two people
reach the threshold as at 112.
"""
_TYPICAL = 0.1  # of a group, the part that is least like the rest is not enrolled
_VARIED = 20  # faces of a group that are put in order by what they add
_COMPARED = 2000  # faces of a group whose scores with each other are in memory at once


@dataclass(frozen=True, eq=False)
class PersonGroup:
    """Faces of one person."""

    number: int
    """Its own for as long as most of its faces stay together."""
    name: str | None
    """Whom a user said that it shows."""
    faces: list[SeenFace]
    """Those first that say most about the person."""
    scores: list[float]
    """Of each face, the mean cosine to the others of the group."""

    @property
    def photos(self) -> list[Path]:
        """Where the person is."""
        return sorted({face.photo for face in self.faces})


@dataclass(frozen=True, eq=False)
class Collection:
    """Who is in some photos."""

    groups: list[PersonGroup]
    """The largest first."""
    alone: list[SeenFace]
    """Of people who are seen once."""
    unclear: list[SeenFace]
    """Too small or too blurred to tell whom they show."""
    threshold: LinkThreshold
    photos: int
    refused: dict[Path, str]
    """Photos that cannot be read, and why."""
    joined: dict[int, int]
    """Of numbers of the last run whose groups became part of another group, that group's number."""


def people_of_photos(
    faces: Sequence[SeenFace],
    contract: Contract,
    *,
    photos: int,
    refused: dict[Path, str],
    far: float | None = None,
    threshold: float | None = None,
    seed: int = 0,
    last_number: int = 0,
) -> Collection:
    """Groups faces by person.

    A group is called as most of its faces that have a name; groups of one name are one person's. It keeps the number
    that the last run gave most of its faces, of several the lowest; others get numbers that no group ever had.

    Args:
        faces: of all photos.
        contract: of the model that embedded them.
        photos: how many were looked at.
        refused: those that cannot be read.
        far: false match rate of two faces that are linked; as ``link_threshold`` chooses where None.
        threshold: score from which two faces are linked, in place of ``far``.
        seed: of the order in which faces are looked at.
        last_number: the largest that a group ever had.

    Raises:
        UsageError: ``far`` or ``threshold`` is out of range, or the contract has no thresholds.
    """
    clear = [face for face in faces if face.sharpness >= MIN_SHARPNESS]
    limit = link_threshold(contract, len(clear), far) if threshold is None else LinkThreshold(threshold, None)
    files = {photo: number for number, photo in enumerate(dict.fromkeys(face.photo for face in clear))}
    rows = np.stack([face.embedding for face in clear]) if clear else np.empty((0, 1), np.float32)
    labels = group_faces(rows, np.array([files[face.photo] for face in clear], np.int64), limit.value, seed=seed)
    members: defaultdict[str | int, list[SeenFace]] = defaultdict(list)
    for _, one in itertools.groupby(sorted(zip(labels.tolist(), clear, strict=True), key=_label), key=_label):
        found = [face for _, face in one]
        names = Counter(face.name for face in found if face.name is not None)
        members[names.most_common(1)[0][0] if names else -len(members)].extend(found)
    sizes = sorted(members.items(), key=lambda item: (-len(item[1]), str(item[1][0].photo)))
    kept = [(key, found) for key, found in sizes if isinstance(key, str) or len(found) > 1]
    numbers, joined = _numbers([found for _, found in kept], clear, last_number)
    groups = [
        _described(number, key if isinstance(key, str) else None, found)
        for number, (key, found) in zip(numbers, kept, strict=True)
    ]
    alone = [found[0] for key, found in sizes if isinstance(key, int) and len(found) == 1]
    unclear = [face for face in faces if face.sharpness < MIN_SHARPNESS]
    return Collection(groups, alone, unclear, limit, photos, refused, joined)


def enroll_group(gallery: Gallery, group: PersonGroup, name: str, count: int) -> Enrollment:
    """Enrolls the ``count`` photos of a group that tell most about the person.

    Photos that do not pass the enrollment checks are passed over; one that the gallery refuses makes room for the next.

    Args:
        gallery: where to.
        group: the faces.
        name: whom they show.
        count: how many photos to enroll.

    Raises:
        GalleryError: the gallery cannot be written.
    """
    done = Enrollment([], [])
    for face in group.faces:
        if len(done.photos) == count:
            break
        if face.concerns:
            continue
        try:
            done.photos.append(gallery.enroll(name, face.photo, face=face.face))
        except (EnrollmentError, ImageError) as error:
            done.refused.append(Refusal(name, shown(face.photo), str(error).removesuffix("; force (--force) takes it")))
    if not done.photos:
        first = group.faces[0]
        why = f"none of {len(group.faces)} photos can be enrolled"
        if first.concerns:
            why += f"; the first: {first.concerns}"
        done.refused.append(Refusal(name, shown(first.photo), f"{name}: {why}"))
    return done


def telling(faces: Sequence[SeenFace]) -> list[SeenFace]:
    """The faces of one person in the order in which they tell most about the person.

    First at most ``_VARIED`` of those that may be enrolled, are among the sharper half and not among the tenth that is
    least like the others: each the one that is most like what those before are not like (greedy facility location:
    G. Nemhauser, L. Wolsey and M. Fisher, "An analysis of approximations for maximizing submodular set functions",
    Mathematical Programming 1978). The rest follow by sharpness.
    """
    rows = np.stack([face.embedding for face in faces])
    typical = rows @ rows.mean(axis=0)
    least = np.quantile(typical, _TYPICAL)
    order = np.argsort([-face.sharpness for face in faces], kind="stable")[:_COMPARED].tolist()
    good = [place for place in order if not faces[place].concerns]
    good = [place for place in good[: max(_VARIED, len(good) // 2)] if typical[place] >= least]
    scores = rows[good] @ rows[order].T
    near = np.full(len(order), -1, np.float32)
    chosen: dict[int, None] = {}
    for _ in good[:_VARIED]:
        gains = np.maximum(scores, near).sum(axis=1)
        gains[[good.index(place) for place in chosen]] = -np.inf
        best = int(gains.argmax())
        chosen[good[best]] = None
        near = np.maximum(near, scores[best])
    rest = sorted(set(range(len(faces))) - chosen.keys(), key=lambda place: -faces[place].sharpness)
    return [faces[place] for place in [*chosen, *rest]]


def _numbers(
    groups: Sequence[Sequence[SeenFace]], faces: Sequence[SeenFace], last: int
) -> tuple[list[int], dict[int, int]]:
    """The number of each group; and of the numbers that became part of another, that one's."""
    sizes = Counter(face.group for face in faces)
    # A number goes where at least half of its faces are: a single face that drifts does not take it along.
    heirs: dict[int, int] = {}
    for place, group in enumerate(groups):
        for number, count in Counter(face.group for face in group).items():
            if number is not None and 2 * count >= sizes[number]:
                heirs.setdefault(number, place)
    kept: dict[int, int] = {}
    for number in sorted(heirs):
        kept.setdefault(heirs[number], number)
    fresh = itertools.count(last + 1)
    numbers = [kept[place] if place in kept else next(fresh) for place in range(len(groups))]
    return numbers, {old: numbers[place] for old, place in heirs.items() if numbers[place] != old}


def _described(number: int, name: str | None, faces: list[SeenFace]) -> PersonGroup:
    ordered = telling(faces)
    rows = np.stack([face.embedding for face in ordered]).astype(np.float64)
    means = (rows @ rows.sum(axis=0) - 1) / max(len(rows) - 1, 1)
    return PersonGroup(number, name, ordered, means.tolist())


def _label(pair: tuple[int, SeenFace]) -> int:
    return pair[0]
