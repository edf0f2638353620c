"""Finds the faces of a photo that may be cut tightly around one, and chooses whom it is about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.faces import Detector, Face
from edgeface_runtime.fast import Fast

MARGINS = (0.0, 0.3, 0.6)
"""Black borders, as parts of the longer side, that are put around the photo in turn."""

GRID = 16
"""Landmarks lie on multiples of 1/GRID pixel.

Engines give the same landmarks to about 1e-4 px, which is enough to turn single bytes of the crop, and one byte moves
an int8 embedding by a cosine of 0.001; on a grid the crops of all engines are nearly always equal.
"""


def find_faces(image: NDArray[np.uint8], detector: Detector) -> tuple[list[Face], float]:
    """Faces in one (H, W, 3) uint8 RGB photo, and the border that it took to see the main one whole.

    MTCNN reads a face that the photo's edge cuts from a distorted window and puts its landmarks
    wrongly; with a border around the photo they are right. So the photo is looked at again with a
    border while no face is found or the main face's box reaches outside. ``Fast`` looks past the
    edge by itself and needs the border only where it finds nothing.

    Returns:
        Faces in pixels of the photo, the most confident first, their landmarks on multiples of 1/16 pixel,
        and the border as a part of the longer side.

    Raises:
        ImageError: ``image`` has another shape or dtype.
    """
    height, width = image.shape[:2]
    best: tuple[list[Face], float] = ([], 0.0)
    for margin in MARGINS:
        border = round(margin * max(height, width))
        framed = np.pad(image, ((border, border), (border, border), (0, 0))) if border else image
        shift = np.float32(border)
        faces = [
            Face(face.box - shift, face.score, np.floor((face.landmarks - shift) * GRID + np.float32(0.5)) / GRID)
            for face in detector.detect(framed)
        ]
        if not faces:
            continue
        best = faces, margin
        # With a border nothing is cut any more; a box that still reaches out does so rightly.
        if border or isinstance(detector, Fast) or _inside(most_central(faces, height, width), height, width):
            break
    return best


def most_central(faces: list[Face], height: int, width: int) -> Face:
    """The face with the largest area less twice its squared distance from the photo's centre."""

    def rank(face: Face) -> float:
        x0, y0, x1, y1 = map(float, face.box)
        return (x1 - x0) * (y1 - y0) - 2 * (((x0 + x1 - width) / 2) ** 2 + ((y0 + y1 - height) / 2) ** 2)

    return max(faces, key=rank)


def _inside(face: Face, height: int, width: int) -> bool:
    x0, y0, x1, y1 = map(float, face.box)
    return x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
