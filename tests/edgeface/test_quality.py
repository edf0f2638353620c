import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import ndimage
from scipy.spatial.transform import Rotation

from edgeface.data.quality import _HEAD, face_size, pose, sharpness
from edgeface_runtime.faces import Face


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
