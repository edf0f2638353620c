import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from edgeface_runtime.align import TEMPLATE, align
from edgeface_runtime.faces import Face
from edgeface_runtime.gallery.enrollment import MIN_SHARPNESS
from edgeface_runtime.quality import _HEAD, BLURS, brightness, face_crop, face_size, pose, sharpness


def crop_of(noise: np.random.Generator, slope: float = 1.0) -> np.ndarray:
    """(112, 112) luma, 0 to 255, whose spectrum's amplitude falls off as that of photos does: with the frequency."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(112), np.fft.fftfreq(112)))
    frequency[0, 0] = 1
    plain = np.fft.ifft2(np.fft.fft2(noise.normal(size=(112, 112))) / frequency**slope).real
    return 128 + 40 * (plain - plain.mean()) / plain.std()


def rgb(luma: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(np.rint(luma), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_without_noise_sharpness_is_the_ratio_of_two_octaves_of_scipys_gaussians() -> None:
    crop = rgb(ndimage.gaussian_filter(crop_of(np.random.default_rng(0)), 1.5))
    luma = crop[..., 0].astype(np.float64)
    one, two, three, four = (ndimage.gaussian_filter(luma, sigma, truncate=9)[32:104, 24:88] for sigma in BLURS)
    expected = 100 * (one - three).std() / (two - four).std()
    assert sharpness(crop) == pytest.approx(expected, rel=0.02)  # at the crop's edges scipy mirrors


def test_blur_lowers_sharpness() -> None:
    luma = crop_of(np.random.default_rng(0))
    values = [sharpness(rgb(ndimage.gaussian_filter(luma, sigma))) for sigma in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert values[0] > MIN_SHARPNESS > values[2]
    assert sharpness(np.full((112, 112, 3), 77, np.uint8)) == pytest.approx(0, abs=0.1)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), contrast=st.floats(0.2, 1), shift=st.floats(-20, 20))
def test_contrast_and_brightness_do_not_change_sharpness(seed: int, contrast: float, shift: float) -> None:
    luma = 0.5 * crop_of(np.random.default_rng(seed)) + 60
    assert sharpness(rgb(contrast * luma + shift)) == pytest.approx(sharpness(rgb(luma)), rel=0.05)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), level=st.floats(0, 8))
def test_noise_does_not_make_a_blurred_crop_sharp(seed: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    luma = crop_of(rng)
    blurred = ndimage.gaussian_filter(luma, 4)
    noisy = sharpness(rgb(blurred + level * rng.normal(size=luma.shape)))
    assert noisy < (sharpness(rgb(luma)) + sharpness(rgb(blurred))) / 2


def test_brightness_is_that_of_the_bright_parts() -> None:
    crop = np.zeros((112, 112, 3), np.uint8)
    crop[32:104, 24:40] = 200
    assert brightness(crop) == pytest.approx(200)
    assert brightness(np.full((112, 112, 3), 17, np.uint8)) == pytest.approx(17)


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


@pytest.mark.parametrize("blur", [0, 3])
def test_a_face_at_the_photos_edge_is_as_sharp_as_it_was_before_the_cut(blur: float) -> None:
    """The recognizer's crop has a step to black there, which is sharp in every photo."""
    photo = rgb(ndimage.gaussian_filter(crop_of(np.random.default_rng(3)), blur))
    face = Face(np.array([20, 10, 95, 105], np.float32), 0.9, TEMPLATE.astype(np.float32))
    cut = photo[40:100, 20:90]
    moved = Face(face.box - np.float32([20, 40, 20, 40]), 0.9, face.landmarks - np.float32([20, 40]))
    whole = sharpness(face_crop(photo, face))
    assert sharpness(face_crop(cut, moved)) == pytest.approx(whole, rel=0.1)
    assert whole == pytest.approx(sharpness(photo), rel=0.02)


def test_inside_a_photo_the_crop_is_the_recognizers() -> None:
    photo = np.random.default_rng(1).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    landmarks = (TEMPLATE * 1.3 + [100.5, 120.25]).astype(np.float32)
    face = Face(np.array([120, 140, 230, 260], np.float32), 0.9, landmarks)
    np.testing.assert_array_equal(face_crop(photo, face), align(photo, landmarks))
