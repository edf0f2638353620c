"""From a photo to a name: finds the faces, embeds them, compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.align import align
from edgeface_runtime.checks import Color, described, number
from edgeface_runtime.detection.find import DETECTORS, ENGINES, find_faces, load_detector, most_central, name_of
from edgeface_runtime.errors import NoFaceError, UsageError
from edgeface_runtime.faces import Detector, Face
from edgeface_runtime.images import ImageLike, Pixels, called, open_photo
from edgeface_runtime.model import Model, both_ways, is_shipped, load
from edgeface_runtime.protocols import Searchable
from edgeface_runtime.thresholds import Threshold, threshold_for

Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the photo; may reach outside it."""


@dataclass(frozen=True)
class Match:
    """Two photos compared."""

    score: float
    """Cosine of the two embeddings, −1 to 1."""
    same: bool
    """True where ``score`` reaches ``threshold``."""
    threshold: float
    far: float | None
    """FMR: share of impostor pairs that ``threshold`` accepts; None where the caller gave the threshold."""
    boxes: tuple[Box, Box]
    """The face of each image that was compared."""
    faces: tuple[int, int]
    """How many faces each image shows."""
    extrapolated: bool = False
    """True where ``threshold`` is estimated: ``far`` is smaller than any rate that the model was measured at."""

    def __bool__(self) -> bool:
        """``same``, so that ``if recognizer.verify(a, b):`` asks what it says."""
        return self.same


@dataclass(frozen=True)
class Identity:
    """One face of a photo and who it is."""

    name: str | None
    """None: nobody of the gallery."""
    score: float | None
    """Cosine to the nearest photo of the gallery, −1 to 1, whoever that is; None where the gallery is empty."""
    box: Box
    """x0, y0, x1, y1 in pixels of the photo; may reach outside it."""
    detection: float
    """The detector's confidence, 0 to 1."""
    threshold: float
    far: float | None
    """FPIR: share of unenrolled people that get a name, over the gallery; None where the caller gave the threshold."""
    extrapolated: bool = False
    """True where ``threshold`` is estimated: for ``far`` over so many photos, the model was not measured far enough."""


