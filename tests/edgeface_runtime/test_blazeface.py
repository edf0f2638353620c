"""The device's detector: recall against MTCNN, small faces in wide photos, tiles that leave no gap."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeface_runtime.align import TEMPLATE, similarity
from edgeface_runtime.detection.blazeface import BlazeFace
from edgeface_runtime.detection.find import load_detector
from edgeface_runtime.errors import ImageError, UsageError
from edgeface_runtime.faces import Face

Scene = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def att(att: list[np.ndarray]) -> list[np.ndarray]:
    """Twenty of the forty people."""
    return att[:20]


def opened(engine: str) -> BlazeFace:
    detector = load_detector("blazeface", engine=engine)
    assert isinstance(detector, BlazeFace)
    return detector


@pytest.fixture(scope="module", params=["onnxruntime", "litert"])
def blazeface(request: pytest.FixtureRequest) -> BlazeFace:
    return opened(request.param)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def eyes_apart(face: Face, landmarks: np.ndarray) -> float:
    """Mean distance of the eyes from where they should be, in parts of the eye distance."""
    span = np.linalg.norm(landmarks[1] - landmarks[0])
    return float(np.linalg.norm(face.landmarks[:2] - landmarks[:2], axis=1).mean() / span)


def nearest(faces: list[Face], box: np.ndarray) -> Face:
    return min(faces, key=lambda face: float(np.abs(face.box - box).max()))


def test_one_face_in_each_att_photo(blazeface: BlazeFace, att: list[np.ndarray]) -> None:
    for photo in att:
        faces = blazeface.detect(photo)
        assert len(faces) == 1
        left, right, nose, mouth_left, mouth_right = faces[0].landmarks
        assert left[0] < nose[0] < right[0]
        assert left[1] < nose[1] < mouth_left[1]
        assert mouth_left[0] < mouth_right[0]


def test_both_engines_agree(att: list[np.ndarray]) -> None:
    one, other = opened("onnxruntime"), opened("litert")
    for photo in att[:10]:
        a, b = one.detect(photo), other.detect(photo)
        assert len(a) == len(b) == 1
        assert np.abs(a[0].landmarks - b[0].landmarks).max() < 0.5
        assert abs(a[0].score - b[0].score) < 0.02


def test_landmarks_do_not_lean_to_one_side_of_mtcnns(blazeface: BlazeFace, att: list[np.ndarray]) -> None:
    mtcnn = load_detector("mtcnn")
    leaning = []
    for photo in att:
        wide = np.pad(photo, ((40, 40), (40, 40), (0, 0)), "edge")
        leaning.append((blazeface.detect(wide)[0].landmarks - mtcnn.detect(wide)[0].landmarks).mean(axis=0))
    assert np.abs(np.mean(leaning, axis=0)).max() < 0.75


def test_a_face_is_found_alike_at_every_size(blazeface: BlazeFace, att: list[np.ndarray]) -> None:
    wide = np.pad(att[0], ((40, 40), (40, 40), (0, 0)), "edge")
    reference = blazeface.detect(wide)[0].landmarks
    for times in (2, 3, 5):
        large = np.asarray(Image.fromarray(wide).resize((wide.shape[1] * times, wide.shape[0] * times)))
        found = blazeface.detect(large)[0]
        assert eyes_apart(found, (reference + 0.5) * times - 0.5) < 0.06


@pytest.mark.parametrize(("x", "y"), [(10, 10), (1000, 400), (1815, 950), (700, 0)])
def test_a_small_face_in_a_wide_photo_is_found(
    blazeface: BlazeFace, att: list[np.ndarray], x: int, y: int, scene: Scene
) -> None:
    faces = blazeface.detect(scene(att[1], (1920, 1080), x, y, 75))
    assert len(faces) == 1
    middle = faces[0].landmarks.mean(axis=0)
    assert x < middle[0] < x + 75
    assert y < middle[1] < y + 92


def test_smaller_faces_on_demand(blazeface: BlazeFace, att: list[np.ndarray], scene: Scene) -> None:
    image = scene(att[1], (1280, 960), 600, 500, 36)
    assert len(dataclasses.replace(blazeface, min_face=20).detect(image)) == 1


def test_best_face_comes_first_and_once(blazeface: BlazeFace, att: list[np.ndarray]) -> None:
    scores = [face.score for face in blazeface.detect(np.concatenate(att[:6], axis=1))]
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)


@given(
    width=st.integers(1, 5000), height=st.integers(1, 5000), x=st.floats(0, 1), y=st.floats(0, 1), size=st.floats(0, 1)
)
def test_no_face_falls_between_tiles(width: int, height: int, x: float, y: float, size: float) -> None:
    detector = BlazeFace(near=None, wide=None, onet=None)  # type: ignore[arg-type]  # tiles need no net
    side = detector.min_face + size * max(0, min(width, height) - detector.min_face)
    left, top = x * max(0, width - side), y * max(0, height - side)
    fits = [
        tile
        for tile in detector._tiles((width, height))
        if tile[0] <= left + 1 and tile[1] <= top + 1
        if left + min(side, width) <= tile[0] + tile[2] + 1 and top + min(side, height) <= tile[1] + tile[2] + 1
    ]
    assert min(tile[2] for tile in fits) <= max(16 * 2.1 * side, 16 * detector.min_face)


def test_group_photos_as_mtcnn_sees_them(blazeface: BlazeFace, shared: Path) -> None:
    mtcnn = load_detector("mtcnn")
    for name in ("multiface.jpg", "t1.jpg", "obama_and_biden.jpg"):
        image = read(shared / "data/testpics" / name)
        sure = [face for face in mtcnn.detect(image) if face.score > 0.9]
        ours = blazeface.detect(image)
        assert len(ours) == len(sure)
        assert max(eyes_apart(nearest(ours, face.box), face.landmarks) for face in sure) < 0.2


def test_lfw_faces_as_mtcnn_sees_them(blazeface: BlazeFace, shared: Path) -> None:
    mtcnn = load_detector("mtcnn")
    offsets = []
    for path in sorted((shared / "data/lfw/images").glob("*.jpg"))[::125]:
        image = read(path)
        reference = nearest(mtcnn.detect(image), np.array([44, 44, 132, 132]))
        offsets.append(eyes_apart(nearest(blazeface.detect(image), reference.box), reference.landmarks))
    assert np.median(offsets) < 0.04
    assert np.mean(offsets) < 0.05


@pytest.mark.slow
def test_all_of_lfw_view_1_is_found(blazeface: BlazeFace, shared: Path) -> None:
    missed = 0
    for path in sorted((shared / "data/lfw/images").glob("*.jpg")):
        faces = blazeface.detect(read(path))
        middles = [(face.box[:2] + face.box[2:]) / 2 for face in faces]
        missed += not any(np.abs(middle - 88).max() < 40 for middle in middles)
    assert missed <= 5


def test_tight_crops_are_upright_after_alignment(blazeface: BlazeFace, att: list[np.ndarray]) -> None:
    for photo in att[:10]:
        points = blazeface.detect(photo)[0].landmarks
        matrix = similarity(points)
        assert np.abs(points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE).max() < 12


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2), (19, 19), (300, 200)])
def test_photos_without_a_face(blazeface: BlazeFace, shape: tuple[int, int]) -> None:
    assert blazeface.detect(np.full((*shape, 3), 90, np.uint8)) == []


@pytest.mark.parametrize("image", [np.zeros((50, 50), np.uint8), np.zeros((50, 50, 4), np.uint8), "photo.jpg"])
def test_what_is_no_photo(blazeface: BlazeFace, image: Any) -> None:
    with pytest.raises(ImageError, match="a photo must be"):
        blazeface.detect(image)


@pytest.mark.parametrize("change", [{"min_face": 3}, {"proposal": 0.0}, {"threshold": 1.0}], ids=str)
def test_settings_out_of_range(blazeface: BlazeFace, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        dataclasses.replace(blazeface, **change)
