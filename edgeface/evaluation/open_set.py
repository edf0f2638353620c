"""Open-set identification: who is it, if anybody? Error rates over gallery size and photos a person.

ISO/IEC 19795-1: of searches by people who are not enrolled (non-mated), the FPIR is the share that gets a name; of
searches by people who are (mated), the FNIR is the share that does not get its own name at rank 1. Both depend on the
gallery's size and on the threshold. FNIR is given over FPIR, as in NIST's FRTE 1:N (P. Grother, M. Ngan, K. Hanaoka,
NIST IR 8271).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgeface.data.cache import open_cache
from edgeface.data.table import read_faces
from edgeface.embedder import Embedder, with_flip
from edgeface.evaluation.protocol import Progress
from edgeface_runtime import Contract, Detector, ImageError, Rate, UsageError, rate_over_people
from edgeface_runtime.align import align
from edgeface_runtime.checks import require_folder
from edgeface_runtime.detection.find import find_faces, most_central
from edgeface_runtime.images import SUFFIXES, open_photo
from edgeface_runtime.thresholds import sure_score, threshold_for

RATES = (0.1, 0.01, 0.001)
"""FPIRs that are asked for."""
SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
"""People in a gallery; as many as are there, and all."""
PHOTOS_EACH = (1, 3, 10)
LEAST_FALSE_POSITIVES = 10
"""Fewer expected at an FPIR make its threshold the luck of a few photos."""
PROBES_EACH = 20
"""Photos of one person that are searched for, at most."""
SAME_PHOTO = 0.99
"""Cosine from which two photos are one."""
_CHUNK = 512
_REPLICATES = 200


@dataclass(frozen=True, eq=False)
class EmbeddedFaces:
    """Embedded photos with whom they show."""

    embeddings: NDArray[np.float32]
    """(N, D) of length 1."""
    people: NDArray[np.int64]
    """(N,) numbers from 0."""
    failed: int
    """Photos in which no face was found, or that cannot be read."""
    names: tuple[str, ...] = ()
    """Of the people, by number."""
    kept: NDArray[np.float32] | None = None
    """(N, D) as a gallery keeps the photos, with their mirror images; as ``embeddings`` where None."""

    @property
    def counts(self) -> dict[str, int]:
        """How many people, photos, failed photos."""
        return {"people": len(np.unique(self.people)), "photos": len(self.people), "failed": self.failed}


@dataclass(frozen=True)
class OperatingPoint:
    """Rates at the threshold that the model's contract gives for an FPIR; None where it gives none."""

    asked: float
    threshold: float | None
    extrapolated: bool
    fpir: Rate | None
    fnir: Rate | None
    misnamed: Rate | None
    """Mated searches that get somebody else's name; they count in ``fnir`` too."""
    reason: str | None = None
    """Why there is no threshold."""


@dataclass(frozen=True)
class Fnir:
    """FNIR at the threshold at which the unenrolled people's photos reach an FPIR; None where ``reason`` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class OpenSetCell:
    """Galleries of one size."""

    people: int
    photos_each: int
    mated: int
    """Searches by enrolled people, all draws together."""
    nonmated: int
    """Searches by people who are not enrolled, all draws together."""
    at: tuple[OperatingPoint, ...]
    fnir_at_fpir: dict[str, Fnir]
    curve: tuple[tuple[float, float, float], ...]
    """(FPIR, FNIR, threshold) from an FPIR of 1 down to one photo."""


@dataclass(frozen=True)
class OpenSet:
    """The ``open_set`` object of ``eval --json``."""

    known: dict[str, int]
    """People, photos, failed photos."""
    unknown: dict[str, int]
    draws: int
    seed: int
    cells: tuple[OpenSetCell, ...]

    def as_json(self) -> dict[str, object]:
        """As in ``eval --json``; the curves as lists of their columns."""
        cells = []
        for cell in self.cells:
            columns = zip(("fpir", "fnir", "threshold"), map(list, zip(*cell.curve, strict=True)), strict=True)
            cells.append({**asdict(cell), "curve": dict(columns)})
        return {**asdict(self), "cells": cells}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows for a person."""
        heads = ["people", "photos each", "FPIR asked", "threshold", "FPIR, %", "FNIR, %", "FNIR at FPIR asked, %"]
        return heads, [
            [str(cell.people), str(cell.photos_each), *row] for cell in self.cells for row in _rows(cell, " to ")
        ]

    def narrow_tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """A title, heads and rows for each number of photos a person, for a terminal of 80 columns."""
        heads = ["people", "asked", "score", "FPIR, %", "FNIR, %", "FNIR at asked"]
        for each in sorted({cell.photos_each for cell in self.cells}):
            cells = [cell for cell in self.cells if cell.photos_each == each]
            title = f"{each} photo{'' if each == 1 else 's'} a person"
            yield title, heads, [[str(cell.people), *row] for cell in cells for row in _rows(cell, "–")]


