"""How good a found face is: sharpness, size and head pose, as numbers that a threshold can be put on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.align import align
from edgeface_runtime.faces import Face

# A mean adult head in eye distances (x to the photo's right, y down, z away from the camera), points
# in the order of Face.landmarks. The nose tip stands out, which is what shows the turn of the head.
_HEAD = np.array(
    [[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.0, 0.05, -0.42], [-0.38, 0.55, -0.05], [0.38, 0.55, -0.05]], np.float64
)
_HEAD_CENTRED = _HEAD - _HEAD.mean(axis=0)


@dataclass(frozen=True)
class Pose:
    """Head pose in degrees, estimated from five points: good to about 10 degrees, enough to sort by."""

    yaw: float
    """Positive where the nose points to the photo's right."""
    pitch: float
    """Positive where the nose points down."""
    roll: float
    """Positive where the head is turned clockwise in the photo."""


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of a (H, W, 3) uint8 RGB crop's luma; low is blurred.

    J. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000, with the
    4-neighbour kernel. Comparable between crops of one size only.
    """
    grey = crop.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var(dtype=np.float64))


def face_sharpness(photo: NDArray[np.uint8], face: Face) -> float:
    """Sharpness of the face itself: its inner part, from brow to chin, in a crop of 112 pixels.

    Beyond its edge the photo goes on as it ends, for the step to black in an aligned crop is sharp in every photo.

    Args:
        photo: (H, W, 3) uint8 RGB.
        face: where it is in the photo.

    Raises:
        ImageError: the landmarks have no upright shape.
    """
    side = face_size(face)
    low = np.floor(face.box[:2] - side / 2).astype(int)
    high = np.ceil(face.box[2:] + side / 2).astype(int)
    columns, rows = (np.clip(np.arange(low[i], high[i]), 0, photo.shape[1 - i] - 1) for i in (0, 1))
    around = np.ascontiguousarray(photo[rows[:, None], columns])
    return sharpness(align(around, face.landmarks - low, 112)[32:104, 24:88])


def face_size(face: Face) -> float:
    """Side in pixels of the square with the area of the face's box."""
    x0, y0, x1, y1 = map(float, face.box)
    return float(np.sqrt(max(0.0, x1 - x0) * max(0.0, y1 - y0)))


def pose(landmarks: NDArray[np.float32]) -> Pose:
    """Yaw, pitch and roll from (5, 2) landmarks.

    Fits the weak-perspective camera that takes a mean head to the points (least squares), makes its
    two rows the nearest orthonormal ones and reads the angles of R = Rz(roll) · Ry(−yaw) · Rx(pitch).
    """
    points = np.asarray(landmarks, np.float64)
    camera = np.linalg.lstsq(_HEAD_CENTRED, points - points.mean(axis=0), rcond=None)[0].T
    left, _, right = np.linalg.svd(camera, full_matrices=False)
    rows = left @ right
    rotation = np.vstack([rows, np.cross(rows[0], rows[1])])
    return Pose(
        yaw=float(np.degrees(np.arcsin(np.clip(rotation[2, 0], -1, 1)))),
        pitch=float(np.degrees(np.arctan2(rotation[2, 1], rotation[2, 2]))),
        roll=float(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))),
    )
