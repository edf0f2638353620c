from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.heads import HEADS, ArcFace

_spec = importlib.util.spec_from_file_location("arcface_oracle", Path(__file__).parents[1] / "oracles" / "arcface.py")
assert _spec is not None
assert _spec.loader is not None
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)


def head_and_batch(seed: int, *, s: float, m: float, dtype: torch.dtype = torch.float64) -> tuple[ArcFace, ...]:
    torch.manual_seed(seed)
    head = ArcFace(6, 5, s=s, m=m).to(dtype)
    return head, torch.randn(9, 6, dtype=dtype) * 3, torch.randint(0, 5, (9,))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(1, 64), st.floats(0, 1.5))
def test_logits_are_the_formula(seed: int, s: float, m: float):
    head, embeddings, labels = head_and_batch(seed, s=s, m=m)
    expected = oracle.arcface_logits(embeddings.numpy(), head.weight.detach().numpy(), labels.numpy(), s, m)
    np.testing.assert_allclose(head(embeddings, labels).detach().numpy(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("m", [0.1, 0.5, 1.2])
def test_past_pi_the_logit_goes_on_falling(m: float):
    head = ArcFace(2, 2, s=10.0, m=m).double()
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    angles = torch.linspace(0.01, math.pi - 0.01, 400).double()
    embeddings = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.zeros(400, dtype=torch.int64)
    logits = head(embeddings, labels).detach()
    expected = oracle.arcface_logits(embeddings.numpy(), head.weight.detach().numpy(), labels.numpy(), 10.0, m)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-6)
    past = angles + m > math.pi
    assert past.sum() > 5
    assert (logits[past, 0].diff() < 0).all()
    assert (logits[~past, 0].diff() < 0).all()
    assert logits[past, 0][-1] < logits[~past, 0].min()


@pytest.mark.parametrize(("seed", "m"), [(0, 0.3), (1, 0.5), (2, 0.0), (3, 1.0)])
def test_loss_and_gradients_are_those_of_pytorch_metric_learning(seed: int, m: float):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    head, embeddings, labels = head_and_batch(seed, s=16.0, m=m)
    theirs = losses.ArcFaceLoss(num_classes=5, embedding_size=6, margin=math.degrees(m), scale=16.0).double()
    theirs.W.data = head.weight.detach().T.clone()
    ours_in, theirs_in = (embeddings.clone().requires_grad_() for _ in range(2))
    loss = F.cross_entropy(head(ours_in, labels), labels)
    reference = theirs(theirs_in, labels)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head.weight.grad, theirs.W.grad.T, rtol=1e-5, atol=1e-6)


def test_without_margin_it_is_the_normalised_softmax():
    head, embeddings, labels = head_and_batch(0, s=16.0, m=0.4)
    cosines = F.normalize(embeddings) @ F.normalize(head.weight).T
    torch.testing.assert_close(head(embeddings, labels, 0.0), 16.0 * cosines, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(head.cosines(embeddings), cosines)


def test_a_given_margin_replaces_the_heads_own():
    head, embeddings, labels = head_and_batch(0, s=16.0, m=0.4)
    other = ArcFace(6, 5, s=16.0, m=0.2).double()
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(embeddings, labels, 0.2), other(embeddings, labels))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("m", [0.0, 0.3, 0.5])
def test_gradients_are_finite_on_a_class_centre_and_opposite_to_it(sign: float, m: float):
    torch.manual_seed(0)
    head = ArcFace(8, 4, s=64.0, m=m)
    embeddings = (sign * head.weight.detach()).requires_grad_()
    labels = torch.arange(4)
    loss = F.cross_entropy(head(embeddings, labels), labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(head.weight.grad).all()


def test_it_is_a_head_by_name():
    assert HEADS["arcface"] is ArcFace