def embed_people(
    embedder: Embedder, folder: Path, detector: Detector, progress: Progress = iter, *, to_enroll: bool = False
) -> EmbeddedFaces:
    """Finds, aligns and embeds the largest central face of each photo, as a device does.

    Args:
        embedder: what to measure.
        folder: ``<identity>/<photo>``, or a folder made by ``data prepare``. A photo that lies in no folder is taken
            for one of a person of its own.
        detector: not used for a prepared folder.
        progress: told the photos that are being aligned.
        to_enroll: embed them as a gallery keeps them too.

    Raises:
        UsageError: no such folder, or no photo with a face in it.
    """
    require_folder(folder)
    size = embedder.contract.input.size
    if (folder / "faces.csv").exists():
        rows = read_faces(folder)
        faces, names, failed = open_cache(folder, size), [row["identity"] for row in rows], 0
    else:
        paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        found = {}
        for name in progress([path.as_posix() for path in paths]):
            try:
                pixels = open_photo(folder / name)
                seen = find_faces(pixels, detector)[0]
                if seen:
                    found[name] = align(pixels, most_central(seen, *pixels.shape[:2]).landmarks, size)
            except ImageError:
                continue
        faces, names = np.array(list(found.values())), [_person(name) for name in found]
        failed = len(paths) - len(found)
    if not names:
        raise UsageError(f"{folder}: no photo with a face in it")
    ways = (embedder, with_flip(embedder)) if to_enroll else (embedder,)
    chunks = range(0, len(faces), _CHUNK)
    rows_ND, *kept = (np.concatenate([way.embed(faces[at : at + _CHUNK]) for at in chunks]) for way in ways)
    people, numbers = np.unique(names, return_inverse=True)
    return EmbeddedFaces(rows_ND, numbers.astype(np.int64), failed, tuple(people.tolist()), *kept)


def in_both(known: EmbeddedFaces, unknown: EmbeddedFaces, contract: Contract) -> list[tuple[str, str, float]]:
    """Unknown people who are probably known: their name, the known person's, and the score, highest first.

    So many comparisons of two people reach such a score in 1 % of cases.

    Raises:
        UsageError: one photo is in both.
    """
    chunks = range(0, len(unknown.people), _CHUNK)
    rows = [unknown.embeddings[at : at + _CHUNK] @ known.embeddings.T for at in chunks]
    nearest = np.concatenate([row.argmax(axis=1) for row in rows])
    scores = np.concatenate([row.max(axis=1) for row in rows])
    try:
        surely = sure_score(partial(threshold_for, contract), 0.01, len(scores) * len(known.people))
    except UsageError:  # the contract has no thresholds
        surely = SAME_PHOTO
    found: dict[int, tuple[str, str, float]] = {}
    for row in np.argsort(-scores, kind="stable").tolist():
        if scores[row] >= surely:
            who, other = int(unknown.people[row]), int(known.people[nearest[row]])
            found.setdefault(who, (unknown.names[who], known.names[other], float(scores[row])))
    if found and (first := next(iter(found.values())))[2] >= SAME_PHOTO:
        raise UsageError(
            f"one photo is of {first[0]} among the unknown people and of {first[1]} among the known: "
            "nobody may be in both; take those who are known out of the unknown"
        )
    return list(found.values())


