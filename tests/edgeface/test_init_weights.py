from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("torchvision") is None:
    pytest.skip("needs torchvision", allow_module_level=True)
pytest.importorskip("accelerate")

from safetensors.torch import save_file

from edgeface.backbones import build_backbone
from edgeface.training import checkpoints
from edgeface.training.config import load_config
from edgeface.training.init.weights import init_backbone
from edgeface_export.torchvision_repair import repair
from edgeface_runtime import ModelError, UsageError

FOAMLIU = "mobilefacenet:act=relu6,stem=foamliu"


def build(text: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_backbone(text, embedding=128, size=112).eval()


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that torch.hub takes for its cache of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_imagenet_takes_the_published_file_from_the_cache(torch_home: Path):
    repair()
    from torchvision.models import resnet18

    published = resnet18(weights=None).state_dict()
    torch.save(published, torch_home / "resnet18-f37072fd.pth")
    net = build("resnet18")
    loaded = init_backbone(net, "imagenet", backbone="resnet18")
    assert loaded.unexpected == ("fc.weight", "fc.bias")
    assert loaded.mismatched == ()
    assert all(name.startswith("embed.") for name in loaded.missing)
    assert torch.equal(net.trunk.layer3[1].conv2.weight, published["layer3.1.conv2.weight"])


def test_imagenet_says_what_another_stem_cannot_take(torch_home: Path):
    repair()
    from torchvision.models import resnet18

    torch.save(resnet18(weights=None).state_dict(), torch_home / "resnet18-f37072fd.pth")
    loaded = init_backbone(build("resnet18:stem=stride1"), "imagenet", backbone="resnet18:stem=stride1")
    assert loaded.mismatched == ("trunk.conv1.weight (64, 3, 7, 7) for (64, 3, 3, 3)",)
    assert "trunk.layer1.0.downsample.0.weight" in loaded.missing
    assert "have another shape" in str(loaded)


def test_imagenet_for_vgg(torch_home: Path):
    weights = {f"features.{name}": value for name, value in build("vgg11", seed=1).trunk.state_dict().items()}
    torch.save({**weights, "classifier.0.bias": torch.zeros(4096)}, torch_home / "vgg11_bn-6002323d.pth")
    net = build("vgg11")
    assert init_backbone(net, "imagenet", backbone="vgg11").unexpected == ("classifier.0.bias",)
    assert torch.equal(net.trunk[0].weight, weights["features.0.weight"])


def test_imagenet_damaged_absent_or_not_there(torch_home: Path, monkeypatch: pytest.MonkeyPatch):
    (torch_home / "resnet18-f37072fd.pth").write_bytes(b"cut")
    with pytest.raises(ModelError, match="the weights of resnet18 are damaged"):
        init_backbone(build("resnet18"), "imagenet", backbone="resnet18")
    with pytest.raises(UsageError, match="no ImageNet weights for mobilefacenet; there are for resnet18, vgg11, vgg16"):
        init_backbone(build("mobilefacenet"), "imagenet", backbone="mobilefacenet")
    (torch_home / "resnet18-f37072fd.pth").unlink()
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UsageError, match=r"no network\); put the file at .*resnet18-f37072fd.pth"):
        init_backbone(build("resnet18"), "imagenet", backbone="resnet18")


def checkpoint(folder: Path, text: str) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = build(text, seed=7).state_dict()
    contract = checkpoints.contract_draft(load_config(backbone=text), data_sha256="0" * 64, licence="test")
    checkpoints.save_tensors(folder / "best.safetensors", weights, {"contract": json.loads(contract.to_json())})
    return weights


@pytest.mark.parametrize("source", ["", "best.safetensors"])
def test_a_run_or_checkpoint_of_ours_fills_the_whole_net(tmp_path: Path, source: str):
    weights = checkpoint(tmp_path, "mobilefacenet-tiny")
    net = build("mobilefacenet-tiny")
    loaded = init_backbone(net, str(tmp_path / source), backbone="mobilefacenet-tiny")
    assert (loaded.missing, loaded.unexpected, loaded.mismatched) == ((), (), ())
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_a_saved_state_gives_its_averaged_net(tmp_path: Path):
    weights = build("mobilefacenet-tiny", seed=3).state_dict()
    saved = {f"average.{name}": value for name, value in weights.items()}
    saved |= {f"learner.net.{name}": torch.zeros_like(value) for name, value in weights.items()}
    save_file({**saved, "learner.head.weight": torch.zeros(3, 128)}, tmp_path / "last.safetensors")
    net = build("mobilefacenet-tiny")
    init_backbone(net, str(tmp_path / "last.safetensors"), backbone="mobilefacenet-tiny")
    assert torch.equal(net.layers[0].weight, weights["layers.0.weight"])