class FaceRecognizer:
    """A detector and a model behind one face.

    An image is what ``open_rgb`` takes: a path, a file's bytes, an open file, a Pillow image or an array, whose
    channels are in the order ``color``: OpenCV's are ``"bgr"``. All methods may be called from several threads at
    once; in async code call them with ``asyncio.to_thread``.
    """

    def __init__(
        self,
        model: str | Path | Model | None = None,
        detector: str | Path | Detector | None = None,
        threads: int = 1,
        *,
        min_face: float | None = None,
    ) -> None:
        """Opens both.

        Args:
            model: an exported file, the name of a shipped model, or an opened model. Where None it is the shipped model
                that the first gallery opened with the recognizer belongs to, an older version too, and the default one
                for a new gallery, without one, or once the recognizer has embedded a face or given a threshold.
            detector: ``"yunet"``, ``"blazeface"``, ``"mtcnn"``, the path of a YuNet file, or anything with a
                detector's ``detect``. A named one runs in the model's engine. Where None it is that of the gallery
                that is opened with the recognizer, the last one of several, and ``"yunet"`` without one.
            threads: how many threads one call may use, 1 to 1,024.
            min_face: smallest face that a named detector looks for, in pixels of the photo, at least 12; its own (40,
                for ``"mtcnn"`` 20) where None. Half of it takes up to four times as long.

        Raises:
            ModelError: the model file cannot be opened or trusted.
            UsageError: no such detector, an engine is not installed, or ``min_face`` is below 12 or for a detector
                that is no named one.
        """
        self._load = partial(load, threads=threads)
        self.model = model if isinstance(model, Model) else self._load(model)
        # A file of the default's name in the working folder is the user's choice.
        self._takes_galleries_model = model is None and is_shipped(self.model.path)
        if not (detector is None or isinstance(detector, (str, Path)) or hasattr(detector, "detect")):
            raise UsageError(f"the detector is {described(detector)}; give a name, a file or an object with detect()")
        # One engine for both nets: importing another takes longer than an inference, and memory.
        engine = self.model.engine.name if self.model.engine.name in ENGINES else "auto"
        self._opened = partial(load_detector, threads=threads, engine=engine, min_face=min_face)
        self._is_chosen = detector is not None
        if detector is None or isinstance(detector, (str, Path)):
            detector = self._opened(DETECTORS[0] if detector is None else detector)
        elif min_face is not None:
            raise UsageError("min_face is for a detector that is named; set it in the one that is given")
        self.detector: Detector = detector

    def follow_gallery(self, enrolled_with: str) -> None:
        """Takes the named detector that a gallery's photos were enrolled with, unless one was chosen for this.

        The model stays as it is from now on (``follow_model``).
        """
        self._takes_galleries_model = False
        if not self._is_chosen and enrolled_with in DETECTORS and enrolled_with != name_of(self.detector):
            self.detector = self._opened(enrolled_with)

    def follow_model(self, file: Path) -> bool:
        """Takes the shipped model that a gallery belongs to, where none was chosen and nothing was done with it yet.

        So what one recognizer has embedded is of one model.

        Returns:
            Whether it was taken.
        """
        if self._takes_galleries_model:
            self.model = self._load(file)
        return self._takes_galleries_model

    def faces(self, image: ImageLike, *, color: Color = "rgb") -> list[Face]:
        """The faces of an image, the most confident first; empty where there is none.

        Raises:
            ImageError: the image cannot be read.
        """
        return find_faces(open_photo(image, color=color), self.detector)[0]

    def embed(
        self,
        image_or_faces: ImageLike,
        faces: Sequence[Face] | None = None,
        *,
        color: Color = "rgb",
        mirror: bool = False,
    ) -> NDArray[np.float32]:
        """Unit embeddings, a row for each face.

        Args:
            image_or_faces: an image, or aligned faces (N, size, size, 3) uint8.
            faces: those of the image that are wanted; all that are found in it where None.
            color: the order of an array's channels, ``"rgb"`` or ``"bgr"``.
            mirror: embed each face's mirror image too and give the direction of the sum, which other photos of the
                person score higher with; it takes twice the time. A ``Gallery`` does it for what it keeps; a store of
                your own should, and should search with embeddings of the face alone.

        Returns:
            (N, D) float32.

        Raises:
            ImageError: the image cannot be read, or the aligned faces have another shape or dtype.
            ModelError: the model file does not do what its contract says.
        """
        self._takes_galleries_model = False
        order: Color = "rgb"
        if isinstance(image_or_faces, np.ndarray) and image_or_faces.ndim == 4:
            crops, order = image_or_faces, color
        else:
            photo = open_photo(image_or_faces, color=color)
            size = self.model.contract.input.size
            aligned = [align(photo, face.landmarks, size) for face in self._wanted(photo, faces)]
            crops = np.stack(aligned) if aligned else np.empty((0, size, size, 3), np.uint8)
        embed = partial(self.model.embed, color=order)
        return both_ways(embed, crops) if mirror else embed(crops)

    def threshold(self, far: float, comparisons: int | None = None) -> Threshold:
        """The score from which an impostor is accepted at most at the rate ``far``.

        Args:
            far: the FMR of a 1:1 comparison, or the FPIR over a gallery.
            comparisons: how many photos the gallery holds; None for a 1:1 comparison.

        Raises:
            UsageError: ``far`` is not between 0 and 1, or the model's contract has no threshold for it.
        """
        self._takes_galleries_model = False
        return threshold_for(self.model.contract, far, comparisons)

    def verify(
        self,
        a: ImageLike,
        b: ImageLike,
        far: float = 1e-3,
        *,
        threshold: float | None = None,
        color: Color = "rgb",
    ) -> Match:
        """Whether two images show the same person; of each the largest central face counts.

        Args:
            a: an image.
            b: another.
            far: the FMR, the share of impostor pairs that may be taken for the same person.
            threshold: the score that is enough, in place of ``far``.
            color: the order of the channels of those that are arrays, ``"rgb"`` or ``"bgr"``.

        Raises:
            ImageError: an image cannot be read.
            NoFaceError: an image shows no face.
            UsageError: the model's contract has no threshold for ``far``.
        """
        at = _limit(self.threshold(far) if threshold is None else threshold)
        (row_a, box_a, faces_a), (row_b, box_b, faces_b) = (self._central(image, color) for image in (a, b))
        score, rate = float(row_a @ row_b), far if threshold is None else None
        return Match(score, score >= at.value, at.value, rate, (box_a, box_b), (faces_a, faces_b), at.extrapolated)

    def identify(
        self,
        image: ImageLike,
        gallery: Searchable,
        far: float = 1e-2,
        *,
        threshold: float | None = None,
        faces: Sequence[Face] | None = None,
        color: Color = "rgb",
    ) -> list[Identity]:
        """Who the faces of an image are, the most confident detection first or in the order of ``faces``.

        Args:
            image: the image.
            gallery: the people who are known: a ``Gallery``, or a store of your own with its methods ``search``,
                ``require`` and ``__len__``.
            far: the FPIR, the share of unenrolled people that may get a name, over the whole gallery: the more
                photos it holds, the higher the score that is asked for.
            threshold: the score that is enough, in place of ``far``.
            faces: those of the image that are wanted; all that are found in it where None.
            color: the order of an array's channels, ``"rgb"`` or ``"bgr"``.

        Raises:
            ImageError: the image cannot be read.
            GalleryError: the gallery was made with another model.
            UsageError: the model's contract has no threshold for ``far`` over so many photos.
        """
        if not isinstance(gallery, Searchable):
            raise UsageError(f"the gallery is {described(gallery)}; open one with Gallery(path, recognizer)")
        gallery.require(self.model)
        at = _limit(self.threshold(far, len(gallery)) if threshold is None else threshold)
        photo = open_photo(image, color=color)
        faces = self._wanted(photo, faces)
        if not faces:
            return []
        identities = []
        for face, found in zip(faces, gallery.search(self.embed(photo, faces), 1), strict=True):
            best = found[0] if found else None
            name = best.name if best and best.score >= at.value else None
            score = best.score if best else None
            rate = far if threshold is None else None
            identities.append(Identity(name, score, _box(face), float(face.score), at.value, rate, at.extrapolated))
        return identities

    def _wanted(self, photo: Pixels, faces: Sequence[Face] | None) -> Sequence[Face]:
        """``faces``, or all that are found where None."""
        if faces is None:
            return find_faces(photo, self.detector)[0]
        if not isinstance(faces, Sequence) or not all(isinstance(face, Face) for face in faces):
            raise UsageError(f"faces is {described(faces)}; it must be a list of Face")
        return faces

    def _central(self, image: ImageLike, color: Color) -> tuple[NDArray[np.float32], Box, int]:
        """(D,) embedding of the largest central face, where it is, and how many faces there are."""
        photo = open_photo(image, color=color)
        faces = find_faces(photo, self.detector)[0]
        if not faces:
            raise NoFaceError(f"{called(image)}: no face found")
        face = most_central(faces, *photo.shape[:2])
        return self.embed(photo, [face])[0], _box(face), len(faces)


def _box(face: Face) -> Box:
    x0, y0, x1, y1 = map(float, face.box)
    return x0, y0, x1, y1


def _limit(threshold: Threshold | float) -> Threshold:
    """A threshold of the contract as it is, one that the caller gave as a checked number."""
    if isinstance(threshold, Threshold):
        return threshold
    value = number("threshold", threshold)
    if not -1 <= value <= 1:
        raise UsageError(f"the threshold is {value:g}; a score lies between -1 and 1")
    return Threshold(value)
