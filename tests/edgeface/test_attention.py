"""Attention blocks against their papers' formulas, torchvision, and as files of each engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeface.backbones import build_backbone
from edgeface.backbones.attention import ATTENTION, Cbam, EfficientChannelAttention, SqueezeExcitation, eca_kernel
from edgeface.training.init.prune import is_wider
from edgeface_export.rewrite import embedder, torch_embeddings
from edgeface_export.torchvision_repair import repair
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, load

KINDS = ("se", "eca", "cbam")


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_squeeze_and_excitation_is_torchvisions():
    repair()
    from torchvision.ops import SqueezeExcitation as Theirs

    ours, theirs = SqueezeExcitation(32).double(), Theirs(32, 2).double()
    _, down, _, up, _ = ours.weigh
    theirs.fc1.load_state_dict(down.state_dict())
    theirs.fc2.load_state_dict(up.state_dict())
    torch.testing.assert_close(ours(maps(2, 32, 5, 3)), theirs(maps(2, 32, 5, 3)))


@pytest.mark.parametrize(("channels", "taps"), [(8, 3), (16, 3), (32, 3), (64, 3), (128, 5), (256, 5), (512, 5)])
def test_the_width_of_ecas_filter_is_the_papers(channels: int, taps: int):
    # Equation 12: |log2(C) / 2 + 1 / 2| to an odd number; the paper's section 3.2.3 and its code go up from even ones.
    assert eca_kernel(channels) == taps
    assert taps % 2 == 1
    assert abs(taps - (np.log2(channels) / 2 + 0.5)) <= 1


def test_eca_is_one_filter_over_the_row_of_means():
    block, x = EfficientChannelAttention(128).double(), maps(2, 128, 4, 3)
    taps = block.row.weight.detach().numpy().reshape(-1)
    means = np.pad(x.mean((2, 3)).numpy(), ((0, 0), (2, 2)))
    row = np.stack([np.correlate(line, taps, "valid") for line in means])
    assert block(x).detach().numpy() == pytest.approx(x.numpy() * sigmoid(row)[:, :, None, None])


def test_cbam_is_the_papers_formula():
    block, x = Cbam(32).double().eval(), maps(2, 32, 9, 8)
    block.place[1].running_mean.fill_(0.3)
    first, second = (
        [layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()] for layer in block.mlp[::2]
    )

    def mlp(row: np.ndarray) -> np.ndarray:
        return np.maximum(row @ first[0].T + first[1], 0) @ second[0].T + second[1]

    values = x.numpy()
    values = values * sigmoid(mlp(values.mean((2, 3))) + mlp(values.max((2, 3))))[:, :, None, None]
    pair = np.pad(np.stack([values.mean(1), values.max(1)], 1), ((0, 0), (0, 0), (3, 3), (3, 3)))
    windows = np.lib.stride_tricks.sliding_window_view(pair, (7, 7), (2, 3))
    place = np.einsum("nchwij,cij->nhw", windows, block.place[0].weight.detach().numpy()[0])
    place = (place - 0.3) / np.sqrt(1 + 1e-5)
    assert block(x).detach().numpy() == pytest.approx(values * sigmoid(place)[:, None])


@pytest.mark.parametrize("name", ["mobilefacenet-tiny", "resnet18"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_block_of_a_net_learns(name: str, kind: str):
    net = build_backbone(f"{name}:attention={kind}", embedding=8, size=32)
    blocks = [module for module in net.modules() if isinstance(module, ATTENTION[kind])]
    assert len(blocks) == (15 if name == "mobilefacenet-tiny" else 8)
    net(torch.randn(4, 3, 32, 32)).square().sum().backward()
    moved = [any(p.grad.abs().sum() > 0 for p in block.parameters()) for block in blocks]
    assert sum(moved) >= len(moved) - 2  # a map of one place has no deviation, and a few hidden channels may be silent


def test_a_resnet_with_attention_starts_from_the_same_weights_as_one_without():
    plain, attentive = (build_backbone(f"resnet18:attention={kind}", embedding=8, size=32) for kind in ("none", "eca"))
    assert set(plain.state_dict()) < set(attentive.state_dict())


def test_a_net_with_attention_is_not_pruned():
    wide, narrow = (
        build_backbone(f"mobilefacenet:attention=se,width={width}", embedding=8, size=32) for width in (0.5, 0.25)
    )
    assert not is_wider(wide, narrow)


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_files_compute_the_same_and_stay_in_int8(kind: str, tmp_path: Path):
    pytest.importorskip("onnx")
    from edgeface_export.formats import onnx_file
    from edgeface_export.quantize.static import calibrate

    torch.manual_seed(0)
    name, spec = f"mobilefacenet:width=0.25,act=relu,attention={kind}", InputSpec(size=32)
    net = build_backbone(name, embedding=8, size=32).eval()
    contract = Contract(name="x", backbone=name, input=spec, embedding=EmbeddingSpec(length=8))
    faces = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    onnx_file.write_float(embedder(net, spec, "affine"), 32, tmp_path / "fp32.onnx")
    expected = torch_embeddings(net, spec, faces)
    assert load(tmp_path / "fp32.onnx", contract=contract).embed(faces) == pytest.approx(expected, abs=1e-4)
    path = calibrate(onnx_file, tmp_path / "fp32.onnx", faces, tmp_path).write(tmp_path / "int8.onnx", "minmax")
    found = onnx_file.operators(path)
    assert found["int8"]["QLinearSigmoid"] == (30 if kind == "cbam" else 15)
    # Of CBAM, onnxruntime has no mean and no maximum over channels in int8.
    assert set(found["float"]) <= {"Sub", "Mul", *(("ReduceMean", "ReduceMax") if kind == "cbam" else ())}
