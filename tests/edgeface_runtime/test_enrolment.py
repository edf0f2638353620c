from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from edgeface_runtime import EnrollmentError, FaceRecognizer, Gallery
from edgeface_runtime.testing import fake_photo, fake_recognizer


def names(gallery: Gallery) -> list[str]:
    return [photo.name for photo in gallery.photos()]


def blurred(photo: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(4)))


@pytest.mark.parametrize(
    ("photo", "concern"),
    [
        (blurred(fake_photo(1)), "blurred (sharpness"),
        (np.hstack([fake_photo(1), fake_photo(2)]), "2 faces, and only one can be enrolled: cut the photo"),
    ],
)
def test_a_bad_photo_is_refused_unless_forced(gallery: Gallery, photo: np.ndarray, concern: str):
    with pytest.raises(EnrollmentError) as caught:
        gallery.enroll("Ada", photo)
    assert concern in str(caught.value)
    assert names(gallery) == []
    gallery.enroll("Ada", photo, force=True)
    assert names(gallery) == ["Ada"]


class Posed:
    """Finds one face with the eyes and mouth turned by some degrees about the upright axis, in some size."""

    def __init__(self, yaw: float = 0, side: float = 64) -> None:
        self.yaw, self.side = np.radians(yaw), side

    def detect(self, image: np.ndarray) -> list:
        head = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.05, -0.42], [-0.38, 0.55, -0.05], [0.38, 0.55, -0.05]])
        x = head[:, 0] * np.cos(self.yaw) - head[:, 2] * np.sin(self.yaw)
        points = 32 + np.stack([x, head[:, 1]], axis=1) * self.side * 0.4
        half = self.side / 2
        (face,) = fake_recognizer().detector.detect(image)
        box = np.array([32 - half, 32 - half, 32 + half, 32 + half], np.float32)
        return [replace(face, box=box, landmarks=points.astype(np.float32))]


@pytest.mark.parametrize(
    ("detector", "concern"),
    [(Posed(yaw=55), "turned aside (yaw"), (Posed(yaw=-55), "turned aside (yaw"), (Posed(side=30), "is small (30")],
)
def test_a_face_turned_away_or_small_is_refused(path: Path, detector: Posed, concern: str):
    recognizer = FaceRecognizer(fake_recognizer().model, detector)
    with Gallery.open(path, recognizer) as gallery:
        with pytest.raises(EnrollmentError) as caught:
            gallery.enroll("Ada", fake_photo(1))
        assert concern in str(caught.value)
    straight = FaceRecognizer(fake_recognizer().model, Posed(yaw=20))
    with Gallery.open(path, straight) as gallery:
        gallery.enroll("Ada", fake_photo(1))


def test_a_photo_unlike_the_persons_others_is_questioned(gallery: Gallery):
    gallery.enroll("Ada", fake_photo(1))
    with pytest.raises(EnrollmentError, match="not like the other photos of Ada"):
        gallery.enroll("Ada", fake_photo(7))
    gallery.enroll("Ada", fake_photo(7), force=True)
    gallery.enroll("Ada", fake_photo(7, 1))


def test_a_photo_that_looks_like_somebody_else_is_questioned(gallery: Gallery):
    gallery.enroll("Ada", fake_photo(1))
    gallery.enroll("Bea", fake_photo(2))
    for name in ("Bea", "Cleo"):
        with pytest.raises(EnrollmentError, match="looks like Ada"):
            gallery.enroll(name, fake_photo(1, 3))
    assert gallery.enroll("Cleo", fake_photo(1, 3), force=True).name == "Cleo"


def test_without_thresholds_a_copy_and_a_nearer_person_are_questioned_all_the_same(path: Path):
    with Gallery.open(path, fake_recognizer(thresholds={})) as gallery:
        gallery.enroll("Ada", fake_photo(1))
        with pytest.raises(EnrollmentError, match="looks like Ada"):
            gallery.enroll("Bea", fake_photo(1))
        gallery.enroll("Bea", fake_photo(2))
        with pytest.raises(EnrollmentError, match="looks like Ada"):
            gallery.enroll("Bea", fake_photo(1, 1))
