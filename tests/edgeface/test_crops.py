from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface.data.crops import CropSettings, crop_photo
from edgeface.data.readers import Skipped, SourcePhoto
from edgeface_runtime.align import align
from edgeface_runtime.faces import Face
from edgeface_runtime.gallery.enrollment import MIN_SHARPNESS
from edgeface_runtime.images import open_rgb
from edgeface_runtime.quality import sharpness


def face_at(x: float, y: float, side: float, score: float = 0.99) -> Face:
    points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    box = np.array([x, y, x + side, y + side], np.float32)
    return Face(box, score, points * np.float32(side) + box[:2])


class Fake:
    """Finds what it is told to, in photos of at least a given width."""

    def __init__(self, *faces: Face, width: int = 0) -> None:
        self.faces, self.width = list(faces), width

    def detect(self, image: np.ndarray) -> list[Face]:
        assert image.dtype == np.uint8
        return self.faces if image.shape[1] >= self.width else []


def write(path: Path, width: int = 100, height: int = 80) -> SourcePhoto:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return SourcePhoto(path, "Ann", path.name)


def test_a_crop_is_the_aligned_face(tmp_path: Path) -> None:
    photo = write(tmp_path / "a.png")
    face = face_at(20, 10, 60, score=0.98765)
    (crop,) = crop_photo(photo, "Ann/a", Fake(face), CropSettings(size=112))  # type: ignore[misc]
    expected = align(open_rgb(photo.path), face.landmarks, 112)
    np.testing.assert_array_equal(open_rgb(crop.png), expected)
    assert (crop.path, crop.identity, crop.source) == ("faces/Ann/a.png", "Ann", "a.png")
    assert crop.box == (20, 10, 80, 70)
    assert (crop.score, crop.size, crop.margin) == (0.9877, 60, 0)


def test_the_edge_of_a_photo_is_not_sharp(tmp_path: Path) -> None:
    Image.new("RGB", (100, 80), (200, 180, 160)).save(tmp_path / "flat.png")
    photo = SourcePhoto(tmp_path / "flat.png", "Ann", "flat.png")
    (crop,) = crop_photo(photo, "Ann/flat", Fake(face_at(60, 10, 60)), CropSettings())  # type: ignore[misc]
    assert sharpness(open_rgb(crop.png)) > MIN_SHARPNESS  # the crop is black beyond it
    assert crop.sharpness == 0


def test_a_tight_photo_keeps_its_own_coordinates(tmp_path: Path) -> None:
    photo = write(tmp_path / "a.png")
    (framed,) = crop_photo(photo, "Ann/a", Fake(face_at(60 + 20, 60 + 10, 60), width=200), CropSettings())  # type: ignore[misc]
    (plain,) = crop_photo(photo, "Ann/a", Fake(face_at(20, 10, 60)), CropSettings())  # type: ignore[misc]
    assert (framed.margin, plain.margin) == (0.6, 0)
    assert (framed.box, framed.landmarks, framed.png) == (plain.box, plain.landmarks, plain.png)


def test_all_faces_get_a_number(tmp_path: Path) -> None:
    photo = write(tmp_path / "a.png")
    found = crop_photo(photo, "Ann/a", Fake(face_at(0, 0, 30), face_at(50, 20, 30)), CropSettings(faces="all"))
    assert isinstance(found, list)
    assert [crop.path for crop in found] == ["faces/Ann/a@1.png", "faces/Ann/a@2.png"]


def test_no_face(tmp_path: Path) -> None:
    found = crop_photo(write(tmp_path / "a.png"), "Ann/a", Fake(), CropSettings())
    assert found == Skipped("a.png", "no face", "none found in 100x80 pixels", "Ann")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (15, 400), (400, 15)])
def test_too_small(tmp_path: Path, width: int, height: int) -> None:
    found = crop_photo(write(tmp_path / "a.png", width, height), "Ann/a", Fake(face_at(0, 0, 5)), CropSettings())
    assert found == Skipped("a.png", "too small", f"{width}x{height} pixels", "Ann")


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    found = crop_photo(SourcePhoto(tmp_path / "a.png", "Ann", "a.png"), "Ann/a", Fake(), CropSettings())
    assert found == Skipped("a.png", "unreadable", "the file is empty", "Ann")


def test_landmarks_on_one_spot(tmp_path: Path) -> None:
    spot = Face(np.array([0, 0, 9, 9], np.float32), 0.9, np.full((5, 2), 7, np.float32))
    found = crop_photo(write(tmp_path / "a.png"), "Ann/a", Fake(spot), CropSettings())
    assert isinstance(found, Skipped)
    assert found.reason == "not aligned"


def test_a_detector_s_former_name_makes_the_same_crops():
    assert CropSettings(detector="fast") == CropSettings(detector="blazeface")
    assert CropSettings() == CropSettings(detector="yunet")
    assert CropSettings(detector="mtcnn").detector == "mtcnn"
