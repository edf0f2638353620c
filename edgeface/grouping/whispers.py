"""Groups faces by person: Chinese whispers on the graph of faces that are alike.

C. Biemann, "Chinese Whispers: an efficient graph clustering algorithm", TextGraphs 2006. The number of people need not
be known, and one parameter, the score from which two faces are linked, follows from the model's contract.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import UsageError
from edgeface_runtime.contract import Contract
from edgeface_runtime.thresholds import threshold_for

FAR = 1e-4
"""False match rate of two faces that are linked, in collections of up to ``FALSE_LINKS / FAR`` faces."""
FALSE_LINKS = 0.5
"""In larger ones, how many false links a face may have: its comparisons grow with the collection, the rate falls.

Chosen by B-cubed F on one half of the people of Pins and LFW, in collections of 100 to 8,500 faces, and reported on the
other half (docs/group.md).
"""
NEIGHBORS = 128
"""Links of a face at most, those to the most alike; memory stays in proportion to the faces, groups as they are."""
_CELLS = 1 << 24  # scores in memory at once
_ROUNDS = 100


@dataclass(frozen=True)
class LinkThreshold:
    """From which score on two faces are linked."""

    value: float
    far: float | None
    """The false match rate that it stands for; None where the caller gave the score."""


@dataclass(frozen=True, eq=False)
class Links:
    """A graph of faces: those that face i is linked to are ``faces[starts[i]:starts[i + 1]]``."""

    starts: NDArray[np.intp]
    """(N + 1,)"""
    faces: NDArray[np.int32]
    scores: NDArray[np.float32]
    """Cosine of each link."""


def link_threshold(contract: Contract, faces: int, far: float | None = None) -> LinkThreshold:
    """The score from which two of so many faces are linked.

    Args:
        contract: of the model.
        faces: how many there are.
        far: false match rate, 0 to 1; where None ``FAR``, or ``FALSE_LINKS`` a face where that is less, but no less
            than the smallest rate that was measured.

    Raises:
        UsageError: ``far`` is not between 0 and 1, or the contract has no threshold for it.
    """
    if far is None:
        measured = [float(rate) for rate, entry in contract.thresholds.items() if entry is not None]
        far = max(min(FAR, FALSE_LINKS / max(faces, 1)), min(measured, default=0))
    return LinkThreshold(threshold_for(contract, far).value, far)


def link(embeddings: NDArray[np.float32], photos: NDArray[np.int64], threshold: float) -> Links:
    """Links faces of different photos whose cosine is at least ``threshold``.

    All pairs are compared, in blocks: exact, and for 20,000 faces a matter of seconds on one core.

    Args:
        embeddings: (N, D), rows of length 1.
        photos: (N,) the photo of each face.
        threshold: −1 to 1.
    """
    count = len(embeddings)
    heads, tails = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
    rows = max(1, _CELLS // max(count, 1))
    for start in range(0, count, rows):
        scores = embeddings[start : start + rows] @ embeddings.T
        scores[photos[start : start + rows, None] == photos] = -2
        is_link = scores >= threshold
        for row in np.flatnonzero(is_link.sum(axis=1) > NEIGHBORS):
            is_link[row] &= scores[row] >= np.partition(scores[row], -NEIGHBORS)[-NEIGHBORS]
        head, tail = np.nonzero(is_link)
        heads.append(head + start)
        tails.append(tail)
    # A face that is among another's most alike need not have it among its own: links go both ways.
    one, other = np.concatenate(heads), np.concatenate(tails)
    head, tail = np.divmod(np.unique(np.concatenate([one * count + other, other * count + one])), max(count, 1))
    scores = np.einsum("nd,nd->n", embeddings[head], embeddings[tail]).astype(np.float32)
    return Links(np.searchsorted(head, np.arange(count + 1)), tail.astype(np.int32), scores)


def group_faces(
    embeddings: NDArray[np.float32], photos: NDArray[np.int64], threshold: float, *, seed: int = 0
) -> NDArray[np.intp]:
    """(N,) the group of each face, 0 for the largest; two faces of one photo are never in one group.

    Every face starts as a group of its own. In random order and again and again, each face joins the group that its
    links to add up to the largest score, until nothing changes. Where another face of its photo is in that group, the
    one with the larger sum stays. The result depends on the faces and the seed, not on the faces' order.

    Args:
        embeddings: (N, D) float32, rows of length 1.
        photos: (N,) the photo of each face.
        threshold: score from which two faces are linked, −1 to 1.
        seed: of the random order.
    """
    if not -1 <= threshold <= 1:
        raise UsageError(f"the threshold is {threshold:g}; a score lies between -1 and 1")
    order = np.lexsort(embeddings.T)
    labels = np.empty(len(embeddings), np.intp)
    labels[order] = _whisper(link(embeddings[order], photos[order], threshold), photos[order], seed)
    return _by_size(labels, order)


def _whisper(links: Links, photos: NDArray[np.int64], seed: int) -> NDArray[np.intp]:
    count = len(photos)
    labels, sums = np.arange(count), np.zeros(count)
    rng = np.random.default_rng(seed)
    fresh = count
    mates = _mates(photos)
    active = np.diff(links.starts) > 0
    for _ in range(_ROUNDS):
        if not active.any():
            break
        for face in rng.permutation(np.flatnonzero(active)).tolist():
            active[face] = False
            near = links.faces[links.starts[face] : links.starts[face + 1]]
            found, places = np.unique(labels[near], return_inverse=True)
            totals = np.bincount(places, links.scores[links.starts[face] : links.starts[face + 1]])
            # Of equal sums its own group's, so that it stays.
            for place in np.lexsort((found != labels[face], -totals)).tolist():
                label, total = found[place], totals[place]
                rival = next((mate for mate in mates.get(face, ()) if labels[mate] == label), None)
                if rival is not None and sums[rival] >= total:
                    continue
                if rival is not None:
                    labels[rival], sums[rival], active[rival] = fresh, 0, True
                    fresh += 1
                sums[face] = total
                if label != labels[face]:
                    labels[face] = label
                    active[near] = True
                break
    return labels


def _mates(photos: NDArray[np.int64]) -> dict[int, list[int]]:
    """Of each face the others of its photo; faces that are alone are left out."""
    order = np.argsort(photos, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(photos[order])) + 1)
    several = [group.tolist() for group in groups if len(group) > 1]
    return {face: [mate for mate in group if mate != face] for group in several for face in group}


def _by_size(labels: NDArray[np.intp], order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Numbers groups from the largest to the smallest; equal ones by the first of their faces in ``order``."""
    _, first, inverse, sizes = np.unique(labels[order], return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.intp)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    numbers = np.empty(len(labels), np.intp)
    numbers[order] = rank[inverse]
    return numbers
