"""What the steps ask of each other: an app's own class serves wherever it has these methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import Color
from edgeface_runtime.faces import Detector, Face
from edgeface_runtime.gallery.search import Candidate
from edgeface_runtime.images import ImageLike
from edgeface_runtime.model import Model
from edgeface_runtime.thresholds import Threshold


@runtime_checkable
class FaceEncoder(Protocol):
    """Anything that finds and embeds faces as ``FaceRecognizer`` does: what a gallery enrols with."""

    model: Model
    """Whose embeddings they are."""
    detector: Detector

    def embed(
        self, image_or_faces: ImageLike, faces: Sequence[Face] | None = None, *, color: Color = "rgb"
    ) -> NDArray[np.float32]:
        """(N, D) unit embeddings, a row for each face of an image, or for each of (N, size, size, 3) uint8 aligned
        faces: a gallery enrols a face and its mirror image in this way.
        """
        ...

    def threshold(self, far: float, comparisons: int | None = None) -> Threshold:
        """The score from which an impostor is accepted at most at the rate ``far``: the FPIR over a gallery of so many
        photos, or the FMR of a 1:1 comparison where None.

        Raises:
            UsageError: there is no threshold for it.
        """
        ...


@runtime_checkable
class Searchable(Protocol):
    """Anything that knows people by embeddings, as ``Gallery`` does: what ``identify`` and ``watch`` search.

    An app that keeps its people in a store of its own gives it these three methods.
    """

    def __len__(self) -> int:
        """How many embeddings a search compares with; the more, the higher the score that a name takes."""
        ...

    def require(self, model: Model) -> None:
        """Raises GalleryError unless the stored embeddings can be compared with the model's."""
        ...

    def search(self, embeddings: NDArray[np.float32], k: int = 1) -> list[list[Candidate]]:
        """The nearest people of (N, D) unit embeddings: N lists of at most ``k``, the nearest first."""
        ...
