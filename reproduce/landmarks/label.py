"""Labels photos for the landmark net: what O-Net says of each face in 80 jittered and mirrored looks.

    python -m reproduce.landmarks.label YUNET.onnx PHOTOS... -o runs/landmarks/data.npz [--limit 12000]

PHOTOS are folders. YuNet proposes; each proposal's surroundings are kept as SIDE pixels of WIDE times the box. A face
is kept where the looks agree; what nearly all refuse is kept as a negative, and so are places beside the faces and
what YuNet takes for faces in scenes of shuffled tiles, where there is none.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface_runtime.detection.boxes import overlap, read_onet, square
from edgeface_runtime.detection.find import NETS, load_detector
from edgeface_runtime.detection.pixels import area_crops, running_sums
from edgeface_runtime.detection.yunet import Yunet
from edgeface_runtime.engines import Engine, open_engine
from edgeface_runtime.errors import ImageError
from edgeface_runtime.images import SUFFIXES, open_rgb

SIDE, WIDE = 128, 2.2
"""A crop's pixels a side, and its side in longer sides of the proposal."""
MIRRORED = [1, 0, 2, 4, 3]
_FACE, _NO_FACE = 0.9, 0.1
_SPREAD = 0.03  # of the face's side: the median look may be off by this much from the middle


