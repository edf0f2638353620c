"""Detectors that follow a face from frame to frame by one look at its last place."""

from collections.abc import Callable

import numpy as np
import pytest

from edgeface_runtime.detection.blazeface import BlazeFace
from edgeface_runtime.detection.find import load_detector
from edgeface_runtime.detection.yunet_onet import YunetOnet
from edgeface_runtime.errors import ImageError

Follower = BlazeFace | YunetOnet
Scene = Callable[..., np.ndarray]


@pytest.fixture(scope="module", params=["blazeface", "yunet"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["onnxruntime", "litert"])
def detector(name: str, request: pytest.FixtureRequest) -> Follower:
    detector = load_detector(name, engine=request.param)
    assert isinstance(detector, Follower)
    return detector


def test_a_face_is_near_where_a_detection_finds_it(detector: Follower, att: list[np.ndarray], scene: Scene) -> None:
    for person in att[:6]:
        (face,) = detector.detect(scene(person, (640, 480), 200, 100, 140))
        for step in range(1, 8):
            frame = scene(person, (640, 480), 200 + 9 * step, 100 + 4 * step, 140)
            found = detector.follow(frame, face)
            assert found is not None
            (expected,) = detector.detect(frame)
            eyes = expected.landmarks[:2]
            span = np.linalg.norm(eyes[1] - eyes[0])
            assert np.linalg.norm(found.landmarks[:2] - eyes, axis=1).mean() < 0.08 * span
            assert np.abs(found.box - expected.box).max() < 16
            face = found


def test_a_face_that_stays_is_not_lost(detector: Follower, att: list[np.ndarray], scene: Scene) -> None:
    for person in att[:6]:
        frame = scene(person, (640, 480), 200, 100, 140)
        (face,) = detector.detect(frame)
        found = face
        for _ in range(40):
            followed = detector.follow(frame, found)
            assert followed is not None
            found = followed
        assert np.abs(found.box - face.box).max() < 12


def test_a_face_that_has_gone_is_nowhere(detector: Follower, att: list[np.ndarray], scene: Scene) -> None:
    for person in att[:6]:
        (face,) = detector.detect(scene(person, (640, 480), 200, 100, 140))
        assert detector.follow(scene(person, (640, 480), 0, 300, 60), face) is None


def test_what_is_no_photo(detector: Follower, att: list[np.ndarray], scene: Scene) -> None:
    (face,) = detector.detect(scene(att[0], (640, 480), 200, 100, 140))
    with pytest.raises(ImageError, match="a photo must be"):
        detector.follow(np.zeros((4, 4), np.uint8), face)
