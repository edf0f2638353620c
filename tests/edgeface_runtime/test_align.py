"""Alignment against slow formulas in float64 and properties of the least-squares fit."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface_runtime.align import TEMPLATE, align, similarity
from edgeface_runtime.errors import ImageError, UsageError

numbers = st.floats(-1, 1, allow_nan=False)


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama (1991), equations 34 to 43, with the singular value decomposition that the paper uses."""
    middle_s, middle_t = source.mean(axis=0), target.mean(axis=0)
    covariance = (target - middle_t).T @ (source - middle_s) / len(source)
    u, d, v = np.linalg.svd(covariance)
    sign = np.array([1, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    rotation = u @ np.diag(sign) @ v
    scale = (d * sign).sum() / ((source - middle_s) ** 2).sum(axis=1).mean()
    return np.column_stack([scale * rotation, middle_t - scale * rotation @ middle_s])


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def placed(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    """The template's points in a photo where the face is ``scale`` times as large, turned and moved."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * TEMPLATE @ turn.T + np.array(shift)


@given(scale=st.floats(0.05, 20), angle=st.floats(-3.1, 3.1), x=st.floats(-500, 500), y=st.floats(-500, 500))
def test_similarity_undoes_a_known_turn_scale_and_shift(scale: float, angle: float, x: float, y: float) -> None:
    points = placed(scale, angle, (x, y))
    matrix = similarity(points)
    assert np.allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-7)


@given(noise=st.lists(numbers, min_size=10, max_size=10), scale=st.floats(0.2, 10))
def test_similarity_is_umeyamas_least_squares_fit(noise: list[float], scale: float) -> None:
    points = scale * (TEMPLATE + 15 * np.array(noise).reshape(5, 2))
    assert np.allclose(similarity(points), umeyama(points, TEMPLATE), rtol=1e-8, atol=1e-8)


def test_a_mirrored_face_is_turned_not_mirrored() -> None:
    matrix = similarity(TEMPLATE * [-1, 1])
    assert np.linalg.det(matrix[:, :2]) > 0


def test_landmarks_on_the_template_give_the_photo_itself() -> None:
    image = photo(112, 112)
    assert (align(image, TEMPLATE) == image).all()


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.3, 1.4), angle=st.floats(-0.6, 0.6), x=numbers, y=numbers)
def test_crop_equals_the_bilinear_formula(scale: float, angle: float, x: float, y: float) -> None:
    image, points = photo(90, 120), placed(scale, angle, (40 * x, 40 * y))
    crop = align(image, points).astype(float)
    inverse = np.linalg.inv(np.vstack([similarity(points), [0, 0, 1]]))
    framed = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    for v, u in np.random.default_rng(1).integers(0, 112, (60, 2)):
        column, row = (inverse @ [u, v, 1])[:2] + 1
        expected = np.zeros(3)
        if 0 <= column < 121 and 0 <= row < 91:
            i, j = int(row), int(column)
            a, b = row - i, column - j
            top = framed[i, j] * (1 - b) + framed[i, j + 1] * b
            expected = top * (1 - a) + (framed[i + 1, j] * (1 - b) + framed[i + 1, j + 1] * b) * a
        assert np.abs(crop[v, u] - expected).max() <= 1


def test_fine_texture_turns_grey_when_a_large_face_shrinks() -> None:
    rows, columns = np.indices((1100, 1100))
    board = np.repeat((((rows + columns) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    crop = align(board, placed(8, 0.1, (120, 20)))
    inside = crop[20:92, 20:92].astype(int)
    assert np.abs(inside - 127.5).max() <= 2


def test_shrinking_keeps_the_face_where_it_is() -> None:
    rows, columns = np.indices((900, 900)).astype(float)
    smooth = np.stack([columns / 4, rows / 4, (rows + columns) / 8], axis=2).round().astype(np.uint8)
    points = placed(6.4, 0.2, (130, 20))
    inverse = np.linalg.inv(np.vstack([similarity(points), [0, 0, 1]]))
    u, v = np.meshgrid(np.arange(30, 80), np.arange(30, 80))
    x, y, _ = inverse @ [u.ravel(), v.ravel(), np.ones(u.size)]
    crop = align(smooth, points)[v.ravel(), u.ravel()].astype(float)
    assert np.abs(crop - np.stack([x / 4, y / 4, (x + y) / 8], axis=1)).max() <= 1


def test_size_224_is_the_template_twice_as_large() -> None:
    image = photo(300, 300)
    assert align(image, TEMPLATE + 50, 224).shape == (224, 224, 3)
    assert np.allclose(similarity(TEMPLATE + 50, 224), 2 * similarity(TEMPLATE + 50))


def test_outside_the_photo_is_black() -> None:
    bright = np.full((60, 60, 3), 255, np.uint8)
    crop = align(bright, TEMPLATE)
    assert (crop[:60, :60] == 255).all()
    assert (crop[61:] == 0).all()
    assert not align(bright, TEMPLATE + 1000).any()
    assert not align(bright, TEMPLATE * 9 + 5000).any()


@pytest.mark.parametrize(
    ("points", "digest"),
    [
        ([[59.1, 69.7], [90.6, 72.7], [73.7, 89.3], [57.9, 106.4], [84.0, 108.9]], "6a5e206a617e289b"),
        ([[162.7, 182.1], [276.6, 158.4], [233.2, 235.3], [199.9, 311.5], [294.2, 291.8]], "25f494214d5d4d1e"),
    ],
)
def test_bytes_are_the_same_on_every_machine(points: list[list[float]], digest: str) -> None:
    steps = np.arange(400 * 420 * 3, dtype=np.uint32)
    image = ((steps * 2654435761) >> 24).astype(np.uint8).reshape(400, 420, 3)
    assert hashlib.sha256(align(image, np.array(points)).tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    "points",
    [np.zeros((5, 2)), np.full((5, 2), np.nan), np.full((5, 2), np.inf), TEMPLATE[:4], TEMPLATE.ravel()],
    ids=["one spot", "nan", "infinite", "four points", "flat"],
)
def test_landmarks_that_cannot_be_aligned(points: np.ndarray) -> None:
    with pytest.raises(ImageError, match="landmarks"):
        align(photo(20, 20), points)


@pytest.mark.parametrize("size", [0, -112, 7, 5000])
def test_a_crop_of_no_sensible_size(size: int) -> None:
    with pytest.raises(UsageError, match="size"):
        similarity(TEMPLATE, size)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        np.zeros((0, 9, 3), np.uint8),
        [[1, 2, 3]],
    ],
    ids=["grey", "alpha", "float", "empty", "list"],
)
def test_what_is_no_photo(image: object) -> None:
    with pytest.raises(ImageError, match="a photo must be"):
        align(image, TEMPLATE)  # type: ignore[arg-type]
