"""Faces turned to the side on a generic head: what is seen, what is hidden, and how far they look turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeface.training.turned_head import STEP, depth, turned
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces, load_detector
from edgeface_runtime.images import open_photo
from edgeface_runtime.quality import pose

SIDE = 112


def columns(side: int = SIDE) -> torch.Tensor:
    """(1, 1, S, S) whose values say which column of the photo, 0…112, is seen."""
    return ((torch.arange(side) + 0.5) * SIDE / side).expand(1, 1, side, side)


def seen(degrees: float, side: int = SIDE) -> torch.Tensor:
    return turned(columns(side), torch.tensor([degrees]))[0, 0]


def test_a_head_that_does_not_turn_stays_as_it_is():
    faces = torch.rand(3, 3, SIDE, SIDE)
    torch.testing.assert_close(turned(faces, torch.zeros(3)), faces, atol=0, rtol=0)
    some = turned(faces, torch.tensor([0.0, 30.0, 0.0]))
    torch.testing.assert_close(some[[0, 2]], faces[[0, 2]], atol=0, rtol=0)
    assert (some[1] - faces[1]).abs().mean() > 0.1


def test_the_smallest_turn_moves_the_middle_of_the_face_little():
    middle = slice(40, 90), slice(36, 76)
    assert (seen(STEP)[middle] - columns()[0, 0][middle]).abs().max() < 4


def test_a_turn_to_the_other_side_is_the_mirror_image():
    for degrees in (15.0, 45.0):
        there, back = seen(degrees)[20:100], SIDE - seen(-degrees)[20:100].flip(-1)
        assert (there - back).abs().quantile(0.9) < 4  # the template's points are not quite alike on both sides


def test_the_far_side_is_hidden_as_the_head_turns():
    row = 60  # between eyes and nose
    far = [
        float(((seen(degrees)[row] > 62) & (seen(degrees)[row] < 100)).float().mean()) for degrees in (0, 20, 40, 60)
    ]
    assert far == sorted(far, reverse=True)
    assert far[-1] < far[0] / 4


def test_smaller_faces_turn_alike():
    whole = torch.nn.functional.avg_pool2d(seen(45.0)[None], 2)[0]
    assert (seen(45.0, 56) - whole).abs().median() < 1.5


def test_the_nose_stands_out_and_the_cheeks_fall_back():
    x, y = np.array([56.0, 56.0, 20.0, 92.0]), np.array([68.0, 40.0, 68.0, 68.0])
    nose, forehead, left, right = depth(x, y)
    assert nose > forehead > left
    assert left == pytest.approx(right)


@pytest.mark.parametrize("degrees", [-30.0, -18.0, 18.0, 30.0])
def test_it_looks_turned_by_so_many_degrees(degrees: float, shared: Path):
    detector = load_detector()
    looks = []
    for name in ("astronaut.png", "obama.jpg", "biden.jpg"):
        photo = open_photo(shared / "data/testpics" / name)
        (face, *_), _ = find_faces(photo, detector)
        own = pose(face.landmarks).yaw
        crop = torch.from_numpy(align(photo, face.landmarks)).permute(2, 0, 1)[None].float()
        canvas = np.zeros((224, 224, 3), np.uint8)
        canvas[56:168, 56:168] = turned(crop, torch.tensor([degrees]))[0].permute(1, 2, 0).byte().numpy()
        (found, *_), _ = find_faces(canvas, detector)
        looks.append(pose(found.landmarks).yaw - own)
    assert abs(np.mean(looks) - degrees) < 8
