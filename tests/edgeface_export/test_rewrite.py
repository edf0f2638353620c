from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeface_export.rewrite import PRELU_FORMS, Preprocess, embedder
from edgeface_runtime import InputSpec
from edgeface_runtime.model import as_input

FORMS = sorted(PRELU_FORMS)
slopes = st.lists(st.floats(-2, 1, width=32), min_size=2, max_size=6).map(torch.tensor)


def prelu(weight: torch.Tensor) -> nn.PReLU:
    layer = nn.PReLU(len(weight))
    layer.load_state_dict({"weight": weight})
    return layer


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(slopes, st.integers(0, 1000))
def test_each_form_is_prelu(form: str, weight: torch.Tensor, seed: int):
    x = torch.randn(2, len(weight), 3, 5, generator=torch.Generator().manual_seed(seed)) * 10
    x[0, 0, 0, 0] = 0
    with torch.no_grad():
        torch.testing.assert_close(PRELU_FORMS[form](weight)(x), prelu(weight)(x), rtol=1e-6, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-2, 3, width=32), min_size=1, max_size=6).map(torch.tensor))
def test_the_first_form_holds_for_any_slope(weight: torch.Tensor):
    x = torch.randn(2, len(weight), 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(PRELU_FORMS["relus"](weight)(x), prelu(weight)(x), rtol=1e-6, atol=1e-6)


class Net(nn.Module):
    """A net with what a backbone has: batch norm that has seen data, PReLU, a shortcut."""

    def __init__(self, first: torch.Tensor, second: torch.Tensor) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), prelu(first))
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.BatchNorm2d(4), prelu(second))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.block(x))


def net(first: list[float], second: list[float]) -> nn.Module:
    torch.manual_seed(0)
    built = Net(torch.tensor(first), torch.tensor(second))
    for module in built.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 3)
    return built.eval()


SPEC = InputSpec(size=16, mean=(120.0, 110.0, 100.0), std=(60.0, 55.0, 50.0))
FACES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("second", [[0.25, 0.1, -0.3, 1.0], [0.2, 1.5, 0.1, 0.3], [0.3], [1.2]])
def test_the_rewritten_net_gives_the_same_embeddings(form: str, second: list[float]):
    original = net([0.25, 0.0, 0.9, 0.3], second)
    before = copy.deepcopy(original.state_dict())
    rewritten = embedder(original, SPEC, form)
    pixels = torch.from_numpy((FACES - np.array(SPEC.mean)) / np.array(SPEC.std)).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(rewritten(torch.from_numpy(FACES)), original(pixels), rtol=1e-5, atol=1e-5)
    kinds = {type(module) for module in rewritten.modules()}
    assert not kinds & {nn.PReLU, nn.BatchNorm2d, nn.BatchNorm1d}
    assert not rewritten.training
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())


class Traced(nn.PReLU):
    """PReLU as a backbone may write it: a class of its own, of other operators."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(len(weight))
        self.load_state_dict({"weight": weight})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() - self.weight.view(1, -1, 1, 1) * (-x).relu()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", [[0.25, 9.0, -9.0, 1.5], [3.0]])
def test_steep_slopes_between_convolutions_take_the_fast_form(form: str, first: list[float]):
    torch.manual_seed(0)
    original = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), Traced(torch.tensor(first)),
        nn.Conv2d(4, 4, 3, 1, 1, groups=4), prelu(torch.tensor([2.0, 0.5, 4.0, 1.0])),
        nn.Conv2d(4, 6, 1, groups=2), nn.Flatten(),
    ).eval()  # fmt: skip
    rewritten = embedder(original, SPEC, form)
    pixels = torch.from_numpy((FACES - np.array(SPEC.mean)) / np.array(SPEC.std)).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(rewritten(torch.from_numpy(FACES)), original(pixels), rtol=1e-4, atol=1e-4)
    if form == "maximum":
        called = [node.target for node in rewritten[1].graph.nodes if node.op == "call_function"]
        assert (called.count(torch.maximum), called.count(nn.functional.relu)) == (2, 0)


def test_a_slope_above_one_falls_back_for_its_layer_alone():
    rewritten = embedder(net([0.2] * 4, [0.2, 0.2, 0.2, 1.1]), SPEC, "maximum")
    called = [node.target for node in rewritten[1].graph.nodes if node.op == "call_function"]
    assert (called.count(torch.maximum), called.count(nn.functional.relu)) == (1, 2)


@pytest.mark.parametrize(
    ("slopes", "folded"),
    [
        ([0.2, 0.25, 0.3, 0.25], True),
        ([0.1, 0.4, 0.2, 0.2], True),  # a channel may lose two of its eight bits, not more
        ([0.09, 0.4, 0.2, 0.2], False),
        ([0.2, 0.0, 0.2, 0.2], False),
        ([0.2, -0.2, 0.2, 0.2], False),
        ([0.2, 1.2, 0.2, 0.2], False),
        ([0.2], False),
    ],
)
def test_slopes_go_into_the_convolution_before_where_that_costs_little(slopes: list[float], folded: bool):
    original = net([0.25] * 4, slopes)
    depthwise = [layer for layer in embedder(original, SPEC, "depthwise").modules() if isinstance(layer, nn.Conv2d)]
    products = [layer for layer in depthwise if layer.kernel_size == (1, 1)]
    fallen_back = len(slopes) == 1 or max(slopes) > 1
    assert len(products) == 1 + (1 if folded else 0 if fallen_back else 2)


def test_slopes_do_not_go_into_a_convolution_that_others_read():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 4, 1), prelu(torch.full((4,), 0.25))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.act(y) + y

    original = Twice().eval()
    pixels = torch.from_numpy((FACES - np.array(SPEC.mean)) / np.array(SPEC.std)).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        found = embedder(original, SPEC, "depthwise")(torch.from_numpy(FACES))
        torch.testing.assert_close(found, original(pixels), rtol=1e-5, atol=1e-5)


def test_a_net_in_training_mode_is_rewritten_as_if_in_evaluation():
    original = net([0.2] * 4, [0.2] * 4)
    expected = embedder(original, SPEC, "affine")(torch.from_numpy(FACES))
    found = embedder(original.train(), SPEC, "affine")(torch.from_numpy(FACES))
    assert torch.equal(found, expected)
    assert original.training


def test_preprocessing_is_the_runtimes():
    spec = InputSpec(size=16, dtype="float32", layout="NCHW", mean=SPEC.mean, std=SPEC.std)
    found = Preprocess(SPEC)(torch.from_numpy(FACES)).numpy()
    np.testing.assert_allclose(found, as_input(FACES, spec), rtol=1e-6, atol=1e-6)