def test_a_checkpoint_of_another_net_is_refused(tmp_path: Path):
    checkpoint(tmp_path, "mobilefacenet-tiny")
    with pytest.raises(ModelError, match=r"none of its .* tensors fits a resnet18; it has layers\.\d+"):
        init_backbone(build("resnet18"), str(tmp_path), backbone="resnet18")


@pytest.mark.parametrize(
    ("name", "text"), [("names.toml", "'^backbone\\.' = 'layers.'\n"), ("names.json", '{"^backbone\\\\.": "layers."}')]
)
@pytest.mark.parametrize("wrap", [False, True])
def test_a_state_dict_under_other_names_with_a_map(tmp_path: Path, name: str, text: str, wrap: bool):
    weights = build("mobilefacenet-tiny", seed=5).state_dict()
    renamed = {f"module.backbone.{key.removeprefix('layers.')}": value for key, value in weights.items()}
    torch.save({"state_dict": renamed, "epoch": 3} if wrap else renamed, tmp_path / "theirs.pt")
    (tmp_path / name).write_text(text)
    net = build("mobilefacenet-tiny")
    loaded = init_backbone(net, str(tmp_path / "theirs.pt"), backbone="mobilefacenet-tiny", names=str(tmp_path / name))
    assert len(loaded.matched) == len(weights)
    assert torch.equal(net.layers[0].weight, weights["layers.0.weight"])


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("absent.pt", None, UsageError, "no such file"),
        ("cut.pt", b"\x80\x02cut", ModelError, "not a state dict|cannot be read as weights"),
        ("cut.safetensors", b"12345678", ModelError, "cannot be read as weights"),
        ("empty.pt", b"", ModelError, "cannot be read as weights"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, data: bytes | None, error: type[Exception], message: str):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message):
        init_backbone(build("mobilefacenet-tiny"), str(tmp_path / name), backbone="mobilefacenet-tiny")


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path):
    torch.save(build("mobilefacenet-tiny"), tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="not a state dict of tensors alone"):
        init_backbone(build("mobilefacenet-tiny"), str(tmp_path / "whole.pt"), backbone="mobilefacenet-tiny")


@pytest.mark.parametrize(
    ("names", "text", "message"),
    [
        ("nobody", None, "no name map 'nobody'; there are: foamliu"),
        ("map.toml", "'(' = 'x'", "not a map of regular expression"),
        ("map.json", "[1]", "not a map of regular expression"),
        ("map.toml", "a = 3", "not a map of regular expression"),
    ],
)
def test_bad_name_maps(tmp_path: Path, names: str, text: str | None, message: str):
    checkpoint(tmp_path, "mobilefacenet-tiny")
    if text is not None:
        (tmp_path / names).write_text(text)
        names = str(tmp_path / names)
    with pytest.raises(UsageError, match=message):
        init_backbone(build("mobilefacenet-tiny"), str(tmp_path), backbone="mobilefacenet-tiny", names=names)


def test_the_public_nets_weights_give_the_public_nets_embeddings(shared: Path):
    """Needs ``weights/mobilefacenet.pt`` of github.com/foamliu/MobileFaceNet as peers/foamliu-mobilefacenet.pt."""
    weights, onnx = (shared / f"peers/foamliu-mobilefacenet{end}" for end in (".pt", "-128d.onnx"))
    if not (weights.exists() and onnx.exists()):
        pytest.skip("needs the public net's weights and its ONNX file")
    import onnxruntime
    from PIL import Image

    net = build(FOAMLIU)
    loaded = init_backbone(net, str(weights), backbone=FOAMLIU, names="foamliu")
    assert (loaded.missing, loaded.unexpected, loaded.mismatched) == ((), (), ())
    photos = sorted((shared / "data/lfw/images").glob("*.jpg"))[:20]
    faces = np.stack([np.asarray(Image.open(photo).convert("RGB").resize((112, 112))) for photo in photos])
    x = ((faces / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"input0": row[None]})[0] for row in x])
    with torch.no_grad():
        np.testing.assert_allclose(net(torch.from_numpy(x)).numpy(), expected, atol=1e-4 * np.abs(expected).max())
