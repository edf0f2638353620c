"""The quickest detector: small and touching faces, engines, tiles, and what the photo's edge or side hides."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from edgeface_runtime.detection.blazeface import BlazeFace
from edgeface_runtime.detection.find import find_faces, load_detector
from edgeface_runtime.detection.mtcnn import Mtcnn
from edgeface_runtime.detection.yunet_onet import YunetOnet
from edgeface_runtime.errors import ImageError, UsageError
from edgeface_runtime.faces import Face

Scene = Callable[..., np.ndarray]


def opened(engine: str) -> YunetOnet:
    detector = load_detector("yunet", engine=engine)
    assert isinstance(detector, YunetOnet)
    return detector


@pytest.fixture(scope="module", params=["onnxruntime", "litert"])
def yunet(request: pytest.FixtureRequest) -> YunetOnet:
    return opened(request.param)


@pytest.fixture(scope="module")
def mtcnn() -> Mtcnn:
    detector = load_detector("mtcnn")
    assert isinstance(detector, Mtcnn)
    return detector


def apart(face: Face, landmarks: np.ndarray) -> float:
    """Mean distance of the points from where they should be, in parts of the eye distance."""
    span = np.linalg.norm(landmarks[1] - landmarks[0])
    return float(np.linalg.norm(face.landmarks - landmarks, axis=1).mean() / span)


def test_one_face_in_each_att_photo(yunet: YunetOnet, att: list[np.ndarray]) -> None:
    for photo in att:
        (face,) = find_faces(photo, yunet)[0]
        assert face.score > yunet.sure
        left, right, nose, mouth_left, mouth_right = face.landmarks
        assert left[0] < nose[0] < right[0]
        assert left[1] < nose[1] < mouth_left[1]
        assert mouth_left[0] < mouth_right[0]


def test_landmarks_are_where_mtcnn_has_them(yunet: YunetOnet, mtcnn: Mtcnn, att: list[np.ndarray]) -> None:
    offsets, leaning = [], []
    for photo in att[:20]:
        wide = np.pad(photo, ((40, 40), (40, 40), (0, 0)), "edge")
        reference, face = mtcnn.detect(wide)[0], yunet.detect(wide)[0]
        offsets.append(apart(face, reference.landmarks))
        leaning.append((face.landmarks - reference.landmarks).mean(axis=0))
    assert np.mean(offsets) < 0.06
    assert np.abs(np.mean(leaning, axis=0)).max() < 0.75


def test_the_mirrored_photo_gives_the_mirrored_face(yunet: YunetOnet, att: list[np.ndarray]) -> None:
    for photo in att[:10]:
        wide = np.pad(photo, ((40, 40), (40, 40), (0, 0)), "edge")
        (one,), (other,) = yunet.detect(wide), yunet.detect(np.ascontiguousarray(wide[:, ::-1]))
        points = other.landmarks[[1, 0, 2, 4, 3]] * [-1, 1] + [wide.shape[1] - 1, 0]
        assert apart(one, points) < 0.06
        assert np.abs(other.box[[2, 1, 0, 3]] * [-1, 1, -1, 1] + [wide.shape[1], 0] * 2 - one.box).max() < 6


def test_both_engines_agree(att: list[np.ndarray]) -> None:
    one, other = opened("onnxruntime"), opened("litert")
    for photo in att[:10]:
        (a,), (b,) = one.detect(photo), other.detect(photo)
        assert np.abs(a.landmarks - b.landmarks).max() < 2
        assert apart(a, b.landmarks) < 0.04
        assert abs(a.score - b.score) < 0.02


@pytest.mark.parametrize(("width", "least"), [(60, 40), (50, 39), (40, 32)])
def test_small_faces_are_found(yunet: YunetOnet, att: list[np.ndarray], width: int, least: int, scene: Scene) -> None:
    rng = np.random.default_rng(width)
    found = 0
    for photo in att:
        x, y = (int(rng.integers(0, end)) for end in (600 - width, 440 - width))
        image = scene(photo, (640, 480), x, y, width)
        middles = [face.landmarks.mean(axis=0) - (x, y) for face in yunet.detect(image)]
        found += any(0 < middle[0] < width and 0 < middle[1] < width * 1.2 for middle in middles)
    assert found >= least


def test_min_face_decides_what_is_looked_for(yunet: YunetOnet, att: list[np.ndarray], scene: Scene) -> None:
    image = scene(att[0], (1280, 960), 600, 500, 36)
    assert dataclasses.replace(yunet, min_face=90).detect(image) == []
    assert len(dataclasses.replace(yunet, min_face=16).detect(image)) == 1


def test_a_face_is_found_alike_at_every_size(yunet: YunetOnet, att: list[np.ndarray]) -> None:
    wide = np.pad(att[0], ((40, 40), (40, 40), (0, 0)), "edge")
    reference = yunet.detect(wide)[0].landmarks
    for times in (2, 3, 5, 12):
        large = np.asarray(Image.fromarray(wide).resize((wide.shape[1] * times, wide.shape[0] * times)))
        (found,) = yunet.detect(large)
        assert apart(found, (reference + 0.5) * times - 0.5) < 0.06


@pytest.mark.parametrize(("x", "y", "side"), [(10, 10, 66), (1860, 60, 66), (3900, 2890, 66), (900, 700, 1700)])
def test_faces_of_all_sizes_in_a_large_photo(
    yunet: YunetOnet, att: list[np.ndarray], x: int, y: int, side: int, scene: Scene
) -> None:
    (face,) = yunet.detect(scene(att[1], (4000, 3000), x, y, side))
    middle = face.landmarks.mean(axis=0) - (x, y)
    assert 0 < middle[0] < side
    assert 0 < middle[1] < side * 1.2


@given(width=st.integers(1, 9000), height=st.integers(1, 9000), least=st.floats(12, 200))
def test_no_face_falls_between_tiles(width: int, height: int, least: float) -> None:
    detector = YunetOnet(yunet=None, onet=None, min_face=least)  # type: ignore[arg-type]  # tiles need no net
    tiles = list(detector._tiles((width, height)))
    finest = tiles[0][1]
    for level, scale in enumerate(dict.fromkeys(scale for _, scale in tiles)):
        parts = np.array([part for part, at in tiles if at == scale])
        assert parts[:, :2].min() == 0
        assert parts[:, 2].max() == width
        assert parts[:, 3].max() == height
        assert ((parts[:, 2:] - parts[:, :2]) * scale).max() <= 1442
        if len(parts) > 1:
            largest = 4 * 29 / scale  # up to here this level is asked; what is larger the next one finds
            for start, end, length in ((0, 2, width), (1, 3, height)):
                spans = sorted({(int(part[start]), int(part[end])) for part in parts})
                assert all(b[0] + largest <= a[1] + 1 for a, b in itertools.pairwise(spans)), length
        assert scale == pytest.approx(finest / 4**level)
    assert sum(at == tiles[-1][1] for _, at in tiles) == 1


def test_two_heads_that_touch_are_two_faces(yunet: YunetOnet, att: list[np.ndarray], scene: Scene) -> None:
    lost = 0
    for near, far in zip(att[:12], att[12:24], strict=True):
        for share in (0.7, 0.9):
            back = scene(near, (640, 480), 200, 100, 200)
            high = int(200 * share)
            head = Image.fromarray(far).resize((high, high * 112 // 92))
            mask = Image.new("L", head.size, 0)
            ImageDraw.Draw(mask).ellipse((8, 0, head.width - 9, head.height - 1), fill=255)
            photo = Image.fromarray(back)
            photo.paste(head, (345, 150), mask)
            lost += len(yunet.detect(np.asarray(photo))) != 2
    assert lost <= 1


def test_best_face_comes_first_and_once(yunet: YunetOnet, att: list[np.ndarray]) -> None:
    scores = [face.score for face in yunet.detect(np.concatenate(att[:6], axis=1))]
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)


def test_a_photo_on_its_side(yunet: YunetOnet, att: list[np.ndarray], scene: Scene) -> None:
    upright = find_faces(scene(att[2], (640, 480), 220, 120, 200), yunet)[0][0].landmarks
    for turns in (1, 2, 3):
        image = np.ascontiguousarray(np.rot90(scene(att[2], (640, 480), 220, 120, 200), turns))
        (face, *_), _ = find_faces(image, yunet)
        points = face.landmarks
        for turn in range(turns, 0, -1):  # back to the upright photo
            side = 640 if turn % 2 else 480
            points = np.stack([side - 1 - points[:, 1], points[:, 0]], axis=1)
        assert np.linalg.norm(points - upright, axis=1).mean() < 6, turns


def test_faces_that_fill_the_photo(yunet: YunetOnet, att: list[np.ndarray]) -> None:
    for photo in att[:10]:
        close = np.asarray(Image.fromarray(photo[15:100, 8:84]).resize((480, 537)))
        assert len(find_faces(close, yunet)[0]) == 1


def test_lfw_faces_as_mtcnn_sees_them(yunet: YunetOnet, mtcnn: Mtcnn, shared: Path) -> None:
    offsets = []
    for path in sorted((shared / "data/lfw/images").glob("*.jpg"))[::125]:
        image = np.asarray(Image.open(path).convert("RGB"))
        central = [
            min(found, key=lambda face: float(np.abs(face.box.reshape(2, 2).mean(axis=0) - 88).max()))
            for found in (mtcnn.detect(image), yunet.detect(image))
        ]
        offsets.append(apart(central[1], central[0].landmarks))
    assert np.median(offsets) < 0.04
    assert np.mean(offsets) < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2), (19, 19), (300, 200)])
def test_photos_without_a_face(yunet: YunetOnet, shape: tuple[int, int]) -> None:
    assert find_faces(np.full((*shape, 3), 90, np.uint8), yunet)[0] == []


@pytest.mark.parametrize("image", [np.zeros((50, 50), np.uint8), np.zeros((50, 50, 4), np.uint8), "photo.jpg"])
def test_what_is_no_photo(yunet: YunetOnet, image: Any) -> None:
    for look in (yunet.detect, yunet.detect_large):
        with pytest.raises(ImageError, match="a photo must be"):
            look(image)


@pytest.mark.parametrize("change", [{"min_face": 3}, {"proposal": 0.0}, {"threshold": 1.0}], ids=str)
def test_settings_out_of_range(yunet: YunetOnet, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        dataclasses.replace(yunet, **change)


def test_it_finds_more_small_faces_than_blazeface(att: list[np.ndarray], scene: Scene) -> None:
    blazeface, yunet = load_detector("blazeface"), load_detector("yunet")
    assert isinstance(blazeface, BlazeFace)
    images = [scene(photo, (640, 480), 37 * i % 560, 61 * i % 400, 33) for i, photo in enumerate(att)]
    found = sum(len(yunet.detect(image)) == 1 for image in images)
    assert found > sum(len(blazeface.detect(image)) == 1 for image in images)
