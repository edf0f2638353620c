"""Does a gallery work? Each person's photos held against the rest, what is wrong named, and what to do about it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import described
from edgeface_runtime.detection.find import find_faces, most_central
from edgeface_runtime.errors import GalleryError, ImageError, UsageError
from edgeface_runtime.gallery.enrollment import ENROLMENT_FAR, MIN_BRIGHTNESS, MIN_SHARPNESS, Photo
from edgeface_runtime.gallery.findings import (
    RATES,
    GalleryFinding,
    PersonCheck,
    advice,
    apart,
    misplaced,
    same_people,
    two_names,
)
from edgeface_runtime.gallery.gallery import Gallery
from edgeface_runtime.gallery.likeness import Enrolled, Scores, compared, grouped, hard_to_recognize
from edgeface_runtime.images import open_photo, shown
from edgeface_runtime.protocols import FaceEncoder
from edgeface_runtime.quality import brightness, face_crop
from edgeface_runtime.rates import Rate, rate_over_people
from edgeface_runtime.thresholds import Threshold, sure_score

_MEAN = 3  # so many times larger may the rate be for a mean of scores

TURNED = 10.0
"""Degrees of yaw from which a head is turned."""


@dataclass(frozen=True, eq=False)
class Look:
    """An enrolled photo, looked at again."""

    brightness: float
    """Luma, 0 to 255, that a twentieth of the face exceeds."""
    crop: NDArray[np.uint8]
    """(112, 112, 3) uint8 RGB."""


@dataclass(frozen=True)
class UnknownPhoto:
    """A photo of somebody who is not enrolled, and whom it is most like."""

    photo: str
    name: str
    score: float


@dataclass(frozen=True)
class UnknownCheck:
    """What unenrolled people's photos score."""

    fpir: Rate | None
    """Share of the photos that get somebody's name; None where no photo shows a face."""
    highest: list[UnknownPhoto]
    """The ten with the highest scores, the highest first: the scores that a threshold must lie above."""
    enrolled: list[UnknownPhoto]
    """Those whose score so many photos of other people reach in 1 % of cases: probably of people who are enrolled."""
    failed: list[str] = field(default_factory=list)
    """Why photos could not be used, a line each."""


@dataclass(frozen=True, eq=False)
class GalleryCheck:
    """What ``check_gallery`` found."""

    far: float
    """FPIR that was asked for."""
    threshold: Threshold
    people: list[PersonCheck]
    """In the order of their names."""
    findings: list[GalleryFinding]
    """Faults first."""
    named: Rate | None
    """Photos that get their own name when they are left out; of people with two photos or more."""
    fpir: Rate | None
    """Photos that get somebody's name when their whole person is left out, those of faults passed over."""
    own: NDArray[np.float32]
    """(N,) of each photo, the best score with another photo of the person; NaN where there is none."""
    others: NDArray[np.float32]
    """(N,) the best score with somebody else's photo; NaN where there is nobody else."""

    @property
    def faults(self) -> list[GalleryFinding]:
        """The findings that are mistakes."""
        return [finding for finding in self.findings if finding.is_fault]


