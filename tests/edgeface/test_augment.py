"""Augmentation: nothing asked, nothing changed; each part does what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from edgeface.training.augment import augment, draw, normalize
from edgeface.training.config import AugmentConfig

STILL = AugmentConfig(flip_prob=0, rotation_degrees=0, scale_jitter=0, translate_ratio=0, color_jitter=0)
SIDE = 112


@pytest.fixture
def faces() -> torch.Tensor:
    ramp = torch.linspace(-1, 1, SIDE)
    return torch.stack([ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE), torch.rand(SIDE, SIDE)])[
        None
    ].repeat(64, 1, 1, 1)


def drawn(seed: int = 0, count: int = 64):
    return draw(count, torch.Generator().manual_seed(seed))


def test_nothing_asked_changes_nothing(faces: torch.Tensor):
    torch.testing.assert_close(augment(faces, drawn(), STILL), faces, atol=2e-5, rtol=0)


def test_a_mirror_image_is_the_mirror_image(faces: torch.Tensor):
    torch.testing.assert_close(
        augment(faces, drawn(), replace(STILL, flip_prob=1.0)), faces.flip(-1), atol=2e-5, rtol=0
    )
    half = augment(faces, drawn(), replace(STILL, flip_prob=0.5))
    mirrored = [torch.allclose(new, old.flip(-1), atol=1e-3) for new, old in zip(half, faces, strict=True)]
    assert 16 < sum(mirrored) < 48


def test_a_turn_moves_a_point_by_its_angle():
    point = torch.zeros(1, 1, SIDE, SIDE)
    point[0, 0, 55:57, 95:97] = 1.0
    numbers = replace(drawn(count=1), angle=torch.tensor([1.0]))
    turned = augment(point.expand(1, 3, -1, -1), numbers, replace(STILL, rotation_degrees=10.0))[0, 0]
    y, x = (turned.nonzero().float() + 0.5 - SIDE / 2).mean(0).tolist()
    assert abs(torch.rad2deg(torch.atan2(torch.tensor(abs(y)), torch.tensor(x))) - 10) < 1


def test_a_shift_moves_by_its_share(faces: torch.Tensor):
    numbers = replace(drawn(), shift_x=torch.ones(64), shift_y=torch.zeros(64))
    moved = augment(faces, numbers, replace(STILL, translate_ratio=8 / SIDE))
    torch.testing.assert_close(moved[..., :-8], faces[..., 8:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", ["blur", "downscale"])
def test_blur_and_downscale_smooth_a_share(part: str, faces: torch.Tensor):
    result = augment(faces, drawn(), replace(STILL, **{f"{part}_prob": 0.5}))
    rough = (result[:, 2].diff(dim=-1).abs().mean((1, 2)) / faces[:, 2].diff(dim=-1).abs().mean((1, 2))).tolist()
    changed = [ratio < 0.5 for ratio in rough]
    assert 16 < sum(changed) < 48
    assert all(ratio < 0.5 or ratio > 0.999 for ratio in rough)


def test_erasing_hides_one_rectangle_of_a_fifth_to_half_a_side(faces: torch.Tensor):
    hidden = (augment(faces + 5, drawn(), replace(STILL, erase_prob=1.0)) == 0).all(1)
    for mask in hidden:
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        assert mask.sum().item() == rows * columns
        assert 0.18 * SIDE <= rows <= 0.52 * SIDE
        assert 0.18 * SIDE <= columns <= 0.52 * SIDE


def test_a_part_of_a_batch_sees_what_the_whole_batch_sees(faces: torch.Tensor):
    config = AugmentConfig(
        scale_jitter=0.1, translate_ratio=0.1, color_jitter=0.3, blur_prob=0.3, downscale_prob=0.3, erase_prob=0.3
    )
    whole = augment(faces, drawn(), config)
    half = augment(faces[32:], drawn().part(slice(32, 64), torch.device("cpu")), config)
    torch.testing.assert_close(half, whole[32:], atol=1e-6, rtol=1e-6)


def test_normalize_is_the_formula():
    pixels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    result = normalize(pixels, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    for n, c, y, x in [(0, 0, 0, 0), (1, 1, 2, 3), (0, 2, 3, 1)]:
        assert result[n, c, y, x].item() == pytest.approx((pixels[n, y, x, c].item() - (1 + c)) / (4 + c), rel=1e-6)
