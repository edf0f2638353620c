import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import ndimage
from scipy.spatial.transform import Rotation

from edgeface_runtime.align import TEMPLATE, align
from edgeface_runtime.faces import Face
from edgeface_runtime.quality import _HEAD, face_sharpness, face_size, pose, sharpness


def test_sharpness_is_the_variance_of_scipys_laplacian() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    grey = crop.astype(np.float64) @ [0.299, 0.587, 0.114]
    expected = ndimage.laplace(grey)[1:-1, 1:-1].var()
    assert sharpness(crop) == pytest.approx(expected, rel=1e-5)


def test_blur_lowers_sharpness() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    values = [sharpness(np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert sharpness(np.full((16, 16, 3), 77, np.uint8)) == 0


angle = st.floats(-60, 60)


@given(yaw=angle, pitch=angle, roll=angle, scale=st.floats(5, 300), x=angle, y=angle)
def test_pose_of_a_turned_head(yaw: float, pitch: float, roll: float, scale: float, x: float, y: float) -> None:
    turn = Rotation.from_euler("xyz", [pitch, -yaw, roll], degrees=True).as_matrix()
    found = pose((scale * (_HEAD @ turn.T)[:, :2] + [x, y]).astype(np.float32))
    assert (found.yaw, found.pitch, found.roll) == pytest.approx((yaw, pitch, roll), abs=0.1)


def test_pose_signs() -> None:
    points = np.array([[30, 40], [70, 40], [60, 60], [35, 80], [65, 80]], np.float32)
    assert pose(points).yaw > 10  # the nose lies to the photo's right
    points[:, 0] = 100 - points[[1, 0, 2, 4, 3], 0]
    assert pose(points).yaw < -10


def test_face_size() -> None:
    assert face_size(Face(np.array([10, 20, 50, 110], np.float32), 1.0, np.zeros((5, 2), np.float32))) == 60


def test_a_blurred_face_at_the_photos_edge_is_blurred() -> None:
    """The crop's step to black is sharp in any photo; the face is not."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (300, 300, 3)).astype(np.uint8))
    smooth = np.asarray(noise.filter(ImageFilter.GaussianBlur(3)))
    face = Face(np.array([20, 10, 95, 115], np.float32), 0.9, TEMPLATE.astype(np.float32))
    cut = smooth[40:100, 20:90]
    moved = Face(face.box - np.float32([20, 40, 20, 40]), 0.9, face.landmarks - np.float32([20, 40]))
    assert sharpness(align(cut, moved.landmarks)) > 100
    assert face_sharpness(cut, moved) < 40
    assert face_sharpness(np.asarray(noise), face) > 1000


def test_inside_a_photo_it_is_the_sharpness_of_the_crops_inner_part() -> None:
    photo = np.random.default_rng(1).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    landmarks = (TEMPLATE * 1.3 + [100.5, 120.25]).astype(np.float32)
    face = Face(np.array([120, 140, 230, 260], np.float32), 0.9, landmarks)
    assert face_sharpness(photo, face) == pytest.approx(sharpness(align(photo, landmarks)[32:104, 24:88]))
