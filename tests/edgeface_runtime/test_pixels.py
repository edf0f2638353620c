"""Area averaging against the definition of adaptive average pooling, cell by cell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeface_runtime.detection.pixels import AreaTable, area_cells, area_crops, reduced, resized, running_sums


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


def pooled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mean over rows floor(i·H/h) to ceil((i+1)·H/h) and the like columns, scaled for MTCNN."""
    out = np.zeros((3, height, width))
    for i in range(height):
        for j in range(width):
            rows = slice(i * image.shape[0] // height, -(-(i + 1) * image.shape[0] // height))
            columns = slice(j * image.shape[1] // width, -(-(j + 1) * image.shape[1] // width))
            out[:, i, j] = image[rows, columns].mean(axis=(0, 1))
    return (out - 127.5) / 128


@pytest.mark.parametrize(
    ("height", "width", "factors"),
    [(1500, 2000, (7, 3)), (3, 700_000, (31, 2)), (700_000, 3, (2, 31)), (1100, 1000, (1200, 1)), (9, 7, (1, 1))],
)
def test_a_photo_is_reduced_as_pillow_reduces_it(height: int, width: int, factors: tuple[int, int]) -> None:
    image = photo(height, width)
    np.testing.assert_array_equal(reduced(image, factors), np.asarray(Image.fromarray(image).reduce(factors)))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_part_is_resized_as_pillow_resizes_it(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height)))
    size = (data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60)))
    image = photo(height, width)
    expected = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box, reducing_gap=1.0)
    np.testing.assert_array_equal(resized(image, box, size), np.asarray(expected))


sides = st.integers(1, 40)


@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, rows=sides, columns=sides)
def test_level_is_adaptive_average_pooling(height: int, width: int, rows: int, columns: int) -> None:
    image = photo(height, width)
    level = area_cells(AreaTable(image), (0, 0, width, height), (rows, columns))
    assert level.dtype == np.float32
    assert np.allclose(level[0], pooled(image, rows, columns), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_crops_are_pooled_each_by_itself(data: st.DataObject) -> None:
    image = photo(50, 70)
    boxes = []
    for _ in range(3):
        x, y = data.draw(st.integers(0, 69)), data.draw(st.integers(0, 49))
        boxes.append([x, y, data.draw(st.integers(x + 1, 70)), data.draw(st.integers(y + 1, 50))])
    crops = area_crops(running_sums(image), np.array(boxes), 24)
    for (x0, y0, x1, y1), crop in zip(boxes, crops, strict=True):
        assert np.allclose(crop, pooled(image[y0:y1, x0:x1], 24, 24), atol=1e-6)


@pytest.mark.parametrize(
    ("area", "size"),
    [((0, 0, 1500, 2100), (1261, 901)), ((0, 0, 1500, 2100), (13, 12)), ((17, 500, 1400, 2099), (48, 48))],
)
def test_a_large_photo_is_averaged_in_tiles_as_at_once(area: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    image = photo(2100, 1500)
    table = AreaTable(image)
    assert table.sums is None
    x0, y0, x1, y1 = area
    whole = AreaTable(image[y0:y1, x0:x1])
    whole.sums = running_sums(image[y0:y1, x0:x1])
    expected = area_cells(whole, (0, 0, x1 - x0, y1 - y0), size)
    np.testing.assert_array_equal(area_cells(table, area, size), expected)
    rows, columns = range(size[0] // 3, size[0] - 2), range(3, size[1])
    some = area_cells(table, area, size, (rows, columns))
    np.testing.assert_array_equal(some, expected[:, :, rows.start : rows.stop, columns.start :])


@pytest.mark.parametrize("height", [4000])
def test_sums_that_wrap_around_still_give_means(height: int) -> None:
    image = np.full((height, 2200, 3), 255, np.uint8)
    level = area_cells(AreaTable(image), (0, 0, 2200, height), (3, 3))
    assert np.allclose(level, 127.5 / 128)
