"""Nets of timm by name: the same numbers as timm's, no download unasked, one line for what does not go."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("timm") is None:
    pytest.skip("needs timm", allow_module_level=True)

from safetensors.torch import save_file

from edgeface.backbones import build_backbone
from edgeface.backbones.layers import Pooled, stretch_small_maps
from edgeface.cli import run
from edgeface.training.checkpoints import load_checkpoint, origins, save_tensors
from edgeface.training.init.weights import init_backbone
from edgeface.training.qat import fake_quantized
from edgeface_export.rewrite import embedder, torch_embeddings
from edgeface_export.torchvision_repair import repair
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, ModelError, UsageError

repair()
import huggingface_hub.constants
import timm

NAME = "timm:lcnet_050"
SIZE = 64


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hugging Face Hub's cache, empty, and no way to the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def build(name: str = NAME, size: int = SIZE) -> Pooled:
    torch.manual_seed(0)
    net = build_backbone(name, embedding=8, size=size).eval()
    assert isinstance(net, Pooled)
    return net


def publish(hub: Path, name: str) -> torch.nn.Module:
    """Puts a net of timm with weights of its own into the Hub's cache, as a download would."""
    torch.manual_seed(1)
    net = timm.create_model(name, pretrained=False).eval()
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 2)
    known = timm.get_pretrained_cfg(name)
    place = hub / f"models--{known.hf_hub_id.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(net.state_dict(), place / "snapshots" / ("0" * 40) / "model.safetensors")
    return net


def test_published_weights_give_timms_own_feature_map(hub: Path):
    theirs, ours = publish(hub, "lcnet_050"), build()
    loaded = init_backbone(ours, NAME, backbone=NAME, size=SIZE)
    assert all(name.startswith("embed.") for name in loaded.missing)
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(ours.trunk(x), theirs.forward_features(x))


@pytest.mark.parametrize("name", ["resnet10t", "resnet10t.c3_in1k"])
def test_a_name_of_timm_alone_is_said_to_be_one(name: str):
    with pytest.raises(UsageError, match=rf"no backbone '{name}'; timm:{name} is one of timm; there are: mob"):
        build_backbone(f"{name}:pool=none", embedding=8, size=SIZE)
    with pytest.raises(UsageError, match=r"no backbone 'resnet10x'; there are"):
        build_backbone("resnet10x", embedding=8, size=SIZE)


def test_their_licence_goes_with_the_run():
    (origin,) = origins(NAME)
    assert origin.licence == "apache-2.0 (timm's lcnet_050.ra2_in1k)"
    assert origin.role == "init"


def test_weights_that_cannot_be_fetched_are_one_line():
    with pytest.raises(UsageError, match=r"timm's weights of lcnet_050 cannot be fetched \(.*\)"):
        init_backbone(build(), NAME, backbone=NAME)


def test_weights_of_another_net_do_not_fit(hub: Path):
    publish(hub, "lcnet_050")
    with pytest.raises(ModelError, match=r"none of its .* tensors fits"):
        init_backbone(build_backbone("mobilefacenet-tiny", embedding=8, size=32), NAME, backbone="mobilefacenet-tiny")


@pytest.mark.parametrize("name", [NAME, f"{NAME},pool=none", "timm:vit_tiny_patch16_224"])
def test_the_rewrite_of_exports_keeps_its_numbers_and_qat_rounds_it(name: str):
    net, spec = build(name), InputSpec(size=SIZE)
    faces = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    exported = embedder(net, spec, "affine")
    with torch.no_grad():
        found = torch.nn.functional.normalize(exported(torch.from_numpy(faces))).numpy()
        rounded = fake_quantized(build(name)).train()(torch.randn(2, 3, SIZE, SIZE))
    assert found == pytest.approx(torch_embeddings(net, spec, faces), abs=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in exported.modules())
    assert rounded.isfinite().all()


def test_nothing_is_kept_that_is_not_computed_with():
    net = build().train()
    net(torch.randn(2, 3, SIZE, SIZE)).square().sum().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


def test_a_checkpoint_keeps_the_name_and_is_opened_without_a_network(tmp_path: Path):
    net = build()
    spec, length = InputSpec(size=SIZE), EmbeddingSpec(length=8)
    contract = Contract(name="timm-lcnet_050", backbone=NAME, input=spec, embedding=length)
    save_tensors(tmp_path / "x.safetensors", net.state_dict(), {"contract": json.loads(contract.to_json())})
    opened = load_checkpoint(tmp_path / "x.safetensors")
    assert opened.contract.backbone == NAME
    x = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(opened.net(x), net(x))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:mobilenetv4_conv_smal", "timm has no net 'mobilenetv4_conv_smal'; near it: mobilenetv4_conv_small, "),
        ("timm:lcnet_050.mine", "timm has no weights 'mine' of lcnet_050; there are: ra2_in1k"),
        ("timm:vit_tiny_patch16_224,pool=none", "pool=none needs a feature map, and it gives none"),
        ("timm:tf_efficientnet_lite0", "cannot be exported, its graph depends on what it sees"),
    ],
)
def test_what_does_not_go_is_one_line(name: str, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        build(name)
    assert "\n" not in str(caught.value)


def test_a_net_for_one_size_is_not_trained_on_smaller_faces():
    stretch_small_maps(build())
    with pytest.raises(UsageError, match="progressive_size: this backbone takes faces of input_size alone"):
        stretch_small_maps(build("timm:vit_tiny_patch16_224"))


def test_without_the_extra_one_line_names_it(
    att_people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.chdir(tmp_path)
    assert run(["train", str(att_people), "--backbone", NAME]) == 2
    assert "pip install 'edgeface[timm]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