def measure_open_set(
    known: EmbeddedFaces, unknown: EmbeddedFaces, contract: Contract, *, draws: int = 3, seed: int = 0
) -> OpenSet:
    """Error rates of galleries that are drawn from known people, as ``FaceRecognizer.identify`` would make them.

    Of each drawn person ``photos_each`` photos are enrolled and the others searched for, at most ``PROBES_EACH``; all
    unknown people's photos are searched for in each gallery.

    Args:
        known: people to enroll and to search for.
        unknown: people who are never enrolled.
        contract: states the thresholds.
        draws: galleries of each size.
        seed: of the draws.

    Raises:
        UsageError: fewer than two people have two photos.
    """
    counts = np.bincount(known.people)
    cells = []
    for each in PHOTOS_EACH:
        there = np.flatnonzero(counts > each)
        sizes = sorted({size for size in SIZES if size < 0.9 * len(there)} | {len(there)})
        rngs = {size: np.random.default_rng(seed) for size in sizes if size > 1}
        cells += [_cell(known, unknown, contract, there, size, each, draws, rng) for size, rng in rngs.items()]
    if not cells:
        raise UsageError("open-set rates need at least two known people with two photos each")
    return OpenSet(known.counts, unknown.counts, draws, seed, tuple(cells))


@dataclass(frozen=True, eq=False)
class _Searches:
    """The searches of all draws of a cell."""

    own: NDArray[np.float64]
    """(M,) best score of the own name where it is the best, else −2: of mated searches."""
    best: NDArray[np.float64]
    """(M,) best score of whoever."""
    mated: NDArray[np.int64]
    """(M,) whose they are."""
    top: NDArray[np.float64]
    """(U,) best score of non-mated searches."""
    nonmated: NDArray[np.int64]


def _cell(
    known: EmbeddedFaces,
    unknown: EmbeddedFaces,
    contract: Contract,
    there: NDArray[np.intp],
    size: int,
    each: int,
    draws: int,
    rng: np.random.Generator,
) -> OpenSetCell:
    drawn = [_searches(known, unknown, there, size, each, rng) for _ in range(draws)]
    all_of = _Searches(*(np.concatenate([getattr(one, field.name) for one in drawn]) for field in fields(_Searches)))
    at = tuple(_operating(all_of, contract, far, size * each) for far in RATES)
    measured = {f"{far:g}": _fnir_at(all_of, far, len(unknown.people), rng) for far in RATES}
    return OpenSetCell(size, each, len(all_of.own), len(all_of.top), at, measured, tuple(_curve(all_of)))


