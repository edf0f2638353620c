"""PartialFC: a step learns the classes of its batch and a share of the others, as formulas over all rows say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.data.dataset import FaceData
from edgeface.heads import HEADS, ClassSampling, build_head
from edgeface.training.checkpoints import load_tensors
from edgeface.training.config import load_config
from edgeface.training.loop import train
from edgeface.training.training_state import head_bytes, head_for, make_optimizer
from edgeface_runtime import UsageError

CLASSES, LENGTH = 40, 6


def sampled(name: str, share: float = 0.3, batch: int = 4, **settings: object):
    torch.manual_seed(0)
    head = build_head(name, LENGTH, CLASSES, s=16.0, m=0.3).double()
    before = {key: value.detach().clone() for key, value in head.named_parameters()}
    optimizer = make_optimizer(head, load_config(lr=0.1, **settings).optim)
    return head, before, optimizer, ClassSampling(head, optimizer, share, batch)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-1, CLASSES - 1), min_size=4, max_size=4), st.integers(0, 2**32 - 1))
def test_a_step_has_the_batchs_classes_and_as_many_others_as_the_share_says(labels: list[int], seed: int):
    head, before, _, sampling = sampled("arcface")
    columns = sampling.columns(torch.tensor(labels), np.array(labels), seed)
    rows = sampling.rows.tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == len(head.weight) == 12
    assert [rows[column] if column >= 0 else -1 for column in columns.tolist()] == labels
    assert torch.equal(head.weight, before["weight"][rows])


def test_each_other_class_is_equally_likely():
    _, _, _, sampling = sampled("arcface")
    own = np.array([0, 7, 8, 39])
    counts = np.zeros(CLASSES)
    for seed in range(3000):
        sampling.columns(torch.from_numpy(own), own, seed)
        counts[sampling.rows.numpy()] += 1
    assert (counts[own] == 3000).all()
    others = np.delete(counts, own)
    # 8 of 36: a binomial's deviation is 23; five of them over 36 classes fail once in 50,000 draws.
    assert np.abs(others - 3000 * 8 / 36).max() < 5 * 23


@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_those_of_the_whole_heads_logits_of_these_classes(name: str):
    head, before, _, sampling = sampled(name)
    embeddings, labels = torch.randn(4, LENGTH, dtype=torch.float64), torch.tensor([3, 30, 30, 7])
    whole = build_head(name, LENGTH, CLASSES, s=16.0, m=0.3).double()
    whole.load_state_dict(head.state_dict() | before)
    columns = sampling.columns(labels, labels.numpy(), 5)
    loss = F.cross_entropy(head(embeddings, columns, 0.2), columns)
    reference = F.cross_entropy(whole(embeddings, labels, 0.2)[:, sampling.rows], columns)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    for (key, mine), theirs in zip(head.named_parameters(), whole.parameters(), strict=True):
        expected = theirs.grad[sampling.rows] if theirs.ndim else theirs.grad
        torch.testing.assert_close(mine.grad, expected, msg=key)
        if theirs.ndim:
            assert theirs.grad.abs().sum() == pytest.approx(expected.abs().sum().item())  # the others have none


def adamw(weight, moments, gradient, rows, step, *, lr=0.1, decay=0.05):
    """Loshchilov and Hutter's algorithm 2 on some rows; moments are those of all."""
    first, second = moments
    first[rows] = 0.9 * first[rows] + 0.1 * gradient
    second[rows] = 0.999 * second[rows] + 0.001 * gradient**2
    corrected = first[rows] / (1 - 0.9**step), second[rows] / (1 - 0.999**step)
    weight[rows] -= lr * (corrected[0] / (np.sqrt(corrected[1]) + 1e-8) + decay * weight[rows])


def sgd(weight, moments, gradient, rows, step, *, lr=0.1, decay=0.05):
    """Nesterov's momentum as torch documents it, on some rows."""
    gradient = gradient + decay * weight[rows]
    moments[0][rows] = 0.9 * moments[0][rows] + gradient
    weight[rows] -= lr * (gradient + 0.9 * moments[0][rows])


@pytest.mark.parametrize("rule", [adamw, sgd])
def test_the_optimizer_moves_the_rows_of_a_step_with_moments_of_their_own_and_no_other(rule):
    head, before, optimizer, sampling = sampled("cosface", optimizer=rule.__name__)
    weight, moments = before["weight"].numpy().copy(), np.zeros((2, CLASSES, LENGTH))
    for step in range(1, 7):
        embeddings, labels = torch.randn(4, LENGTH, dtype=torch.float64), torch.randint(0, CLASSES, (4,))
        columns = sampling.columns(labels, labels.numpy(), step)
        rows = sampling.rows.numpy()
        optimizer.zero_grad()
        F.cross_entropy(head(embeddings, columns, 0.2), columns).backward()
        gradient = head.weight.grad.numpy().copy()
        optimizer.step()
        sampling.release()
        rule(weight, moments, gradient, rows, step)
        np.testing.assert_allclose(head.weight.detach().numpy(), weight, rtol=1e-7, atol=1e-9)
        assert all(len(part) == CLASSES for part in optimizer.state[head.weight].values() if part.ndim)


