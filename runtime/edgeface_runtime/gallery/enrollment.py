"""Quality checks for enrollment photos: is a photo good enough, does it show whom it is said to show?"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.align import align
from edgeface_runtime.checks import Color, described
from edgeface_runtime.detection.boxes import overlap
from edgeface_runtime.detection.find import find_faces, most_central
from edgeface_runtime.errors import ImageError, NoFaceError, UsageError
from edgeface_runtime.faces import Face
from edgeface_runtime.gallery.linkage import alike, enough
from edgeface_runtime.images import ImageLike, called, open_photo
from edgeface_runtime.model import unit_rows
from edgeface_runtime.protocols import FaceEncoder
from edgeface_runtime.quality import brightness, face_crop, face_size, pose, sharpness
from edgeface_runtime.thresholds import told_apart

MIN_SHARPNESS = 73.0
"""Of ``sharpness``: 99.5 % of AT&T, LFW and Pins are above; blurred by 3 pixels, with noise of 8 levels, 2 %."""
MIN_BRIGHTNESS = 50.0
"""Of ``brightness``: all of AT&T, LFW and Pins are above; with two fifths of their light 98 %, with a fifth 1 %."""
MIN_SIZE = 40.0
"""Pixels."""
MAX_YAW, MAX_PITCH = 45.0, 40.0
"""Degrees to either side."""
ENROLMENT_FAR = 1e-2
_REMEDY = "a larger far (--far), a threshold (--threshold) or a smaller gallery (docs/thresholds.md)"
EXTRAPOLATED = (
    "extrapolated, as the model was measured at larger rates only: a larger far (--far) is surer, or a model with "
    "thresholds from more people (export --threshold-data; docs/thresholds.md)"
)
_COPY = 0.99  # where the contract has no thresholds, only a copy of somebody's photo is surely that person
_SAME_BOX = 0.3  # intersection over union; as between the frames of a stream
_LONGEST_NAME = 200


class Boxed(Protocol):
    """Anything with a face's place: an ``Identity`` of ``identify``, a ``Person`` of ``watch``."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in pixels of the photo."""
        ...


WhichFace = str | Sequence[float] | Face | Boxed
"""One face of several: the largest, the one at a point (x, y) or in a box (x0, y0, x1, y1), or one that was found."""


@dataclass(frozen=True)
class Photo:
    """One enrolled photo, of which only the embedding is kept."""

    id: int
    name: str
    """Who it shows."""
    source: str
    """Name of the file, without its folder; empty where there was none."""
    added: str
    """When, in UTC, ISO 8601."""
    sharpness: float
    """Fine detail for coarse detail, in percent; below 73 is blurred."""
    size: float
    """Of the face, pixels."""
    yaw: float
    """Degrees."""
    pitch: float
    """Degrees."""
    new: bool = field(default=False, compare=False)
    """True where the call that returned it added it; False where it was in the gallery before."""
    notice: str = field(default="", compare=False)
    """What holds "from now on" for the whole gallery, with this photo in it; empty where nothing changes."""


@dataclass(frozen=True)
class Refusal:
    """A photo that was not enrolled."""

    name: str
    """Whom it was said to show."""
    photo: str
    reason: str


@dataclass(frozen=True)
class Enrollment:
    """What became of several photos, each list in the order in which they were given."""

    photos: list[Photo]
    """Those that are in the gallery now; ``new`` tells which were added."""
    refused: list[Refusal]
    notice: str = ""
    """What holds "from now on" for the whole gallery, with these photos in it; empty where nothing changes."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo as it may be enrolled."""

    called: str
    """What an error calls the photo."""
    source: str
    """Name of the file, without its folder; empty where there was none."""
    embedding: NDArray[np.float32]
    """(D,), of length 1: the direction of the sum of the face's embedding and its mirror image's."""
    alone: NDArray[np.float32]
    """(D,), of length 1: the face's, without its mirror image."""
    sharpness: float
    size: float
    """Of the face, pixels."""
    yaw: float
    """Degrees."""
    pitch: float
    """Degrees."""
    concerns: tuple[str, ...]
    """Why the photo should not be enrolled; empty where it is good."""