def _searches(
    known: EmbeddedFaces,
    unknown: EmbeddedFaces,
    there: NDArray[np.intp],
    size: int,
    each: int,
    rng: np.random.Generator,
) -> _Searches:
    """Those of one gallery."""
    drawn = np.sort(rng.choice(there, size, replace=False))
    photos = [rng.permutation(np.flatnonzero(known.people == person)) for person in drawn]
    gallery = np.concatenate([own[:each] for own in photos])
    probes = np.concatenate([own[each : each + PROBES_EACH] for own in photos])
    enrolled = (known.embeddings if known.kept is None else known.kept)[gallery].T

    def search(queries: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Of each, whose photo is the nearest (number in ``drawn``), and its score."""
        found = [queries[at : at + _CHUNK] @ enrolled for at in range(0, len(queries), _CHUNK)]
        scores = np.concatenate([part.max(axis=1) for part in found]).astype(np.float64)
        return np.concatenate([part.argmax(axis=1) for part in found]) // each, scores

    named, best = search(known.embeddings[probes])
    own = np.where(drawn[named] == known.people[probes], best, -2.0)
    return _Searches(own, best, known.people[probes], search(unknown.embeddings)[1], unknown.people)


def _operating(searches: _Searches, contract: Contract, far: float, photos: int) -> OperatingPoint:
    try:
        limit = threshold_for(contract, far, photos)
    except UsageError as error:
        return OperatingPoint(far, None, False, None, None, None, str(error))
    named = searches.best >= limit.value
    rates = (
        _rate(searches.top >= limit.value, searches.nonmated),
        _rate(searches.own < limit.value, searches.mated),
        _rate(named & (searches.own < limit.value), searches.mated),
    )
    return OperatingPoint(far, limit.value, limit.extrapolated, *rates)


def _rate(events: NDArray[np.bool_], people: NDArray[np.int64]) -> Rate | None:
    return rate_over_people(np.bincount(people, events), np.bincount(people))


def _fnir_at(searches: _Searches, far: float, photos: int, rng: np.random.Generator) -> Fnir:
    """FNIR at a measured FPIR, with a percentile bootstrap over the people of both kinds."""
    if far * photos < LEAST_FALSE_POSITIVES:
        return Fnir(
            None,
            reason=f"{photos} photos of unknown people make {far * photos:.1f} false positives expected; "
            f"at least {LEAST_FALSE_POSITIVES} are needed",
        )
    order = np.argsort(-searches.top, kind="stable")
    falling, whose = searches.top[order], searches.nonmated[order]
    threshold = _threshold(falling, np.ones(len(falling)), far)
    drawn = []
    for _ in range(_REPLICATES):
        others, mated = (_weights(people, rng) for people in (whose, searches.mated))
        missed = searches.own < _threshold(falling, others, far)
        drawn.append(float(mated @ missed / mated.sum()) if mated.sum() else np.nan)
    low, high = np.nanpercentile(drawn, [2.5, 97.5]).tolist()
    found = _rate(searches.own < threshold, searches.mated)
    assert found
    if found.value in (0, 1):  # every replicate has the same rate
        low, high = found.low, found.high
    return Fnir(found.value, low, high, threshold)


def _weights(people: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each search counts where as many people are drawn as there are, with replacement."""
    numbers, index = np.unique(people, return_inverse=True)
    weights: NDArray[np.int64] = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)))[index]
    return weights


def _threshold(falling: NDArray[np.float64], weights: NDArray[np.float64] | NDArray[np.int64], far: float) -> float:
    """The lowest threshold that at most the share ``far`` of weighted scores, from high to low, reaches."""
    share = np.cumsum(weights) / weights.sum()
    too_many = int(np.searchsorted(share, far + 1e-12, side="right"))
    return float(falling[-1]) if too_many == len(falling) else float(np.nextafter(falling[too_many], np.inf))


def _curve(searches: _Searches) -> Iterator[tuple[float, float, float]]:
    """Ten points a decade."""
    falling, own = -np.sort(-searches.top), searches.own
    points = 1 + int(np.ceil(10 * np.log10(len(falling))))
    limits: Sequence[float] = [_threshold(falling, np.ones(len(falling)), 10 ** (-step / 10)) for step in range(points)]
    for limit in dict.fromkeys(limits):
        fpir, fnir = float((falling >= limit).mean()), float((own < limit).mean())
        if fpir:
            yield fpir, fnir, limit


def _rows(cell: OpenSetCell, to: str) -> Iterator[list[str]]:
    """Of each FPIR asked for: that, the threshold, and three rates with their intervals."""
    for at in cell.at:
        limit = "–" if at.threshold is None else f"{at.threshold:.3f}{'*' if at.extrapolated else ''}"
        rates = (at.fpir, at.fnir, cell.fnir_at_fpir[f"{at.asked:g}"])
        yield [f"{at.asked:g}", limit, *(_shown(rate, to) for rate in rates)]


def _shown(rate: Rate | Fnir | None, to: str) -> str:
    """A rate in percent; a dash where it could not be measured."""
    if rate is None or rate.value is None or rate.low is None or rate.high is None:
        return "–"
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f}{to}{100 * rate.high:.1f})"


def _person(path: str) -> str:
    """The folder that a photo lies in; its own name where it lies in none."""
    return PurePosixPath(path).parts[0]
