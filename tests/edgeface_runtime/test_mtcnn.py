"""MTCNN against facenet-pytorch's, on AT&T faces from a wheel and on the photo folder where there is one."""

import dataclasses
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime.detection.find import load_detector
from edgeface_runtime.detection.mtcnn import Mtcnn
from edgeface_runtime.errors import ImageError, UsageError
from edgeface_runtime.faces import Face

Oracle = Callable[[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]


@pytest.fixture(scope="module")
def att(att: list[np.ndarray]) -> list[np.ndarray]:
    """Twenty of the forty people, with a margin of 30 pixels."""
    return [np.pad(photo, ((30, 30), (30, 30), (0, 0)), "edge") for photo in att[:20]]


@pytest.fixture(scope="module", params=["onnxruntime", "litert"])
def mtcnn(request: pytest.FixtureRequest) -> Mtcnn:
    detector = load_detector("mtcnn", engine=request.param)
    assert isinstance(detector, Mtcnn)
    return detector


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    """facenet-pytorch's detector: boxes and landmarks."""
    if importlib.util.find_spec("facenet_pytorch") is None:
        pytest.skip("needs facenet-pytorch: pip install --no-deps facenet-pytorch==2.6.0 torchvision")
    from edgeface_export.torchvision_repair import repair

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old package about itself
        repair()
        from facenet_pytorch import MTCNN

        theirs = MTCNN(keep_all=True)

    def detect(image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        boxes, _, points = theirs.detect(image, landmarks=True)
        return [] if boxes is None else list(zip(boxes, points, strict=True))

    return detect


def differing(ours: list[Face], theirs: list[tuple[Any, Any]], apart: float = 1.0) -> int:
    """Faces on either side that have no partner within ``apart`` pixels in every number."""
    lone = list(ours)
    missed = 0
    for box, points in theirs:
        near = [f for f in lone if max(np.abs(f.box - box).max(), np.abs(f.landmarks - points).max()) <= apart]
        if near:
            lone.remove(near[0])
        else:
            missed += 1
    return max(missed, len(lone))


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def some(folder: Path, pattern: str, count: int) -> list[Path]:
    paths = sorted(folder.glob(pattern))
    return paths[:: max(1, len(paths) // count)][:count]


def test_att_faces_as_facenet_pytorch_finds_them(mtcnn: Mtcnn, oracle: Oracle, att: list[np.ndarray]) -> None:
    pairs = [(mtcnn.detect(photo), oracle(photo)) for photo in att]
    assert sum(len(theirs) for _, theirs in pairs) >= 20
    assert sum(differing(*pair) for pair in pairs) == 0


def test_photos_as_facenet_pytorch_sees_them(mtcnn: Mtcnn, oracle: Oracle, shared: Path) -> None:
    paths = [*some(shared / "data/lfw/images", "*.jpg", 14), *some(shared / "data/pins", "*/*.jpg", 4)]
    paths += [shared / "data/testpics" / name for name in ("astronaut.png", "multiface.jpg")]
    pairs = [(mtcnn.detect(image), oracle(image)) for image in map(read, paths)]
    assert sum(len(theirs) for _, theirs in pairs) >= 20
    assert sum(differing(*pair) for pair in pairs) == 0


@pytest.mark.slow
def test_five_hundred_photos_as_facenet_pytorch_sees_them(mtcnn: Mtcnn, oracle: Oracle, shared: Path) -> None:
    paths = [*some(shared / "data/lfw/images", "*.jpg", 300), *some(shared / "data/pins", "*/*.jpg", 200)]
    paths += [path for path in some(shared / "data/testpics", "*.*", 20) if path.suffix in (".jpg", ".png")]
    pairs = [(mtcnn.detect(image), oracle(image)) for image in map(read, paths)]
    faces = sum(len(theirs) for _, theirs in pairs)
    assert faces >= 500
    assert sum(differing(*pair) for pair in pairs) <= 0.01 * faces


def test_one_upright_face_in_each_att_photo(mtcnn: Mtcnn, att: list[np.ndarray]) -> None:
    for photo in att:
        faces = mtcnn.detect(photo)
        assert len(faces) == 1
        (left, right, nose, mouth_left, mouth_right), box = faces[0].landmarks, faces[0].box
        assert box[0] < left[0] < nose[0] < right[0] < box[2]
        assert box[1] < left[1] < nose[1] < mouth_left[1] < box[3]
        assert mouth_left[0] < mouth_right[0]
        assert 0.7 < faces[0].score <= 1


def test_best_face_comes_first(mtcnn: Mtcnn, att: list[np.ndarray]) -> None:
    row = np.concatenate(att[:4], axis=1)
    scores = [face.score for face in mtcnn.detect(row)]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)


def test_min_face_leaves_out_smaller_ones(mtcnn: Mtcnn, att: list[np.ndarray]) -> None:
    large = np.repeat(np.repeat(att[0], 3, axis=0), 3, axis=1)
    scene = np.full((520, 700, 3), 128, np.uint8)
    scene[: large.shape[0], : large.shape[1]] = large
    scene[:57, -50:] = np.asarray(Image.fromarray(att[1]).resize((50, 57)))
    assert len(mtcnn.detect(scene)) == 2
    assert len(dataclasses.replace(mtcnn, min_face=150).detect(scene)) == 1


@pytest.mark.parametrize("shape", [(1, 1), (19, 19), (20, 20), (21, 300), (1, 3000), (64, 64)])
def test_small_and_empty_photos_have_no_face(mtcnn: Mtcnn, shape: tuple[int, int]) -> None:
    assert mtcnn.detect(np.full((*shape, 3), 200, np.uint8)) == []


@pytest.mark.parametrize("image", [np.zeros((50, 50), np.uint8), np.zeros((50, 50, 3), float), None])
def test_what_is_no_photo(mtcnn: Mtcnn, image: Any) -> None:
    with pytest.raises(ImageError, match="a photo must be"):
        mtcnn.detect(image)


@pytest.mark.parametrize(
    "change",
    [{"min_face": 5}, {"factor": 1.0}, {"factor": 0.0}, {"thresholds": (0.5, 1.0, 0.5)}],
    ids=lambda change: next(iter(change)),
)
def test_settings_out_of_range(mtcnn: Mtcnn, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        dataclasses.replace(mtcnn, **change)