def surroundings(photo: NDArray[np.uint8], box: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(SIDE, SIDE, 3) about a box, grey beyond the photo, and the box in it."""
    centre, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * WIDE
    corner = np.floor(centre - side / 2).astype(int)
    reach = max(8, round(side))
    start, end = np.clip(corner, 0, photo.shape[1::-1]), np.clip(corner + reach, 0, photo.shape[1::-1])
    canvas = np.full((reach, reach, 3), 128, np.uint8)
    x, y = start - corner
    part = photo[start[1] : end[1], start[0] : end[0]]
    canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
    scale = SIDE / reach
    small = Image.fromarray(canvas).resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3)
    return np.asarray(small), np.asarray((box - np.tile(corner, 2)) * scale, np.float32)


def consensus(
    onet: Engine, crop: NDArray[np.uint8], box: NDArray[np.float32], looks: int, rng: np.random.Generator
) -> tuple[float, NDArray[np.float32], float]:
    """Mean confidence of so many looks, (5, 2) median points, and the median look's distance in parts of the side."""
    sums = [running_sums(crop), running_sums(np.ascontiguousarray(crop[:, ::-1]))]

    def look(squares: NDArray[np.float32], flipped: bool) -> tuple[NDArray[np.float32], ...]:
        cells = np.clip(np.rint(squares).astype(np.intp) - np.array([1, 1, 0, 0]), 0, SIDE)
        cells[:, 2:] = np.maximum(cells[:, 2:], 1)
        cells[:, :2] = np.minimum(cells[:, :2], cells[:, 2:] - 1)
        return read_onet(onet.run(area_crops(sums[flipped], cells, 48))[0], squares)

    start = square(box[None])
    _, moved, _ = look(start, False)
    moved = square(moved)
    side, centre = float(moved[0, 2] - moved[0, 0]), (moved[0, :2] + moved[0, 2:]) / 2
    half = side / 2 * rng.uniform(0.88, 1.14, (looks // 2, 1))
    places = centre + side * rng.uniform(-0.09, 0.09, (looks // 2, 2))
    squares = np.concatenate([places - half, places + half], axis=1).astype(np.float32)
    scores, _, points = look(squares, False)
    mirrored = squares[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array(
        [SIDE, 0, SIDE, 0], np.float32
    )
    more, _, other = look(mirrored.astype(np.float32), True)
    other = np.stack([SIDE - other[..., 0], other[..., 1]], axis=-1)[:, MIRRORED]
    every = np.concatenate([points, other])
    middle = np.median(every, axis=0)
    apart = np.median(np.linalg.norm(every - middle, axis=2).mean(axis=1)) / side
    return float(np.concatenate([scores, more]).mean()), middle.astype(np.float32), float(apart)


def tiles(photos: list[NDArray[np.uint8]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(480, 640, 3): photos of faces cut into tiles and shuffled, so that their textures are there and no face is."""
    scene = Image.fromarray(rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    for _ in range(14):
        photo, side = photos[int(rng.integers(len(photos)))], int(rng.integers(8, 20))
        high, wide = (length // side for length in photo.shape[:2])
        parts = photo[: high * side, : wide * side].reshape(high, side, wide, side, 3).swapaxes(1, 2)
        mixed = rng.permutation(parts.reshape(-1, side, side, 3)).reshape(high, wide, side, side, 3).swapaxes(1, 2)
        patch = Image.fromarray(np.ascontiguousarray(mixed.reshape(high * side, wide * side, 3)))
        scale = float(rng.uniform(0.4, 2.2))
        patch = patch.resize((max(1, round(patch.width * scale)), max(1, round(patch.height * scale))))
        scene.paste(patch, (int(rng.integers(-60, 600)), int(rng.integers(-60, 440))))
    return np.asarray(scene)


def main() -> None:
    """Writes crops (N, SIDE, SIDE, 3), boxes (N, 4), points (N, 5, 2; NaN where no face) and confidences (N,)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yunet")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=12000, help="photos, chosen by chance")
    parser.add_argument("--scenes", type=int, default=400, help="without a face, of shuffled tiles")
    parser.add_argument("--looks", type=int, default=80, help="at each face; half of them mirrored")
    arguments = parser.parse_args()
    detector, onet = load_detector(arguments.yunet), open_engine(NETS / "onet.onnx")
    assert isinstance(detector, Yunet)
    detector = replace(detector, threshold=0.15, longest=480)
    files = [
        file for folder in arguments.photos for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES
    ]
    random.Random(0).shuffle(files)
    rng = np.random.default_rng(0)
    kept: list[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], float]] = []
    seen: list[NDArray[np.uint8]] = []
    nowhere = np.full((5, 2), np.nan, np.float32)
    for file in files[: arguments.limit]:
        try:
            photo = open_rgb(file)
        except ImageError:
            continue
        found = detector.detect(photo)
        for face in found:
            if (face.box[2:] - face.box[:2]).max() < 24:
                continue
            crop, box = surroundings(photo, face.box)
            score, points, apart = consensus(onet, crop, box, arguments.looks, rng)
            if score > _FACE and apart < _SPREAD and face.score > 0.5:
                kept.append((crop, box, points, score))
            elif score < _NO_FACE:
                kept.append((crop, box, nowhere, score))
        boxes = np.array([face.box for face in found], np.float32).reshape(-1, 4)
        if rng.random() < 0.5:
            side = rng.uniform(0.08, 0.5) * min(photo.shape[:2])
            corner = rng.uniform(0, 1, 2) * (np.array(photo.shape[1::-1]) - side)
            place = np.concatenate([corner, corner + side]).astype(np.float32)
            if not len(boxes) or overlap(place[None], boxes, smaller=True).max() < 0.15:
                crop, box = surroundings(photo, place)
                if consensus(onet, crop, box, arguments.looks, rng)[0] < _NO_FACE:
                    kept.append((crop, box, nowhere, 0.0))
        if max(photo.shape[:2]) <= 400 and len(seen) < 1000:
            seen.append(photo)
    for _ in range(arguments.scenes if seen else 0):
        photo = tiles(seen, rng)
        found = [face for face in detector.detect(photo) if (face.box[2:] - face.box[:2]).max() >= 12]
        kept += [(*surroundings(photo, found[i].box), nowhere, 0.0) for i in rng.permutation(len(found))[:16]]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    crops, places, points, scores = (np.array(part) for part in zip(*kept, strict=True))
    np.savez(arguments.output, crops=crops, boxes=places, points=points, scores=scores.astype(np.float32))
    faces = np.isfinite(points[:, 0, 0]).sum()
    print(f"{faces} faces and {len(points) - faces} negatives of {min(len(files), arguments.limit)} photos")


if __name__ == "__main__":
    main()
