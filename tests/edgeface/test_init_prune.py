from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch.nn.functional as F

import edgeface.training.init.prune as pruning
from edgeface.backbones import build_backbone
from edgeface.backbones.mobilefacenet import MobileFaceNet
from edgeface.cli import run
from edgeface.training.checkpoints import contract_draft, save_tensors
from edgeface.training.config import load_config
from edgeface.training.init.prune import prune_into
from edgeface.training.init.start import start_from
from edgeface_runtime import UsageError

SIZE = 32
VARIANTS = ({}, {"act": "relu6", "stem": "foamliu"}, {"act": "leaky"})


def build(width: float, seed: int, size: int = SIZE, **options: str) -> MobileFaceNet:
    """A net whose batch norms have seen maps, so that embeddings of different faces differ."""
    torch.manual_seed(seed)
    net = MobileFaceNet(32, size, width=width, **options)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
            layer.momentum = 1.0
        elif isinstance(layer, torch.nn.PReLU):
            torch.nn.init.uniform_(layer.weight, 0, 0.5)
    with torch.no_grad():
        net.train()(some_faces(9, size, 300 if size == SIZE else 8))
    return net.eval()


def some_faces(seed: int, size: int = SIZE, count: int = 300) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(count, 3, 8, 8)).astype(np.float32))
    return F.interpolate(coarse, (size, size), mode="bilinear")


def cosine(net: torch.nn.Module, other: torch.nn.Module) -> float:
    with torch.no_grad():
        x = some_faces(5)
        return float(F.cosine_similarity(net(x), other(x)).mean())


def hide(small: MobileFaceNet, wide: MobileFaceNet) -> None:
    """Puts the small net into the wide one, among channels that nothing later hears of, in a shuffled order."""
    order = {}
    rng = torch.Generator().manual_seed(1)
    mine = [
        layer for layer in small.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.BatchNorm2d | torch.nn.PReLU)
    ]
    its = [
        layer for layer in wide.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.BatchNorm2d | torch.nn.PReLU)
    ]

    def places(have: int, there: int) -> torch.Tensor:
        """The same for all layers of one width: blocks add what they give."""
        if have == there:
            return torch.arange(have)
        return order.setdefault((have, there), torch.randperm(there, generator=rng)[:have])

    with torch.no_grad():
        for own, layer in zip(mine, its, strict=True):
            if isinstance(own, torch.nn.Conv2d):
                out = places(own.out_channels, layer.out_channels)
                if own.groups > 1:
                    layer.weight[out] = own.weight
                else:
                    into = places(own.in_channels, layer.in_channels)
                    layer.weight[out] = 0
                    rows = layer.weight[out]
                    rows[:, into] = own.weight
                    layer.weight[out] = rows
                    deaf = torch.ones(layer.in_channels, dtype=torch.bool)
                    deaf[into] = False
                    layer.weight[:, deaf] = 0
                if own.bias is not None:
                    layer.bias[out] = own.bias
            else:
                there = places(own.weight.numel(), layer.weight.numel())
                for name, value in own.state_dict().items():
                    if value.ndim:
                        layer.state_dict()[name][there] = value


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_all_channels_kept_lose_nothing(options: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pruning, "RIDGE", 1e-4)
    wide, net = build(0.25, 1, **options), build(0.25, 2, **options)
    assert abs(cosine(wide, net)) < 0.5
    prune_into(net, wide, some_faces(3))
    assert cosine(wide, net) > 0.999


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_narrow_net_hidden_in_a_wide_one_is_found(options: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pruning, "RIDGE", 1e-4)
    small, wide, net = build(0.25, 1, **options), build(0.5, 2, **options), build(0.25, 3, **options)
    hide(small, wide)
    assert cosine(wide, small) > 0.999
    prune_into(net, wide, some_faces(3))
    assert cosine(wide, net) > 0.999


def test_the_figure_is_the_mean_cosine_on_these_faces():
    wide, net, faces = build(0.5, 1, act="relu6"), build(0.25, 2, act="relu6"), some_faces(3)
    said = prune_into(net, wide, faces)
    with torch.no_grad():
        theirs, ours = wide(faces).numpy(), net(faces).numpy()
    lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
    assert said == pytest.approx(float(((theirs * ours).sum(1) / lengths).mean()), abs=1e-4)


