"""Channels of one size: what the net computes stays, and int8 loses less."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from edgeface.backbones import build_backbone
from edgeface.backbones.equalize import can_be_equalized, equalize
from edgeface.backbones.mobilefacenet import Bottleneck, MobileFaceNet
from edgeface.data.dataset import load_data
from edgeface.deploy import ExportPhotos, export_model
from edgeface.training.checkpoints import load_checkpoint, save_tensors
from edgeface_export.options import ExportOptions

NETS = ["mobilefacenet", "mobilefacenet:act=relu", "mobilefacenet:act=leaky,stem=foamliu,early=relu,padding=same"]


def uneven(name: str, size: int = 32) -> MobileFaceNet:
    """A net some of whose channels are twenty times as large as others."""
    torch.manual_seed(0)
    net = build_backbone(f"{name}{',' if ':' in name else ':'}width=0.25", embedding=8, size=size)
    assert isinstance(net, MobileFaceNet)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data *= 10 ** (1.3 * torch.rand(module.num_features) - 0.65)
            module.bias.data += 0.1 * torch.randn(module.num_features)
        if isinstance(module, nn.PReLU):
            module.weight.data += 0.5 * torch.rand(module.num_parameters)
    with torch.no_grad():
        net.train()(images(64, size))
    return net.eval()


def images(count: int, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count)).clamp(-1, 1)


@torch.no_grad()
def reaches(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Largest number of each channel of each map between two convolutions."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: found.append(output.abs().amax((0, 2, 3))))
        for module in net.modules()
        if isinstance(module, nn.BatchNorm2d | Bottleneck)
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return found[:-1]


@pytest.mark.parametrize("name", NETS)
def test_the_net_computes_the_same(name: str):
    net = uneven(name)
    made = copy.deepcopy(net)
    equalize(made, images(48))
    other = images(16)
    with torch.no_grad():
        torch.testing.assert_close(made(other), net(other), rtol=1e-3, atol=1e-3 * float(net(other).abs().max()))
    assert made.state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize("name", NETS)
def test_the_channels_of_a_map_are_of_one_size(name: str):
    net, x = uneven(name), images(48)
    before = [float(each.max() / each.median()) for each in reaches(net, x)]
    equalize(net, x)
    after = [float(each.max() / each.median()) for each in reaches(net, x)]
    assert np.median(before) > 3
    assert np.median(after) == pytest.approx(1, abs=1e-3)
    assert max(after) < max(before)  # where shortcuts add up, the largest of all these maps counts


def test_a_channel_that_is_always_0_keeps_a_finite_size():
    net = uneven("mobilefacenet")
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    norm.weight.data[0] = norm.bias.data[0] = 0
    equalize(net, images(8))
    assert all(bool(torch.isfinite(value).all()) for value in net.state_dict().values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("name", "able"),
    [
        ("mobilefacenet", True), ("mobilefacenet:act=relu", True), ("mobilefacenet:act=relu6", False),
        ("mobilefacenet:early=relu6", False), ("mobilefacenet:attention=se", False), ("resnet18", False),
    ],
)  # fmt: skip
def test_only_where_activations_scale_with_their_input(name: str, able: bool):
    assert can_be_equalized(build_backbone(name, embedding=8, size=32)) is able


def test_an_export_loses_little_of_uneven_channels(att_people: Path, tmp_path: Path):
    """The demo's weights, the maps inside of whose blocks are made uneven: in float they compute the same."""
    pytest.importorskip("onnx")
    checkpoint = load_checkpoint(Path(__file__).parents[2] / "weights" / "pins-mobilefacenet.safetensors")
    generator = torch.Generator().manual_seed(0)
    for block in (module for module in checkpoint.net.modules() if isinstance(module, Bottleneck)):
        norm, spread = block.layers[1], block.layers[3]
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(spread, nn.Conv2d)
        factors = 10 ** (2 * torch.rand(norm.num_features, generator=generator) - 1)
        norm.weight.data *= factors
        norm.bias.data *= factors
        spread.weight.data /= factors[:, None, None, None]
    contract = json.loads(checkpoint.contract.to_json())
    save_tensors(tmp_path / "best.safetensors", checkpoint.net.state_dict(), {"contract": contract})
    options = ExportOptions(
        formats=("onnx",), precisions=("int8",), calibration_faces=32, max_drop=100, min_cosine=-1
    )  # fmt: skip
    (file,) = export_model(tmp_path, ExportPhotos(data=load_data(att_people)), tmp_path / "files", options).files
    assert file.parity.cosine_mean > 0.99
