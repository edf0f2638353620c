from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgeface_runtime.model import PROBES, probe_images


def tri(t: int) -> int:
    return 255 - abs(255 - t % 511)


@pytest.mark.parametrize("size", [1, 5, 33])
def test_probes_are_the_stated_formula(size: int):
    slow = np.zeros((4, size, size, 3), np.uint8)
    for k in range(4):
        for y in range(size):
            for x in range(size):
                for c in range(3):
                    u = (x * (k + 2) * 256) // size
                    v = (y * (k + 1) * 256) // size
                    slow[k, y, x, c] = (tri(u + 64 * c) + tri(v + 32 * k)) // 2
    np.testing.assert_array_equal(probe_images(size), slow)


def test_the_rule_of_this_name_never_changes():
    probes = probe_images(112)
    assert (probes.shape, probes.dtype) == ((4, 112, 112, 3), np.uint8)
    assert PROBES == "edgeface-waves-1"
    assert (
        hashlib.sha256(probes.tobytes()).hexdigest()
        == "6ba67fab5cfe25914d0af57404a7e0d507f5a5e60e3c3d4bbc3c5ff60407d131"
    )


def test_probes_differ_from_each_other_and_use_the_range():
    probes = probe_images(112).astype(int)
    assert (np.ptp(probes, axis=(1, 2, 3)) > 200).all()
    assert min(np.abs(probes[i] - probes[j]).mean() for i in range(4) for j in range(i)) > 30
