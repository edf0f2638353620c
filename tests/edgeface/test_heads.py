from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from edgeface.backbones import build_backbone
from edgeface.heads import (
    HEADS,
    AdaFace,
    ArcFace,
    ClassCentres,
    CosFace,
    LearnedArcFace,
    MagFace,
    Softmax,
    SubcenterArcFace,
    build_head,
)
from edgeface.training.config import DistillConfig
from edgeface.training.loop import losses
from edgeface.training.training_state import Learner
from edgeface_runtime import UsageError

_spec = importlib.util.spec_from_file_location("heads_oracle", Path(__file__).parents[1] / "oracles" / "heads.py")
assert _spec is not None
assert _spec.loader is not None
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(9, 6, dtype=torch.float64) * 3, torch.randint(0, 5, (9,))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(1, 64), st.floats(0, 0.9))
def test_cosface_logits_are_the_formula(seed: int, s: float, m: float):
    embeddings, labels = batch(seed)
    head = CosFace(6, 5, s=s, m=m).double()
    expected = oracle.cosface(embeddings.numpy(), head.weight.detach().numpy(), labels.tolist(), s, m)
    np.testing.assert_allclose(head(embeddings, labels).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_adaface_logits_are_the_formula_with_running_statistics_of_the_lengths():
    head = AdaFace(6, 5, s=16.0, m=0.4).double()
    mean = std = 0.0
    for seed in range(4):
        embeddings, labels = batch(seed)
        lengths = np.sqrt((embeddings.numpy() ** 2).sum(1))
        rate = 0.01 if seed else 1.0
        mean, std = mean + rate * (lengths.mean() - mean), std + rate * (lengths.std() - std)
        given = embeddings.numpy(), head.weight.detach().numpy(), labels.tolist(), 16.0
        expected = oracle.adaface(*given, 0.4, mean, std)
        np.testing.assert_allclose(head(embeddings, labels).detach().numpy(), expected, rtol=1e-6, atol=1e-6)
    head.eval()
    for _ in range(2):  # looking changes nothing
        expected = oracle.adaface(*given, 0.2, mean, std)
        np.testing.assert_allclose(head(embeddings, labels, 0.2).detach().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_adaface_without_a_margin_is_the_scaled_cosine():
    embeddings, labels = batch()
    head = AdaFace(6, 5, s=16.0).double()
    torch.testing.assert_close(head(embeddings, labels, 0.0), 16 * head.cosines(embeddings), rtol=1e-6, atol=1e-6)


def test_softmax_logits_are_the_formula():
    embeddings, labels = batch()
    head = Softmax(6, 5).double()
    torch.nn.init.normal_(head.bias)
    expected = oracle.softmax(embeddings.numpy(), head.weight.detach().numpy(), head.bias.detach().numpy())
    np.testing.assert_allclose(head(embeddings, labels, 0.4).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("seed", "m"), [(0, 0.35), (1, 0.0), (2, 0.8)])
def test_cosface_loss_and_gradients_are_those_of_pytorch_metric_learning(seed: int, m: float):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embeddings, labels = batch(seed)
    head = CosFace(6, 5, s=16.0, m=m).double()
    theirs = losses.CosFaceLoss(num_classes=5, embedding_size=6, margin=m, scale=16.0).double()
    theirs.W.data = head.weight.detach().T.clone()
    loss, reference = F.cross_entropy(head(embeddings, labels), labels), theirs(embeddings, labels)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(head.weight.grad, theirs.W.grad.T)


@pytest.mark.parametrize(("seed", "m"), [(0, 0.3), (1, 0.0), (2, 1.0)])
def test_subcenter_arcface_is_that_of_pytorch_metric_learning(seed: int, m: float):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embeddings, labels = batch(seed)
    head = SubcenterArcFace(6, 5, s=16.0, m=m).double()
    given = {"margin": math.degrees(m), "scale": 16.0, "sub_centers": 3}
    theirs = losses.SubCenterArcFaceLoss(num_classes=5, embedding_size=6, **given).double()
    theirs.W.data = head.weight.detach().reshape(15, 6).T.clone()
    loss, reference = F.cross_entropy(head(embeddings, labels), labels), theirs(embeddings, labels)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(head.weight.grad.reshape(15, 6), theirs.W.grad.T, rtol=1e-5, atol=1e-6)


def test_a_subcenter_head_started_at_the_means_has_its_other_centres_free():
    embeddings, labels = batch()
    plain, several = ArcFace(6, 5).double(), SubcenterArcFace(6, 5).double()
    free = several.weight.detach()[:, 1:].clone()
    plain.imprint(embeddings, labels)
    several.imprint(embeddings, labels)
    seen = labels.unique()
    assert torch.equal(several.weight[seen, 0], plain.weight[seen])
    assert torch.equal(several.weight[:, 1:], free)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(1, 64), st.floats(0, 0.4), st.floats(1, 30))
def test_magface_logits_and_penalty_are_the_formulas(seed: int, s: float, m: float, length: float):
    embeddings, labels = batch(seed)
    head = MagFace(6, 5, s=s, m=m).double()
    head.weight.data.mul_(0.1).add_(0.3 * embeddings[0])  # so near that θ + m stays below π
    embeddings = length * (embeddings[:1] + 0.2 * embeddings)
    expected, penalties = oracle.magface(embeddings.numpy(), head.weight.detach().numpy(), labels.tolist(), s, m)
    np.testing.assert_allclose(head(embeddings, labels).detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(head.penalty(embeddings).numpy(), penalties, rtol=1e-9)


def test_magface_makes_short_embeddings_longer_and_those_past_its_bounds_shorter():
    head = MagFace(6, 5).double()
    for length, sign in ((3.0, -1), (20.0, -1), (109.0, -1), (111.0, 1), (300.0, 1)):
        embeddings = (length * F.normalize(batch()[0])).requires_grad_()
        head.penalty(embeddings).sum().backward()
        assert (torch.sign((embeddings.grad * embeddings).sum(1)) == sign).all()


def test_the_penalty_goes_into_the_loss_of_faces_with_a_name_alone():
    embeddings, labels = batch()
    logits, head = torch.zeros(9, 5), MagFace(6, 5).double()
    labels[3:] = -1
    with_penalty, without = (
        losses(embeddings, logits, labels, None, 3, DistillConfig(), each)[0] for each in (head, None)
    )
    assert (with_penalty - without).item() == pytest.approx(head.penalty(embeddings)[:3].mean().item(), rel=1e-5)


@pytest.mark.parametrize("m", [0.05, 0.5, 1.5])
def test_the_learned_margin_starts_where_it_was_told_and_gives_arcfaces_logits(m: float):
    embeddings, labels = batch()
    learned, fixed = LearnedArcFace(6, 5, s=16.0, m=m).double(), ArcFace(6, 5, s=16.0, m=m).double()
    fixed.load_state_dict({"weight": learned.weight})
    assert learned.margin.item() == pytest.approx(m, abs=1e-6)
    for share in (0.0, 0.3, 1.0):
        torch.testing.assert_close(
            learned(embeddings, labels, share * m), fixed(embeddings, labels, share * m), rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(learned(embeddings, labels), fixed(embeddings, labels), rtol=1e-5, atol=1e-5)


def test_the_gradient_of_the_learned_margin_is_the_slope_of_the_loss():
    embeddings, labels = batch()
    head = LearnedArcFace(6, 5, s=4.0, m=0.5).double()

    def loss_at(raw: float) -> torch.Tensor:
        head.raw_margin.data = torch.tensor(raw, dtype=torch.float64)
        return F.cross_entropy(head(embeddings, labels), labels)

    raw, step = head.raw_margin.item(), 1e-5
    loss_at(raw).backward()
    slope = (loss_at(raw + step) - loss_at(raw - step)).item() / (2 * step)
    assert head.raw_margin.grad.item() == pytest.approx(slope, rel=1e-5)
    assert slope > 0


def test_the_learned_margin_stays_within_its_bounds_however_it_is_driven():
    head = LearnedArcFace(6, 5, m=0.5)
    for raw in (-80.0, 80.0):
        head.raw_margin.data.fill_(raw)
        assert -1e-6 <= head.margin.item() <= math.pi / 2 + 1e-6


@pytest.mark.parametrize("m", [0.0, -0.1, 1.58])
def test_a_learned_margin_starts_inside(m: float):
    with pytest.raises(UsageError, match=r"starts between 0 and 1\.5708"):
        LearnedArcFace(6, 5, m=m)


@pytest.mark.parametrize("name", HEADS)
def test_all_heads_are_built_and_called_alike(name: str):
    embeddings, labels = batch()
    head = build_head(name, 6, 5, s=16.0, m=0.3).double()
    assert isinstance(head, ClassCentres)
    F.cross_entropy(head(embeddings, labels, 0.1), labels).backward()
    assert all(torch.isfinite(weight.grad).all() for weight in head.parameters())
    cosines = F.normalize(embeddings) @ F.normalize(head.weight.view(-1, 6)).T
    torch.testing.assert_close(head.cosines(embeddings), cosines.view(9, 5, -1).amax(2))


def test_an_unknown_head_lists_the_known():
    with pytest.raises(UsageError, match=r"no head 'triplet'; there are: arcface, "):
        build_head("triplet", 6, 5, s=16.0, m=0.3)


def test_centres_start_at_the_means_of_directions_and_unseen_ones_stay():
    embeddings, _ = batch()
    labels = torch.tensor([0, 0, 3, 4, 3, 0, 4, 4, 4])
    head = ArcFace(6, 5).double()
    before = head.weight.detach().clone()
    head.imprint(embeddings, labels)
    for label in (0, 3, 4):
        rows = [row / np.linalg.norm(row) for row, of in zip(embeddings.numpy(), labels, strict=True) if of == label]
        mean = np.mean(rows, axis=0)
        np.testing.assert_allclose(head.weight[label].detach().numpy(), mean / np.linalg.norm(mean))
    assert torch.equal(head.weight[[1, 2]], before[[1, 2]])


HALF = (torch.bfloat16, torch.float16)


class WithoutDeviceGuard(TorchFunctionMode):
    """Subscripts of a fake CUDA tensor ask for CUDA's device guard, which a build for CPUs lacks."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__getitem__:
            tensor, subscript = args
            assert set(subscript[1:]) == {None}
            return tensor.view(*tensor.shape, *(1,) * (len(subscript) - 1))
        return func(*args, **(kwargs or {}))


def fake_cuda() -> tuple[FakeTensorMode, Callable[[torch.Tensor], FakeTensor]]:
    """What makes CUDA tensors without a GPU: they go through the dispatcher's CUDA keys, autocast's among them."""
    mode = FakeTensorMode()
    return mode, lambda tensor: FakeTensor(mode, tensor.detach().to("meta"), torch.device("cuda"))


@pytest.fixture
def cuda_autocast(request: pytest.FixtureRequest):
    """Autocast of CUDA by its switch: torch.autocast turns itself off where there is no GPU."""
    torch.set_autocast_dtype("cuda", request.param)
    torch.set_autocast_enabled("cuda", True)
    yield request.param
    torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("cuda_autocast", HALF, indirect=True)
@pytest.mark.parametrize("name", HEADS)
def test_heads_compute_in_float32_under_cudas_autocast(name: str, cuda_autocast: torch.dtype):
    mode, on_cuda = fake_cuda()
    head = build_head(name, 6, 5, s=64.0, m=0.5).eval()  # fake tensors cannot be written to
    weights = {key: on_cuda(weight) for key, weight in (*head.named_parameters(), *head.named_buffers())}
    faces, layer, labels = map(on_cuda, (torch.empty(9, 6), torch.empty(6, 6), torch.zeros(9, dtype=torch.int64)))
    with mode, torch.no_grad(), WithoutDeviceGuard():
        embeddings = F.linear(faces, layer)
        assert embeddings.dtype == cuda_autocast
        for given in (embeddings, embeddings.float()):
            logits = functional_call(head, weights, (given, labels, 0.3))
            assert (logits.dtype, logits.device.type, logits.shape) == (torch.float32, "cuda", (9, 5))


@pytest.mark.parametrize("cuda_autocast", HALF, indirect=True)
@pytest.mark.parametrize("net", ["mobilefacenet", "resnet18", "vgg11"])
@pytest.mark.parametrize("head", HEADS)
def test_a_step_of_each_net_and_head_takes_cudas_autocast(head: str, net: str, cuda_autocast: torch.dtype):
    mode, on_cuda = fake_cuda()
    backbone = build_backbone(net, embedding=16, size=112)
    learner = Learner(backbone, build_head(head, 16, 5, s=64.0, m=0.5)).eval()  # batch norm alike in both modes
    state = {name: on_cuda(value) for name, value in (*learner.named_parameters(), *learner.named_buffers())}
    seen: set[torch.dtype] = set()
    convolution = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    x, labels = on_cuda(torch.empty(4, 3, 112, 112)), on_cuda(torch.zeros(4, dtype=torch.int64))
    with mode, torch.no_grad(), WithoutDeviceGuard():
        embeddings, logits, _ = functional_call(learner, state, (x, labels, 0.3))
        loss, _ = losses(embeddings, logits, labels, None, 4, DistillConfig())
    assert seen == {cuda_autocast}
    assert (loss.dtype, loss.device.type, loss.shape) == (torch.float32, "cuda", ())
    assert (embeddings.dtype, logits.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("cosine", [0.95, 0.99, 0.999, 0.9999, 1.0])
def test_gradients_near_the_class_centre_in_half_precision_are_those_of_float64(
    cosine: float, name: str, dtype: torch.dtype
):
    torch.manual_seed(0)
    centres = torch.nn.init.orthogonal_(torch.empty(5, 64, dtype=torch.float64))
    labels = torch.tensor([0, 1, 2])
    # Towards a direction that is no class's, so that the other cosines stay 0.
    embeddings = cosine * centres[labels] + math.sqrt(1 - cosine**2) * F.normalize(torch.randn(64).double(), dim=0)
    heads = [build_head(name, 64, 5, s=64.0, m=0.5) for _ in range(2)]
    of_all = centres if heads[0].weight.ndim == 2 else torch.stack([centres, -centres, -centres], 1)
    heads[0].weight.data = of_all.to(dtype).float()
    heads[1].load_state_dict(heads[0].state_dict())
    heads[1].double()
    half, exact = embeddings.to(dtype).requires_grad_(), embeddings.to(dtype).double().requires_grad_()
    # A weighted sum of the logits: cross-entropy's own gradients vanish so near a centre.
    weighing = torch.randn(3, 5)
    with torch.autocast("cpu", dtype):
        logits = heads[0](half, labels)
    reference = heads[1](exact, labels)
    torch.testing.assert_close(logits.double(), reference, rtol=1e-4, atol=1e-2)
    (logits * weighing).sum().backward()
    (reference * weighing.double()).sum().backward()
    # The embeddings' gradient is given back in half precision.
    torch.testing.assert_close(half.grad.double(), exact.grad, **near(exact.grad, 2 * torch.finfo(dtype).eps))
    for mine, theirs in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, **near(theirs.grad, 1e-3))


def near(expected: torch.Tensor, share: float) -> dict[str, float]:
    return {"rtol": 0.0, "atol": share * expected.abs().max().item()}