def test_a_step_that_the_optimizer_leaves_out_changes_nothing():
    head, before, _, sampling = sampled("arcface")
    for seed in range(3):  # fp16's scaler of gradients leaves out steps that are not finite
        sampling.columns(torch.tensor([1]), np.array([1]), seed)
    sampling.release()
    assert torch.equal(head.weight, before["weight"])


@pytest.mark.parametrize("share", [1.0, 0.99])
def test_a_head_of_few_classes_is_left_alone(share: float):
    head, before, _, sampling = sampled("arcface", share=share, batch=CLASSES)
    labels = torch.tensor([2, 39, -1])
    assert torch.equal(sampling.columns(labels, labels.numpy(), 0), labels)
    assert torch.equal(head.weight, before["weight"])


def faces() -> FaceData:
    """Faces of three people, coarse noise in part their own, among fifty names."""
    rng = np.random.default_rng(0)
    labels = np.repeat([4, 20, 49], 5)
    coarse = rng.integers(0, 128, (50, 7, 7, 3))[labels] + rng.integers(0, 128, (15, 7, 7, 3))
    pixels = coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    split = np.array(["train", "train", "train", "train", "val"] * 3)
    return FaceData(pixels, labels, tuple(map(str, range(50))), tuple(map(str, range(15))), split)


SHORT = {"backbone": "mobilefacenet:width=0.25", "embedding_dim": 16, "batch_size": 4, "epochs": 2, "lr": 1e-3}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_ends_with_the_very_weights_of_an_unbroken_one(optimizer: str, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    class Copying:
        def say(self, line: str, *, heading: bool = False) -> None:
            if line.startswith("Epoch 1/2"):
                shutil.copytree(whole, broken)

        track = staticmethod(lambda items, title: iter(items))

    config = load_config(**SHORT, class_sampling=0.2, optimizer=optimizer)
    train(faces(), whole, config, reporter=Copying())
    train(faces(), broken, config, resume=True)
    (expected, _), (found, _) = (load_tensors(run / "last.safetensors") for run in (whole, broken))
    assert found.keys() == expected.keys()
    assert [key for key in expected if not expected[key].equal(found[key])] == []
    assert expected["learner.head.weight"].shape == (50, 16)


def test_sampling_changes_the_training_loss_and_not_what_validation_compares_with(tmp_path: Path):
    all_of, some = (
        train(faces(), tmp_path / str(share), load_config(**SHORT, class_sampling=share, margin=0.0))[0]
        for share in (1.0, 0.2)
    )
    assert some.train_loss < all_of.train_loss  # 10 classes to tell apart, not 50
    assert some.val_loss == pytest.approx(all_of.val_loss, rel=0.1)


@pytest.mark.parametrize("value", ["0", "-0.1", "1.5"])
def test_a_share_is_above_0_and_at_most_1(value: str):
    with pytest.raises(UsageError, match=rf"class_sampling={value}.*: must be above 0, up to 1"):
        load_config(settings=[f"class_sampling={value}"])


def test_more_classes_than_memory_are_one_line_that_says_what_fits(tmp_path: Path):
    config = load_config(embedding_dim=512)
    with pytest.raises(
        UsageError,
        match=r"^10,000,000 people: arcface with class_sampling=1 takes about \d+\.\d GB to "
        r"train, and 130\.0 GB are free; --set class_sampling=0\.\d+ takes \d+",
    ):
        head_for(config, 10**7, 130 * 10**9)
    with pytest.raises(UsageError, match=r"class_sampling=0\.01 takes .*: take a smaller embedding_dim, optimizer=sgd"):
        head_for(config, 10**7, 10**9)
    many = replace(faces(), identities=range(10**11))  # before anything is allocated or written
    with pytest.raises(UsageError, match="100,000,000,000 people"):
        train(many, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"class_sampling": 0.1}, {"optimizer": "sgd"}, {"embedding_dim": 64}])
def test_what_a_refusal_proposes_takes_less(change: dict[str, object]):
    before, after = ({"embedding_dim": 128} | extra for extra in ({}, change))
    first, second = (
        head_bytes(config := load_config(**each), 10**6, config.head.class_sampling) for each in (before, after)
    )
    assert second < first