def examine(
    recognizer: FaceEncoder, photo: ImageLike, which: WhichFace | None = None, *, color: Color = "rgb"
) -> Sample:
    """Embeds one face of a photo and its mirror image, and looks at its quality.

    Of 105 people of Pins with one enrolled photo each, 92.1 % of the other photos are nearest to their own person so,
    91.7 % without the mirror image; searching costs the same.

    Args:
        recognizer: finds and embeds faces.
        photo: an image.
        which: the face; where None the largest central one, and that there are others is a concern.
        color: the order of an array's channels, ``"rgb"`` or ``"bgr"``.

    Raises:
        ImageError: the photo cannot be read, or shows no face there.
        NoFaceError: it shows no face.
        UsageError: ``which`` is none of what it may be.
    """
    pixels = open_photo(photo, color=color)
    if isinstance(which, Face):
        faces, face = [which], which
    else:
        faces = find_faces(pixels, recognizer.detector)[0]
        if not faces:
            raise NoFaceError(f"{called(photo)}: no face found")
        face = most_central(faces, *pixels.shape[:2]) if which is None else _chosen(faces, which, called(photo))
    crop, aligned = face_crop(pixels, face), align(pixels, face.landmarks, recognizer.model.contract.input.size)
    rows = recognizer.embed(np.stack([aligned, aligned[:, ::-1]]))
    sharp, bright, size, turn = sharpness(crop), brightness(crop), face_size(face), pose(face.landmarks)
    places = f"{len(faces)} faces, at {_places(faces)}: say which one (face=, --face)"
    checks: tuple[tuple[bool, str, float, float], ...] = (
        (which is None and len(faces) > 1, places, len(faces), 1),
        (bright < MIN_BRIGHTNESS, "dark (brightness {}, at least {})", bright, MIN_BRIGHTNESS),
        (sharp < MIN_SHARPNESS, "blurred (sharpness {}, at least {})", sharp, MIN_SHARPNESS),
        (size < MIN_SIZE, "the face is small ({} pixels, at least {})", size, MIN_SIZE),
        (abs(turn.yaw) > MAX_YAW, "turned aside (yaw {} degrees, at most {})", abs(turn.yaw), MAX_YAW),
        (abs(turn.pitch) > MAX_PITCH, "turned up or down (pitch {} degrees, at most {})", abs(turn.pitch), MAX_PITCH),
    )
    return Sample(
        called(photo),
        stored_name(photo) if isinstance(photo, (str, os.PathLike)) else "",
        unit_rows(rows.sum(axis=0, keepdims=True))[0],
        rows[0],
        sharp,
        size,
        turn.yaw,
        turn.pitch,
        tuple(text.format(*told_apart(value, limit, 0)) for applies, text, value, limit in checks if applies),
    )


def stored_name(photo: str | os.PathLike[str]) -> str:
    """What a gallery keeps of a photo's path: the file's name, in the one form in which it is stored."""
    return unicodedata.normalize("NFC", called(Path(photo).name))


def disagreements(recognizer: FaceEncoder, name: str, best: dict[str, float], comparisons: int) -> tuple[str, ...]:
    """Why a photo may not show whom it is said to show.

    Args:
        recognizer: knows the thresholds.
        name: who it is said to show.
        best: of each person, the photo's best score, −1 to 1.
        comparisons: number of photos behind ``best``.
    """
    own = best.get(name)
    other, score = max(((who, value) for who, value in best.items() if who != name), key=_score, default=("", -1.0))
    concerns = []
    if own is not None and own < (limit := _least_score(recognizer)):
        concerns.append("not like the other photos of {} (score {}, at least {})".format(name, *told_apart(own, limit)))
    if other and own is not None and score > own:
        concerns.append("looks like {} (score {}; {} to {})".format(other, *told_apart(score, own), name))
    elif other and own is None and score >= _threshold(recognizer, _COPY, comparisons):
        concerns.append(f"looks like {other} (score {score:.2f})")
    return tuple(concerns)


def from_now_on(recognizer: FaceEncoder, before: int, after: int) -> str:
    """What changes for ``identify`` at its default rate as a gallery grows; empty where nothing does.

    Args:
        recognizer: knows the thresholds.
        before: number of photos in the gallery, until now.
        after: number of photos in it from now on.
    """

    def basis(photos: int) -> str:
        try:
            at = recognizer.threshold(ENROLMENT_FAR, photos)
        except UsageError:
            return f"the model states no threshold for an FPIR of {ENROLMENT_FAR:g}: identify needs {_REMEDY}"
        return f"the threshold for an FPIR of {ENROLMENT_FAR:g} is {EXTRAPOLATED}" if at.extrapolated else ""

    found = basis(after)
    return f"from now on, with {after:,} photos, {found}" if after > before and found != basis(before) and found else ""


def examine_all(
    recognizer: FaceEncoder, photos: Sequence[ImageLike], which: str | None, color: Color
) -> tuple[dict[int, Sample], dict[int, str]]:
    """Examines photos; by index, those that show a face, and why the others cannot be used."""
    samples, reasons = {}, {}
    for i, photo in enumerate(photos):
        try:
            samples[i] = examine(recognizer, photo, which, color=color)
        except ImageError as error:
            reasons[i] = str(error)
    return samples, reasons


