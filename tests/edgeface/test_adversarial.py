"""Adversarial faces: those of an independent attack library, within their ball, and nothing else changed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch.nn.functional as F
from torch import Tensor, nn

from edgeface.backbones import build_backbone
from edgeface.data.dataset import FaceData
from edgeface.heads import AdaFace, ArcFace
from edgeface.training.adversarial import attack, perturbed
from edgeface.training.config import AugmentConfig, load_config
from edgeface.training.loop import train
from edgeface.training.training_state import Learner
from edgeface_runtime import UsageError

EPS = 4.0
BATCH = 8


@pytest.fixture(scope="module")
def learner() -> Learner:
    """A small net whose batch norms have seen faces, and a head of five classes."""
    torch.manual_seed(0)
    net = build_backbone("mobilefacenet:width=0.25", embedding=16, size=112)
    with torch.no_grad():
        net.train()(torch.randn(BATCH, 3, 112, 112))
    return Learner(net, AdaFace(16, 5, s=16.0, m=0.3))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(BATCH, 3, 112, 112, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


LABELS = torch.arange(BATCH) % 5
WHOLE = slice(0, BATCH)


def settings(method: str, **more: object):
    return load_config(adversarial=method, adversarial_eps=EPS, batch_size=BATCH, **more)


def moved(learner: Learner, x: Tensor, config, labels: Tensor = LABELS, place: slice = WHOLE) -> Tensor:
    return perturbed(x, learner, labels, None, 0.3, config, place, torch.Generator().manual_seed(5))


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_each_method_is_that_of_an_independent_library(method: str, x: Tensor):
    pytest.importorskip("art")
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 28 * 28, 5)).eval()
    judge = PyTorchClassifier(net, nn.CrossEntropyLoss(), (3, 112, 112), 5, device_type="cpu")
    eps = EPS / 127.5
    library = (
        FastGradientMethod(judge, eps=eps)
        if method == "fgsm"
        else ProjectedGradientDescentPyTorch(judge, eps=eps, eps_step=eps * 2.5 / 3, max_iter=3, verbose=False)
    )
    expected = library.generate(x.numpy(), LABELS.numpy())
    config = AugmentConfig(adversarial=method, adversarial_eps=EPS, adversarial_steps=3)
    found = attack(
        x, lambda faces: F.cross_entropy(net(faces), LABELS, reduction="sum"), config, (127.5,) * 3, torch.zeros(())
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert np.abs(expected - x.numpy()).max() > 0.9 * eps


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
@pytest.mark.parametrize("normalization", ["arcface", "imagenet"])
def test_no_pixel_leaves_the_ball_and_the_loss_grows(method: str, normalization: str, learner: Learner, x: Tensor):
    config = settings(method, normalization=normalization, adversarial_ratio=1.0)
    found = moved(learner, x, config)
    std = torch.tensor(config.model.pixel_statistics[1]).view(1, 3, 1, 1)
    far = ((found - x) * std).abs().amax((0, 2, 3))
    assert (far <= EPS * (1 + 1e-5)).all()
    assert (far > 0.99 * EPS).all()
    learner.eval()
    with torch.no_grad():
        before, after = (F.cross_entropy(learner(faces, LABELS, 0.3)[1], LABELS) for faces in (x, found))
    assert after > before + 0.1


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_so_many_faces_of_a_batch_are_moved_and_the_others_stay(ratio: float, count: int, learner: Learner, x: Tensor):
    found = moved(learner, x, settings("fgsm", adversarial_ratio=ratio))
    assert int((found != x).any(3).any(2).any(1).sum()) == count


def test_an_attack_leaves_weights_gradients_and_statistics_as_they_are(learner: Learner, x: Tensor):
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    moved(learner, x, settings("pgd"))
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(value.grad is None for value in learner.parameters())
    assert all(module.training for module in learner.modules())


def test_two_processes_move_what_one_moves(learner: Learner, x: Tensor):
    config = settings("pgd", adversarial_ratio=0.4)
    whole = moved(learner, x, config)
    parts = [moved(learner, x[part], config, LABELS[part], part) for part in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)


def test_faces_without_a_name_move_away_from_their_teachers(learner: Learner, x: Tensor):
    config = settings("pgd", adversarial_ratio=1.0)
    learner.eval()
    with torch.no_grad():
        target = learner.net(x)
    target = target + 0.3 * target.std() * torch.randn(target.shape, generator=torch.Generator().manual_seed(3))
    found = perturbed(
        x, learner, torch.full((BATCH,), -1), target, 0.3, config, WHOLE, torch.Generator().manual_seed(5)
    )
    learner.eval()
    with torch.no_grad():
        before, after = (F.cosine_similarity(learner.net(faces), target).mean() for faces in (x, found))
    assert 1 - after > 1.03 * (1 - before)


def test_a_gradient_that_is_not_finite_moves_no_pixel_out():
    x = torch.zeros(1, 3, 8, 8)
    config = replace(AugmentConfig(), adversarial="fgsm", adversarial_eps=EPS)
    found = attack(x, lambda faces: (faces * float("nan")).sum(), config, (127.5,) * 3, torch.zeros(()))
    assert torch.equal(found, x)


def test_faces_found_in_bf16_raise_the_loss_of_float32_as_much(learner: Learner, x: Tensor):
    config = settings("pgd", adversarial_ratio=1.0)
    plain = moved(learner, x, config)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = moved(learner, x, config)
    assert not torch.equal(plain, rounded)
    learner.eval()
    with torch.no_grad():
        before, after, in_bf16 = (
            F.cross_entropy(learner(faces, LABELS, 0.3)[1], LABELS) for faces in (x, plain, rounded)
        )
    assert in_bf16 - before > 0.9 * (after - before)


def test_a_run_in_bf16_rounds_and_stays_finite(tmp_path: Path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 5)
    coarse = rng.integers(0, 128, (3, 7, 7, 3))[labels] + rng.integers(0, 128, (15, 7, 7, 3))
    faces = FaceData(
        coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8), labels, ("a", "b", "c"),
        tuple(f"{number}.png" for number in range(15)), np.array(["train", "train", "train", "train", "val"] * 3),
    )  # fmt: skip
    same = {"backbone": "mobilefacenet:width=0.25", "embedding_dim": 16, "batch_size": 6, "epochs": 1, "lr": 1e-4}
    plain, rounded = (
        train(faces, tmp_path / precision, load_config(**same, adversarial="pgd", mixed_precision=precision))[0]
        for precision in ("no", "bf16")
    )
    assert plain.train_loss != rounded.train_loss
    assert math.isfinite(rounded.train_loss + rounded.val_loss)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("adversarial=cw", "--set adversarial=cw: must be no, fgsm or pgd"),
        ("adversarial_eps=0", "--set adversarial_eps=0.0: must be above 0"),
        ("adversarial_steps=0", "--set adversarial_steps=0: must be 1 to 100"),
        ("adversarial_ratio=1.5", "--set adversarial_ratio=1.5: must be 0 to 1"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(setting: str, said: str):
    with pytest.raises(UsageError) as raised:
        load_config(settings=[setting])
    assert str(raised.value) == said


def test_arcface_too(x: Tensor, learner: Learner):
    found = moved(Learner(learner.net, ArcFace(16, 5)), x, settings("fgsm"))
    assert torch.isfinite(found).all()