def check_gallery(
    gallery: Gallery,
    recognizer: FaceEncoder,
    far: float = 1e-2,
    *,
    looks: Mapping[int, Look] | None = None,
) -> GalleryCheck:
    """Holds each photo of a gallery against all others.

    A photo, or a group of photos, that scores with the person's others as photos of two people do is a fault, as are
    two names whose photos show one person. Two people who are alike, a person whose own photos would not be named, and
    photos that are missing are advice, which people with faults get when these are mended.

    Args:
        gallery: who is enrolled.
        recognizer: the model that the gallery was made with; its contract states the thresholds.
        far: the FPIR that ``identify`` is to be asked for.
        looks: photos by their id that were looked at again, for what the gallery does not store.

    Raises:
        GalleryError: nobody is enrolled, a damaged embedding, or another model's gallery.
        UsageError: the model's contract has no threshold for ``far`` over so many photos.
    """
    if not hasattr(gallery, "contents"):
        raise UsageError(f"the gallery is {described(gallery)}; open one with Gallery(path, recognizer)")
    gallery.require(recognizer.model)
    photos, rows_ND = gallery.contents()
    if not photos:
        raise GalleryError(
            f"{gallery.path}: nobody is enrolled, so there is nothing to check; `edgeface enroll` adds people"
        )
    threshold = recognizer.threshold(far, len(photos))
    least = recognizer.threshold(ENROLMENT_FAR).value
    enrolled = grouped(photos, rows_ND, least)
    scores = compared(enrolled)
    # A mean over a person's photos scatters less than the score of a pair, which thresholds are measured on.
    likeness = sure_score(recognizer.threshold, ENROLMENT_FAR, len(enrolled.names) // _MEAN)
    surely = sure_score(recognizer.threshold, ENROLMENT_FAR, math.comb(len(enrolled.names), 2))
    pairs = same_people(enrolled, scores, likeness, surely)
    hard = hard_to_recognize(recognizer.model.contract.hard_faces, enrolled, scores, least)
    found = [*misplaced(enrolled, scores, likeness, least, set(pairs), hard), *two_names(enrolled, pairs)]
    faults = [finding for finding in found if finding.is_fault]
    bad = {photo for fault in faults for photo in fault.photos}
    clean = np.array([photo.id not in bad for photo in photos])
    at_fault = {name for fault in faults for name in (fault.name, fault.other)}
    faultless = np.array([photo.name not in at_fault for photo in photos])
    values = np.array([_value(recognizer, rate, len(photos)) for rate in RATES])
    people = _people(enrolled, scores, threshold.value, values, recognizer.model.contract.input.size, looks or {})
    counted = clean & np.isfinite(scores.other)
    mistaken = counted & (scores.other >= threshold.value) & clean[scores.other_photo]
    tried = np.isfinite(scores.own)
    named = tried & (scores.own >= threshold.value) & ~(scores.other > scores.own)
    count = np.bincount
    return GalleryCheck(
        far=far,
        threshold=threshold,
        people=people,
        findings=[
            *faults,
            *(finding for finding in found if not finding.is_fault),
            *advice(enrolled, scores, threshold.value, values, people, faultless),
        ],
        named=rate_over_people(count(enrolled.who, named), count(enrolled.who, tried)),
        fpir=rate_over_people(count(enrolled.who, mistaken), count(enrolled.who, counted)),
        own=scores.own,
        others=scores.other,
    )


def _people(
    enrolled: Enrolled,
    scores: Scores,
    threshold: float,
    values: NDArray[np.float64],
    size: int,
    looks: Mapping[int, Look],
) -> list[PersonCheck]:
    people = []
    for person, name in enumerate(enrolled.names):
        rows = np.array(enrolled.of(person))
        photos = [enrolled.photos[row] for row in rows]
        own, other = scores.own[rows], scores.other[rows]
        best = rows[int(np.nanargmax(other))] if np.isfinite(other).any() else None
        score = None if best is None else float(scores.other[best])
        people.append(
            PersonCheck(
                name,
                len(rows),
                int(((own >= threshold) & ~(other > own)).sum()) if len(rows) > 1 else None,
                None if best is None else enrolled.names[enrolled.who[scores.other_photo[best]]],
                score,
                None if score is None else apart(values, score),
                _missing(photos, size, [looks[photo.id].brightness for photo in photos if photo.id in looks]),
            )
        )
    return people


def _missing(photos: Sequence[Photo], size: int, light: Sequence[float]) -> tuple[str, ...]:
    checks = (
        (len(photos) < 3, "third photo" if len(photos) == 2 else "two more photos"),
        (min(photo.yaw for photo in photos) > -TURNED, "head turned left"),
        (max(photo.yaw for photo in photos) < TURNED, "head turned right"),
        (max(photo.size for photo in photos) < size, f"face of {size} pixels"),
        (max(photo.sharpness for photo in photos) < MIN_SHARPNESS, "sharp photo"),
        (bool(light) and max(light) < MIN_BRIGHTNESS, "bright photo"),
    )
    return tuple(what for applies, what in checks if applies)


def _value(recognizer: FaceEncoder, far: float, comparisons: int) -> float:
    try:
        return recognizer.threshold(far, comparisons).value
    except UsageError:
        return float("nan")


def check_unknown(
    gallery: Gallery,
    recognizer: FaceEncoder,
    photos: Sequence[Path],
    far: float = 1e-2,
    *,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> UnknownCheck:
    """Searches for the largest central face of photos of people who are not enrolled.

    Args:
        gallery: who is enrolled.
        recognizer: the model that the gallery was made with.
        photos: files; where they lie in several folders, those of a folder are taken for one person's.
        far: the FPIR that ``identify`` is to be asked for.
        progress: wraps the photos.

    Raises:
        GalleryError: nobody is enrolled, or another model's gallery.
        UsageError: the model's contract has no threshold for ``far`` over so many photos.
    """
    gallery.require(recognizer.model)
    if not len(gallery):
        raise GalleryError(f"{gallery.path}: nobody is enrolled, so nobody can be mistaken for")
    threshold = recognizer.threshold(far, len(gallery)).value
    found: list[UnknownPhoto] = []
    failed: list[str] = []
    people: Counter[Path] = Counter()
    named: Counter[Path] = Counter()
    by_folder = len({path.parent for path in photos}) > 1
    for path in progress(photos):
        try:
            pixels = open_photo(path)
            faces = find_faces(pixels, recognizer.detector)[0]
            if not faces:
                raise ImageError(f"{shown(path)}: no face found")
            rows = recognizer.embed(pixels, [most_central(faces, *pixels.shape[:2])])
        except ImageError as error:
            failed.append(str(error))
            continue
        best = gallery.search(rows, 1)[0][0]
        found.append(UnknownPhoto(shown(path), best.name, best.score))
        person = path.parent if by_folder else path
        people[person] += 1
        named[person] += best.score >= threshold
    found.sort(key=lambda photo: -photo.score)
    fpir = rate_over_people([named[person] for person in people], list(people.values()))
    surely = sure_score(recognizer.threshold, ENROLMENT_FAR, len(found) * len(gallery))
    return UnknownCheck(fpir, found[:10], [photo for photo in found if photo.score >= surely], failed)


def look_again(
    gallery: Gallery,
    recognizer: FaceEncoder,
    files: Mapping[tuple[str, str], Path],
    *,
    progress: Callable[[Sequence[Photo]], Iterable[Photo]] = iter,
) -> dict[int, Look]:
    """Finds enrolled faces in their files again, by the photo's id; a file without the face is passed over.

    Args:
        gallery: who is enrolled.
        recognizer: the model that the gallery was made with.
        files: where photos lie, by person's name and the file's name.
        progress: wraps the photos.
    """
    photos, rows = gallery.contents()
    row_of = {photo.id: row for photo, row in zip(photos, rows, strict=True)}
    looks = {}
    for photo in progress([photo for photo in photos if (photo.name, photo.source) in files]):
        try:
            pixels = open_photo(files[photo.name, photo.source])
            faces = find_faces(pixels, recognizer.detector)[0]
            if faces:
                scores = recognizer.embed(pixels, faces) @ row_of[photo.id]
                crop = face_crop(pixels, faces[int(scores.argmax())])
                if scores.max() >= recognizer.threshold(ENROLMENT_FAR).value:
                    looks[photo.id] = Look(brightness(crop), crop)
        except ImageError:
            continue
    return looks
