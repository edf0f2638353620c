"""Half precision ends near float32, and what is not finite spoils no weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from torch import nn

from edgeface.backbones.layers import PReLU
from edgeface.data.dataset import FaceData
from edgeface.heads import HEADS
from edgeface.training.checkpoints import load_tensors
from edgeface.training.config import load_config
from edgeface.training.loop import train
from edgeface_runtime import UsageError

TINY = "mobilefacenet:width=0.25"


@cache
def faces() -> FaceData:
    """Twelve faces of three people to train on and three to validate on: coarse noise, in part the person's own."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 5)
    coarse = rng.integers(0, 128, (3, 7, 7, 3))[labels] + rng.integers(0, 128, (15, 7, 7, 3))
    pixels = coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    split = np.array(["train", "train", "train", "train", "val"] * 3)
    return FaceData(pixels, labels, ("a", "b", "c"), tuple(f"{number}.png" for number in range(15)), split)


@pytest.fixture(scope="module")
def losses_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str, str], list[float]]]:
    """The training and validation losses of each epoch of a short run; each run is made once."""

    @cache
    def run(backbone: str, head: str, precision: str) -> list[float]:
        config = load_config(
            backbone=backbone, loss=head, mixed_precision=precision, embedding_dim=16, batch_size=6, epochs=1, lr=1e-4
        )
        rows = train(faces(), tmp_path_factory.mktemp("run") / "run", config)
        return [loss for row in rows for loss in (row.train_loss, row.val_loss)]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)


RUNS = [
    *((TINY, head) for head in HEADS),
    ("resnet18", "arcface"),
    pytest.param("vgg11", "arcface", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("net", "head"), RUNS)
def test_a_short_run_in_bf16_ends_near_the_loss_of_float32(net: str, head: str, losses_of):
    exact, half = losses_of(net, head, "no"), losses_of(net, head, "bf16")
    assert half != exact
    assert half == pytest.approx(exact, rel=0.05)


def test_losses_are_those_of_prelu_in_plain_operators(losses_of, monkeypatch: pytest.MonkeyPatch):
    def plain(layer: PReLU, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0) + layer.weight[:, None, None] * x.clamp(max=0)

    fast = losses_of(TINY, "arcface", "no")
    monkeypatch.setattr(PReLU, "forward", plain)
    assert losses_of.__wrapped__(TINY, "arcface", "no") == pytest.approx(fast, rel=1e-5)


def test_a_precision_that_a_cpu_lacks_is_said_to_be_float32(tmp_path: Path):
    lines: list[str] = []

    class Reporter:
        def say(self, line: str, *, heading: bool = False) -> None:
            lines.append(line)

        track = staticmethod(lambda items, title: iter(items))

    train(faces(), tmp_path / "run", load_config(**SHORT, mixed_precision="fp16"), reporter=Reporter())
    assert lines[0] == "mixed_precision=fp16 needs a GPU, so this run is in float32; bf16 is for CPUs too"


def spoilt_at(steps: range) -> Callable[[nn.Module], None]:
    """A net whose first weights have, at those steps, a gradient that is not finite; the loss is."""

    def register(net: nn.Module) -> None:
        calls: list[int] = []

        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            calls.append(0)
            return gradient * float("nan") if len(calls) in steps else gradient

        next(net.parameters()).register_hook(spoil)

    return register


SHORT = {"backbone": TINY, "embedding_dim": 16, "batch_size": 4, "epochs": 2, "lr": 1e-3}


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_gradient_that_is_not_finite_spoils_no_weights(step: int, tmp_path: Path):
    # Three steps an epoch: the first one, one at the end of an epoch, and the run's last.
    rows = train(faces(), tmp_path / "run", load_config(**SHORT), init=spoilt_at(range(step, step + 1)))
    assert len(rows) == 2
    for name in ("last", "best"):
        tensors, document = load_tensors(tmp_path / "run" / f"{name}.safetensors")
        assert [key for key, value in tensors.items() if not value.isfinite().all()] == []
        assert name == "best" or document["lr_scale"] == pytest.approx(1 / 3)


def test_a_run_that_is_never_finite_says_so_and_keeps_its_start(tmp_path: Path):
    with pytest.raises(UsageError, match=r"not finite even at a rate of .*; change lr, logit_scale or margin"):
        train(faces(), tmp_path / "run", load_config(**SHORT), init=spoilt_at(range(1, 100)))
    tensors, _ = load_tensors(tmp_path / "run" / "last.safetensors")
    assert all(value.isfinite().all() for value in tensors.values())
