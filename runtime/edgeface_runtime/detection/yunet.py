"""YuNet, a detector that users bring as a file of their own: OpenCV Zoo's ``face_detection_yunet`` in ONNX.

Wu, Peng, Yu: "YuNet: A Tiny Millisecond-level Face Detector", 2023. Decoded as OpenCV's FaceDetectorYN does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime.detection.boxes import suppress
from edgeface_runtime.detection.pixels import require_rgb
from edgeface_runtime.engines import Engine
from edgeface_runtime.errors import ModelError, UsageError
from edgeface_runtime.faces import Face
from edgeface_runtime.images import Pixels

_PIECE = 1 << 20  # pixels that Pillow gets at once
_STRIDES = (8, 16, 32)
_OUTPUTS = 4 * len(_STRIDES)


@dataclass(frozen=True, kw_only=True, eq=False)
class Yunet:
    """Takes BGR, 0 to 255, without normalisation."""

    net: Engine
    """(1, 3, H, W) float32 → cls, obj, bbox, kps, each for strides 8, 16, 32."""
    threshold: float = 0.6
    """Least confidence of a face, 0 to 1."""
    overlap: float = 0.3
    """Of two boxes that share more than this part of their union, the better one stays."""
    longest: int | None = 640
    """The photo's longer side is brought to this many pixels first; None leaves the photo as it is."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise UsageError(f"threshold is {self.threshold}; it must lie between 0 and 1")
        if len(self.net.input_shape) != 4 or self.net.input_shape[1] != 3:
            raise ModelError(f"a YuNet file takes (1, 3, H, W); this one takes {self.net.input_shape}")

    def detect(self, image: Pixels) -> list[Face]:
        """Faces in one (H, W, 3) uint8 RGB photo, the most confident first.

        Raises:
            ImageError: ``image`` has another shape or dtype.
            ModelError: the file's outputs are not YuNet's.
        """
        require_rgb(image)
        height, width = image.shape[:2]
        scale = self._scale(height, width)
        wide, high = max(1, round(width * scale)), max(1, round(height * scale))
        shown = image[:, :] if scale == 1 else _scaled(image, wide, high)
        padded = np.zeros((1, 3, self._side(2, high), self._side(3, wide)), np.float32)
        padded[0, :, :high, :wide] = shown[..., ::-1].transpose(2, 0, 1)
        outputs = self.net.run(padded)
        if len(outputs) != _OUTPUTS:
            raise ModelError(f"a YuNet file has {_OUTPUTS} outputs; this one has {len(outputs)}")
        columns = padded.shape[3]
        levels = [_decode(outputs[i::3], stride, columns // stride) for i, stride in enumerate(_STRIDES)]
        scores, boxes, points = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        passed = scores >= self.threshold
        scores, boxes, points = scores[passed], boxes[passed], points[passed]
        back = np.array([width / wide, height / high], np.float32)
        return [
            Face(boxes[i] * np.tile(back, 2), float(scores[i]), points[i] * back)
            for i in suppress(boxes, scores, self.overlap)
        ]

    def _scale(self, height: int, width: int) -> float:
        fixed = [(have, want) for have, want in zip((height, width), self.net.input_shape[2:], strict=True) if want]
        if fixed:
            return min(want / have for have, want in fixed)
        return self.longest / max(height, width) if self.longest else 1.0

    def _side(self, axis: int, pixels: int) -> int:
        return self.net.input_shape[axis] or -(-pixels // _STRIDES[-1]) * _STRIDES[-1]


def _scaled(image: Pixels, wide: int, high: int) -> NDArray[np.uint8]:
    """``Image.resize``, bilinear: the rows in bands, then the columns, as Pillow does one after the other."""
    height, width = image.shape[:2]
    step = max(1, _PIECE // width)
    bands = (Image.fromarray(image[top : top + step, 0:width]) for top in range(0, height, step))
    narrow = np.concatenate([np.asarray(band.resize((wide, band.height), Image.Resampling.BILINEAR)) for band in bands])
    return np.asarray(Image.fromarray(narrow).resize((wide, high), Image.Resampling.BILINEAR))


def _decode(
    outputs: list[NDArray[np.float32]], stride: int, columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Scores (N,), boxes (N, 4) and points (N, 5, 2) of one stride's grid, in pixels of the net's input."""
    kind, face, offsets, points = (output[0] for output in outputs)
    cells = np.arange(len(kind))
    corner = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
    scores = np.sqrt(np.clip(kind[:, 0], 0, 1) * np.clip(face[:, 0], 0, 1))
    centre, half = (corner + offsets[:, :2]) * stride, np.exp(offsets[:, 2:]) * (stride / 2)
    landmarks = (points.reshape(-1, 5, 2) + corner[:, None]) * stride
    return scores, np.concatenate([centre - half, centre + half], axis=1), landmarks