def in_turn(
    recognizer: FaceEncoder, name: str, samples: dict[int, Sample], known: NDArray[np.float32]
) -> tuple[list[int], dict[int, str]]:
    """Which of the photos that are said to show one person are to be enrolled, and in which order.

    Those of the largest group of good photos that are alike, or of the photos that are like the known ones. Who is on
    average not like the others of the group is left out: by chance a stranger may be like one of them. Where several
    groups are the largest, nothing tells whose face is meant, and all good photos are left out.

    Args:
        recognizer: knows from which score on two photos are alike.
        name: who they are said to show.
        samples: the photos by their index.
        known: (M, D) unit embeddings of the person's photos in the gallery.

    Returns:
        The indices in order, each photo the one that is most like one of those before, those with concerns last; and
        why each of the others is left out.
    """
    good = [i for i, sample in samples.items() if not sample.concerns]
    if not good:
        return list(samples), {}
    count, least = len(known), _least_score(recognizer)
    rows = np.concatenate([known, np.stack([samples[i].embedding for i in good])])
    scores = rows @ rows.T
    groups = alike(scores, count, least)
    sizes = np.bincount(groups)[groups]
    kept = groups == 0 if count else sizes == sizes.max()
    if len(np.unique(groups[kept])) > 1:
        why = f"the {len(good)} photos do not show one person: enroll first those that surely show {name}"
        return [i for i in samples if i not in good], {i: refusal(samples[i].called, name, (why,)) for i in good}
    missed: dict[int, tuple[float, float]] = {}
    for group in np.unique(groups[~kept]):
        part, rest = np.flatnonzero(groups == group), np.flatnonzero(kept)
        told = float(scores[np.ix_(part, rest)].mean()), enough(scores, part, rest, least)
        missed |= dict.fromkeys(map(int, part), told)
    while kept[count:].sum() > (0 if count else 1):
        others = kept & ~np.eye(len(rows), dtype=bool)
        means = (scores * others).sum(axis=1) / others.sum(axis=1)
        worst = count + int(np.where(kept, means, 2)[count:].argmin())
        if means[worst] >= least:
            break
        kept[worst], missed[worst] = False, (float(means[worst]), least)
    left = {}
    for place, (mean, bound) in missed.items():
        i = good[place - count]
        why = "not like the other photos of {} (mean score {}, at least {})".format(name, *told_apart(mean, bound))
        left[i] = refusal(samples[i].called, name, (why,))
    order: list[int] = []
    near = scores[:, :count].max(axis=1) if count else np.where(kept, scores.mean(axis=1, where=kept), -2)
    kept[:count] = False
    while kept.any():
        place = int(np.where(kept, near, -3).argmax())
        near = np.maximum(near, scores[place]) if order or count else scores[place]
        kept[place] = False
        order.append(good[place - count])
    return [*order, *(i for i in samples if samples[i].concerns)], left


def refusal(photo: str, name: str, concerns: Sequence[str]) -> str:
    """One line that says why a photo is not enrolled."""
    return f"{photo}: not enrolled as {name}: {'; '.join(concerns)}; force (--force) takes it"


def checked_name(name: str) -> str:
    """A person's name in the one form in which it is stored.

    Raises:
        UsageError: it is empty, too long, or holds what cannot be printed.
    """
    if not isinstance(name, str):
        raise UsageError(f"a person's name is text, not {described(name)}")
    name = unicodedata.normalize("NFC", name).strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(f"a person's name is 1 to {_LONGEST_NAME} printable characters, not {name[:50]!r}")
    return name


def _chosen(faces: list[Face], which: str | Sequence[float] | Boxed, photo: str) -> Face:
    if isinstance(which, str):
        if which != "largest":
            raise UsageError(f"no face {which!r}: 'largest', a point (x, y), a box (x0, y0, x1, y1), or a found face")
        return max(faces, key=face_size)
    place = getattr(which, "box", which)
    try:
        wanted = np.asarray(place, np.float32)
    except (TypeError, ValueError):
        wanted = np.empty(0, np.float32)
    if wanted.shape not in ((2,), (4,)) or not np.isfinite(wanted).all():
        raise UsageError(f"no face {place!r}: 'largest', a point (x, y), a box (x0, y0, x1, y1), or a found face")
    boxes = np.stack([face.box for face in faces])
    if len(wanted) == 4:
        fit = overlap(wanted[None], boxes)[0]
        if fit.max() >= _SAME_BOX:
            return faces[int(fit.argmax())]
    else:
        inside = ((boxes[:, :2] <= wanted) & (wanted <= boxes[:, 2:])).all(axis=1)
        if inside.any():
            away = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - wanted).sum(axis=1)
            return faces[int(np.where(inside, away, np.inf).argmin())]
    spot = ",".join(f"{number:.0f}" for number in wanted)
    raise ImageError(f"{photo}: no face at {spot}; its faces are at {_places(faces)}")


def _places(faces: list[Face]) -> str:
    """The middles of the first few faces, as ``--face`` takes them."""
    middles = [f"{(face.box[0] + face.box[2]) / 2:.0f},{(face.box[1] + face.box[3]) / 2:.0f}" for face in faces[:5]]
    return " and ".join(middles) + (" and more" if len(faces) > 5 else "")


def _score(item: tuple[str, float]) -> float:
    return item[1]


def _least_score(recognizer: FaceEncoder) -> float:
    """The cosine from which two photos are taken for those of one person; −1 where the contract has no thresholds."""
    return _threshold(recognizer, -1.0)


def _threshold(recognizer: FaceEncoder, otherwise: float, *comparisons: int) -> float:
    try:
        return recognizer.threshold(ENROLMENT_FAR, *comparisons).value
    except UsageError:
        return otherwise
