"""Fine-tuning for int8: it rounds as files round, and brings a net back that int8 hurts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch import nn

from edgeface.backbones import build_backbone
from edgeface.backbones.layers import PReLU
from edgeface.cli import run
from edgeface.data.dataset import load_data
from edgeface.training.checkpoints import load_checkpoint, save_tensors
from edgeface.training.qat import (
    MEMORY,
    RoundedActivation,
    RoundedWeight,
    fake_quantized,
    finetune,
    finetune_checkpoint,
)
from edgeface_export.formats import onnx_file
from edgeface_export.quantize.static import calibrate
from edgeface_export.rewrite import embedder, torch_embeddings
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, UsageError, load
from edgeface_runtime.model import unit_rows

SIZE = 16
SPEC = InputSpec(size=SIZE)
CONTRACT = Contract(name="small", backbone="mobilefacenet-tiny", input=SPEC, embedding=EmbeddingSpec(length=6))


class Small(nn.Module):
    """Batch norm with statistics, PReLU, ReLU, a shortcut: each kind of rounding once. ``loud`` scales one channel."""

    def __init__(self, loud: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), PReLU(16))
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(16, 6, 8), nn.BatchNorm2d(6), nn.Flatten())
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.uniform_(-0.2, 0.2)
                    module.running_var.uniform_(0.2, 2)
                    module.bias.uniform_(-0.3, 0.3)
            self.stem[1].weight[0] *= loud
            self.stem[1].bias[0] *= loud
            self.block[0].weight[:, 0] /= loud
            self.last[0].weight[:, 0] /= loud
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.last(x + self.block(x))


@pytest.fixture(scope="module")
def faces() -> NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """A run folder with an untrained net for faces of 16 pixels."""
    torch.manual_seed(0)
    net = build_backbone("mobilefacenet-tiny", embedding=6, size=SIZE).eval()
    (tmp_path / "run").mkdir()
    document = {"contract": json.loads(CONTRACT.to_json())}
    save_tensors(tmp_path / "run" / "best.safetensors", net.state_dict(), document)
    return tmp_path / "run"


def int8_onnx(
    net: nn.Module, faces: NDArray[np.uint8], folder: Path, *, corrected: bool = False
) -> NDArray[np.float32]:
    """(N, 6) unit rows of the int8 file that onnxruntime makes and runs, its biases corrected or as they are."""
    onnx_file.write_float(embedder(net, SPEC, "affine"), SIZE, folder / "fp32.onnx")
    job = calibrate(onnx_file, folder / "fp32.onnx", faces, folder)
    path = replace(job, shifts=job.shifts if corrected else {}).write(folder / "int8.onnx", "minmax")
    return load(path, contract=CONTRACT).embed(faces)


def rounded_embeddings(net: nn.Module, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    x = (torch.from_numpy(faces).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.no_grad():
        return unit_rows(fake_quantized(net)(x).numpy())


def test_weights_are_rounded_for_each_channel_and_gradients_pass():
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0.01, 50, 0]).view(
        4, 1, 1, 1
    )
    weight.requires_grad_()
    rounded = RoundedWeight()(weight)
    for channel, found in zip(weight.detach().numpy(), rounded.detach().numpy(), strict=True):
        scale = abs(channel).max() / 127
        expected = scale * np.round(channel / scale) if scale else channel
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    rounded.sum().backward()
    assert (weight.grad == 1).all()


def test_activations_are_rounded_over_a_moving_range():
    layer, rng = RoundedActivation(), np.random.default_rng(0)
    low = high = None
    for _ in range(3):
        x = rng.normal(1, 2, (5, 7)).astype(np.float32)
        found = layer(torch.from_numpy(x)).numpy()
        least, most = min(x.min(), 0), max(x.max(), 0)
        low = least if low is None else MEMORY * low + (1 - MEMORY) * least
        high = most if high is None else MEMORY * high + (1 - MEMORY) * most
        scale = (high - low) / 255
        zero = np.round(-low / scale)
        codes = np.clip(np.round(x / scale) + zero, 0, 255)
        # A value on the edge between two steps may fall to either.
        assert (abs(found - scale * (codes - zero)) < 1e-4).mean() > 0.95
        assert abs(found - scale * (codes - zero)).max() < 1.01 * scale


def test_zeros_stay_zeros():
    assert (RoundedActivation()(torch.zeros(3, 4)) == 0).all()


def test_the_rounded_net_answers_as_the_int8_file_does(faces: NDArray[np.uint8], tmp_path: Path):
    net = Small(loud=1 / 48)
    net.stem[2] = nn.ReLU()  # in which files round nothing, as they do within PReLU
    plain, file = torch_embeddings(net, SPEC, faces), int8_onnx(net, faces, tmp_path)
    rounded = rounded_embeddings(net, faces)
    assert 1 - (rounded * file).sum(1).mean() < 0.1 * (1 - (plain * file).sum(1).mean())


def test_every_stored_tensor_is_rounded_once():
    names = [node.target for node in fake_quantized(Small()).graph.nodes if str(node.target).startswith("rounded")]
    # Input, stem convolution, PReLU, block (with its ReLU), sum, last convolution.
    assert len(names) == len(set(names)) == 6


def test_fine_tuning_brings_back_what_int8_loses(faces: NDArray[np.uint8], tmp_path: Path):
    net = Small(loud=1 / 48)
    expected = torch_embeddings(net, SPEC, faces)
    made = finetune(net, SPEC, faces[:48], steps=120)

    def loss(each: nn.Module, *, corrected: bool) -> float:
        found = int8_onnx(each, faces, tmp_path, corrected=corrected)
        return float(1 - (found[48:] * expected[48:]).sum(1).mean())

    after = loss(made.net, corrected=False)
    assert after < 0.6 * loss(net, corrected=False)
    assert after < 0.8 * loss(net, corrected=True)
    assert made.after > made.before


def test_the_same_seed_gives_the_same_weights_and_leaves_the_net(faces: NDArray[np.uint8]):
    net = Small()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    first, second, other = (finetune(net, SPEC, faces, steps=10, seed=seed).net for seed in (0, 0, 1))
    states = [each.state_dict() for each in (net, first, second, other)]
    assert states[1].keys() == kept.keys()
    assert all(torch.equal(kept[name], states[0][name]) for name in kept)
    assert all(torch.equal(states[1][name], states[2][name]) for name in kept)
    assert not torch.equal(states[1]["last.0.weight"], states[3]["last.0.weight"])
    assert not torch.equal(states[1]["last.0.weight"], kept["last.0.weight"])
    assert all(torch.equal(states[1][name], kept[name]) for name in kept if "running" in name)


def test_slopes_stay_at_most_1(faces: NDArray[np.uint8]):
    net = Small()
    with torch.no_grad():
        net.stem[2].weight.fill_(1.0)
    assert finetune(net, SPEC, faces, steps=10).net.stem[2].weight.max() <= 1


def test_a_checkpoint_is_written_beside(small_run: Path, faces: NDArray[np.uint8]):
    made = finetune_checkpoint(load_checkpoint(small_run), faces, steps=10)
    again = load_checkpoint(small_run / "qat.safetensors")
    assert again.contract == made.contract
    assert again.contract.parent_sha256 == load_checkpoint(small_run).sha256
    assert again.contract.accuracy["finetuning"].keys() >= {"steps", "seed", "photos", "cosine_before", "cosine_after"}
    torch.testing.assert_close(again.net.state_dict(), made.net.state_dict(), rtol=0, atol=0)


def test_bad_input_is_named(faces: NDArray[np.uint8]):
    with pytest.raises(UsageError, match="9 steps of fine-tuning on 64 faces; at least 10"):
        finetune(Small(), SPEC, faces, steps=9)
    with pytest.raises(UsageError, match="on 0 faces"):
        finetune(Small(), SPEC, faces[:0], steps=10)
    broken = Small()
    with torch.no_grad():
        broken.last[0].weight.fill_(torch.nan)
    with pytest.raises(UsageError, match="not finite"):
        finetune(broken, SPEC, faces, steps=10)


def test_files_are_judged_against_the_net_before(
    small_run: Path, att_people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--int8", "--qat", "--qat-steps", "10", "--format", "onnx", "--faces", "8", "--max-drop", "100"]
    words += ["--min-cosine", "-1", "-o", str(tmp_path / "models"), "--json"]
    assert run(["export", str(small_run), "--data", str(att_people), *words]) == 0
    [row] = json.loads(capsys.readouterr().out)["files"]
    parent, data = load_checkpoint(small_run), load_data(att_people, size=SIZE)
    found = load(row["path"])
    assert found.contract.parent_sha256 == parent.sha256
    assert found.contract.accuracy["finetuning"]["steps"] == 10
    held_out = data.faces[data.rows("test")]
    cosines = (found.embed(held_out) * torch_embeddings(parent.net, SPEC, held_out)).sum(axis=1)
    assert row["cosine_mean"] == pytest.approx(cosines.mean(), abs=1e-5)
    assert (small_run / "qat.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--qat", "--precision", "fp32", "--int8"], "--qat moves the weights for int8; export fp32 without it"),
        (["--qat", "--contract", "theirs.toml"], "--qat and --converter are for runs and checkpoints"),
        (["--qat", "--qat-steps", "3"], "3 steps of fine-tuning"),
        (["--converter", "onnx2tf"], "converter onnx2tf: there are litert, keras"),
    ],
)
def test_what_cannot_be_asked_is_named(
    words: list[str],
    message: str,
    small_run: Path,
    att_people: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert run(["export", str(small_run), "-d", str(att_people), "-o", str(tmp_path / "models"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
    assert not (small_run / "qat.safetensors").exists()
