import io

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeface.data import duplicates
from edgeface.data.duplicates import fingerprint, first_copies
from edgeface_runtime.images import open_rgb


def picture(seed: int, size: int = 112) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))


def prints(crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    found = [fingerprint(crop) for crop in crops]
    details = [np.frombuffer(details, np.int8) for _, details in found]
    return np.array([bits for bits, _ in found], np.uint64), np.array(details)


def noise(*seeds: int) -> np.ndarray:
    """A row of random details for each seed."""
    return np.stack([np.random.default_rng(seed).integers(-100, 101, 1024).astype(np.int8) for seed in seeds])


def test_hash_is_imagehashs() -> None:
    crop = picture(0)
    assert f"{fingerprint(crop)[0]:016x}" == str(imagehash.dhash(Image.fromarray(crop[36:100, 24:88])))


def test_copies_are_found_across_compression_tone_and_shift() -> None:
    original, other = picture(1), picture(2)
    file = io.BytesIO()
    Image.fromarray(original).save(file, "JPEG", quality=40)
    darker = (255 * (original / 255) ** 1.2).astype(np.uint8)
    shifted = np.roll(original, (1, -2), axis=(0, 1))
    grey = np.asarray(Image.fromarray(original).convert("L").convert("RGB"))
    crops = [other, original, open_rgb(file.getvalue()), darker, shifted, grey, picture(3)]
    assert first_copies(*prints(crops)).tolist() == [0, 1, 1, 1, 1, 1, 6]


def test_a_black_border_does_not_count() -> None:
    framed = picture(1).copy()
    framed[:20], framed[:, 100:] = 0, 0
    assert first_copies(*prints([picture(1), framed])).tolist() == [0, 0]


def test_a_like_hash_alone_is_no_copy() -> None:
    hashes = np.array([5, 5], np.uint64)
    assert first_copies(hashes, noise(0, 1)).tolist() == [0, 1]
    assert first_copies(hashes, noise(0, 0)).tolist() == [0, 0]


def test_like_details_alone_are_no_copy() -> None:
    assert first_copies(np.array([0, 2**40 - 1], np.uint64), noise(0, 0)).tolist() == [0, 1]


def test_copies_of_copies_belong_together() -> None:
    hashes = np.array([0, 0b1111, 0b11111111], np.uint64)
    assert first_copies(hashes, noise(0, 0, 0), max_bits=4).tolist() == [0, 0, 0]
    assert first_copies(hashes, noise(0, 0, 0), max_bits=3).tolist() == [0, 1, 2]


def test_details_without_any_are_no_copies() -> None:
    flat = [np.full(1024, value, np.int8) for value in (0, 100, -100, 100)]
    assert first_copies(np.zeros(5, np.uint64), np.stack([*flat, noise(0)[0]])).tolist() == [0, 1, 2, 3, 4]


def test_says_how_much_of_the_work_is_done() -> None:
    told: list[tuple[int, int]] = []
    first_copies(np.zeros(100, np.uint64), noise(*range(100)), progress=lambda *step: told.append(step))
    assert told[0] == (0, 100)
    assert told[-1] == (100, 100)
    assert told == sorted(told)


def test_none_and_one() -> None:
    assert first_copies(np.empty(0, np.uint64), np.empty((0, 1024), np.int8)).tolist() == []
    assert first_copies(np.array([1], np.uint64), np.zeros((1, 1024), np.int8)).tolist() == [0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(0, 20))
def test_as_the_slow_form_says(seed: int, count: int, max_bits: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = np.array([0, 1, 7, 255, 2**63, 2**64 - 1], np.uint64)[rng.integers(0, 6, count)]
    details = noise(0, 1, 2)[rng.integers(0, 3, count)]
    details = np.stack([np.roll(row.reshape(32, 32), rng.integers(-3, 4, 2), (0, 1)).reshape(-1) for row in details])

    def correlation(one: np.ndarray, other: np.ndarray) -> float:
        inner = one.reshape(32, 32)[2:30, 2:30].ravel()
        shifts = [(y, x) for y in range(5) for x in range(5)]
        moved = [other.reshape(32, 32)[y : y + 28, x : x + 28].ravel() for y, x in shifts]
        return max(np.corrcoef(inner, square)[0, 1] for square in moved)

    expected = list(range(count))
    for _ in range(count):
        for a in range(count):
            for b in range(a):
                bits = int(hashes[a] ^ hashes[b]).bit_count()
                if bits <= max_bits and correlation(details[b], details[a]) >= duplicates.MIN_CORRELATION:
                    expected[a] = expected[b] = min(expected[a], expected[b])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", 5)
        patch.setattr(duplicates, "_CHUNK", 2)
        patch.setattr(duplicates, "_WORTH_SHIFTING", -1.0)
        assert first_copies(hashes, details, max_bits=max_bits).tolist() == expected