def test_a_layer_is_fitted_as_numpy_fits_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pruning, "RIDGE", 0.0)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(1, 2, (40, channels, 5, 5)) for channels in (6, 3))
    rows = [np.moveaxis(maps, 1, -1).reshape(1000, -1) for maps in (x, y)]
    expected = np.linalg.lstsq(np.column_stack([rows[0], np.ones(1000)]), rows[1], rcond=None)[0][:-1].T
    found = pruning.Fit({}).least_squares(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_same_faces_give_the_same_net():
    nets = [build(0.25, seed) for seed in (2, 3)]
    for net in nets:
        prune_into(net, build(0.5, 1), some_faces(3))
    for name, value in nets[0].state_dict().items():
        assert torch.equal(value, nets[1].state_dict()[name]), name


@pytest.mark.parametrize(
    "net",
    [
        lambda: build(1.0, 1),
        lambda: build(0.25, 1, act="relu"),
        lambda: build(0.25, 1, stem="foamliu"),
        lambda: MobileFaceNet(16, SIZE, width=0.25),
        lambda: build_backbone("resnet18", embedding=32, size=112),
    ],
    ids=["wider", "activation", "stem", "embedding", "another net"],
)
def test_nets_that_differ_in_more_than_width_are_refused(net):
    with pytest.raises(UsageError, match="only a MobileFaceNet is pruned"):
        prune_into(net(), build(0.5, 1), some_faces(3))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("wide") / "best.safetensors"
    config = load_config(backbone="mobilefacenet:act=relu,width=0.5", embedding_dim=32)
    contract = contract_draft(config, data_sha256="0" * 64, licence="unknown")
    save_tensors(file, build(0.5, 1, 112, act="relu").state_dict(), {"contract": json.loads(contract.to_json())})
    return file


def photos(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 112, 112, 3), np.uint8)


def test_init_prunes_a_wider_checkpoint(checkpoint: Path):
    net = build(0.25, 2, 112, act="relu")
    before = net.layers[0].weight.clone()
    config = load_config(backbone="mobilefacenet:act=relu,width=0.25", embedding_dim=32)
    said = start_from(net, str(checkpoint), config, faces=photos())
    assert "pruned to mobilefacenet:act=relu,width=0.25; mean cosine to it " in said
    assert "40 faces" in said
    assert not torch.equal(before, net.layers[0].weight)


def test_a_run_that_starts_from_a_wider_net_says_so(
    att_people: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    words = f"train {att_people} -o {tmp_path / 'run'} --backbone mobilefacenet:act=relu,width=0.25 --embedding 32"
    words += f" --init {checkpoint} --epochs 1 --set batch_size=16"
    assert run(words.split()) == 0
    assert "pruned to mobilefacenet:act=relu,width=0.25; mean cosine" in capfd.readouterr().err


def test_init_copies_a_checkpoint_of_the_same_width(checkpoint: Path):
    net = build(0.5, 2, 112, act="relu")
    config = load_config(backbone="mobilefacenet:act=relu,width=0.5", embedding_dim=32)
    assert "tensors taken" in start_from(net, str(checkpoint), config, faces=photos())


@pytest.mark.parametrize("backbone", ["mobilefacenet:act=relu", "mobilefacenet:act=relu,width=0.5,stem=foamliu"])
def test_init_refuses_a_checkpoint_of_another_net(backbone: str, checkpoint: Path):
    net = build_backbone(backbone, embedding=32, size=112)
    with pytest.raises(
        UsageError, match=rf"is a mobilefacenet:act=relu,width=0.5, of whose .* do not fit a {backbone}"
    ):
        start_from(net, str(checkpoint), load_config(backbone=backbone, embedding_dim=32), faces=photos())


def test_init_takes_a_checkpoint_into_a_net_with_attention(checkpoint: Path):
    backbone = "mobilefacenet:act=relu,width=0.5,attention=eca"
    net = build_backbone(backbone, embedding=32, size=112)
    said = start_from(net, str(checkpoint), load_config(backbone=backbone, embedding_dim=32), faces=photos())
    assert "keep their random start" in said


def test_init_refuses_an_exported_file(tmp_path: Path):
    with pytest.raises(UsageError, match="an exported file, which cannot be trained on"):
        start_from(build(0.5, 2, 112), str(tmp_path / "a.ensemble"), load_config(), faces=photos())


def test_init_wants_the_wider_nets_normalisation(checkpoint: Path):
    config = load_config(backbone="mobilefacenet:act=relu,width=0.25", embedding_dim=32, normalization="imagenet")
    with pytest.raises(UsageError, match="its own normalization is needed: --set normalization=arcface"):
        start_from(build(0.25, 2, 112, act="relu"), str(checkpoint), config, faces=photos())


def test_init_wants_the_wider_nets_size(checkpoint: Path):
    config = load_config(backbone="mobilefacenet:act=relu,width=0.25", embedding_dim=32, input_size=224)
    with pytest.raises(UsageError, match="its own input_size is needed: --set input_size=112"):
        start_from(build(0.25, 2, 224, act="relu"), str(checkpoint), config, faces=photos())
