"""dlib's file read, its feature maps placed, and a ResNet18 that starts from them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from edgeface.backbones import build_backbone
from edgeface.cli import run
from edgeface.data.dataset import load_data
from edgeface.training.checkpoints import load_checkpoint
from edgeface.training.least_squares import fit_linear
from edgeface_runtime import ModelError, UsageError
from reproduce import dlib_start
from reproduce.dlib_start import (
    Layers,
    Map,
    dlib_maps,
    read_dlib,
    read_off,
    start_from_dlib,
    unfolded,
)

SHAPES = [
    (32, 3, 7), *[(32, 32, 3)] * 6, (64, 32, 3), *[(64, 64, 3)] * 7, (128, 64, 3), *[(128, 128, 3)] * 5,
    (256, 128, 3), *[(256, 256, 3)] * 5, *[(256, 256, 3)] * 2,
]  # fmt: skip


def number(value: int) -> bytes:
    """As dlib writes it: how many bytes, then those, the lowest first."""
    length = max(1, (value.bit_length() + 7) // 8)
    return bytes([length]) + value.to_bytes(length, "little")


def tensor(values: np.ndarray) -> bytes:
    return b"".join(map(number, (2, values.size, 1, 1, 1))) + values.astype("<f4").tobytes()


@pytest.fixture(scope="module")
def parts() -> list[tuple[np.ndarray, ...]]:
    """Weight, bias, gain and offset of dlib's layers, random."""
    rng = np.random.default_rng(0)
    return [
        (
            rng.normal(0, (2 / (into * side**2)) ** 0.5, (out, into, side, side)),
            *(rng.normal(mean, 0.1, out) for mean in (0, 1, 0)),
        )
        for out, into, side in SHAPES
    ]


@pytest.fixture(scope="module")
def file(parts: list[tuple[np.ndarray, ...]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dlib") / "net.dat"
    text = b"\x01\x01\x01\x0dloss_metric_2"
    for weight, bias, gain, offset in parts:
        text += b"\x05con_4" + tensor(np.concatenate([weight.ravel(), bias])) + number(32)
        text += b"\x07affine_" + tensor(np.concatenate([gain, offset])) + b"\x01\x01"
    path.write_bytes(text)
    return path


@pytest.fixture(scope="module")
def layers(file: Path) -> Layers:
    return read_dlib(file)


def test_the_file_gives_its_convolutions_with_the_affine_layers_folded_in(
    layers: Layers, parts: list[tuple[np.ndarray, ...]]
):
    assert [tuple(weight.shape) for weight, _ in layers] == [(out, into, side, side) for out, into, side in SHAPES]
    for (weight, bias), (theirs, shift, gain, offset) in zip(layers, parts, strict=True):
        torch.testing.assert_close(weight.double(), torch.from_numpy(theirs * gain[:, None, None, None]), **near())
        torch.testing.assert_close(bias.double(), torch.from_numpy(shift * gain + offset), **near())


def near() -> dict[str, float]:
    return {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"\xff\xd8 a photo", id="a photo"),
        pytest.param(lambda data: data[: len(data) // 2], id="half of it"),
        pytest.param(lambda data: data[:-30], id="its end missing"),
        pytest.param(lambda data: data.replace(b"\x01\x02", b"\x01\x01", 1), id="another version"),
    ],
)
def test_another_file_is_named(file: Path, tmp_path: Path, damage):
    other = tmp_path / "other.dat"
    other.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=r"other\.dat: not dlib's face net"):
        read_dlib(other)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match=r"none\.dat"):
        read_dlib(tmp_path / "none.dat")


@pytest.mark.parametrize(("name", "index"), [("stem", 30), ("inner2", 12), ("inner4", 8), ("inner5", 8)])
def test_a_map_knows_where_in_the_face_it_looks(layers: Layers, name: str, index: int):
    """By the pixels that change the value: the middle of those is its place."""
    face = 255 * torch.rand(1, 3, 150, 150, generator=torch.Generator().manual_seed(0))
    where = dlib_maps(layers, face)[name]
    rows = []
    for row in range(150):
        other = face.clone()
        other[:, :, row] = 255 - other[:, :, row]
        if not torch.equal(dlib_maps(layers, other)[name].values[0, :, index], where.values[0, :, index]):
            rows.append(row)
    assert where.first + index * where.step == pytest.approx((rows[0] + rows[-1]) / 2, abs=0.5)


@pytest.mark.parametrize("first", [0, 1.5])
def test_a_map_is_read_off_where_the_pixels_lie(first: float):
    places = 5 + 4 * torch.arange(35.0)
    ramp = (places[:, None] + 1000 * places).expand(1, 1, 35, 35)  # a value that says where it is
    found = read_off(Map(ramp, 5, 4), first, 4, 112)[0, 0]
    pixels = ((np.arange(28) * 4 + first + 0.5) * 150 / 112 - 0.5).clip(5, 141)
    np.testing.assert_allclose(found.numpy(), pixels[:, None] + 1000 * pixels, rtol=1e-5)


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (7, 2), (1, 2)])
def test_a_convolution_is_found_again_from_what_it_gives(side: int, stride: int):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, side, stride, padding=side // 2)
    x = torch.randn(3, 4, 31, 31)
    with torch.no_grad():
        rows, y = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (unfolded(x, side, stride), conv(x)))
    weight, bias = fit_linear([(rows[:300], y[:300]), (rows[300:], y[300:])], dlib_start.RIDGE)
    torch.testing.assert_close(weight.view_as(conv.weight), conv.weight.detach(), rtol=0.05, atol=0.005)
    torch.testing.assert_close(bias, conv.bias.detach(), rtol=0.05, atol=0.005)


@pytest.mark.parametrize(
    ("backbone", "through", "name", "channels", "place"),
    [("resnet18", 6, "sum7", 64, (0, 8)), ("vgg11", 21, "sum7", 64, (3.5, 8))],
)
def test_a_net_starts_nearer_to_dlibs_maps_than_the_mean_is(
    layers: Layers, att_people: Path, backbone: str, through: int, name: str, channels: int, place: tuple[float, int]
):
    faces = torch.from_numpy(load_data(att_people).faces[:100])
    torch.manual_seed(0)
    net = build_backbone(backbone, embedding=16, size=112)
    start_from_dlib(net, layers, faces, torch.full((3,), 127.5), torch.full((3,), 127.5))
    x = faces.permute(0, 3, 1, 2).float()
    with torch.no_grad():
        y = torch.nn.Sequential(*list(net.trunk.children())[:through])((x - 127.5) / 127.5)[:, :channels]
    aim = F.relu(read_off(dlib_maps(layers, x)[name], *place, 112))
    left = ((y - aim) ** 2).mean() / ((aim - aim.mean((0, 2, 3), keepdim=True)) ** 2).mean()
    assert left < 0.4


@pytest.mark.parametrize("backbone", ["mobilefacenet", "resnet18:stem=stride1", "vgg16"])
def test_another_net_cannot_start_from_it(layers: Layers, backbone: str):
    net = build_backbone(backbone, embedding=16, size=112)
    mean = std = torch.ones(3)
    with pytest.raises(UsageError, match="only vgg11, and resnet18 with stem=stride2"):
        start_from_dlib(net, layers, torch.zeros(2, 112, 112, 3, dtype=torch.uint8), mean, std)


def test_a_training_starts_from_the_checkpoint_and_from_the_file_it_is_told_the_way(
    file: Path, att_people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    start = tmp_path / "start.safetensors"
    given = ["--photos", str(att_people), "--set", "embedding_dim=16", "--set", "seed=3"]
    dlib_start.main(["resnet18", str(file), *given, "-o", str(start)])
    assert "fitted into resnet18 on 48 faces" in capfd.readouterr().out
    words = ["train", str(att_people), "-o", str(tmp_path / "run"), "--backbone", "resnet18", "--embedding-dim", "16"]
    words += ["--epochs", "1", "--set", "batch_size=16", "--set", "seed=3", "--set", "lr=1e-9"]
    assert run([*words, "--init", str(file)]) == 2
    assert "`python -m reproduce.dlib_start`" in capfd.readouterr().err
    assert run([*words, "--init", str(start)]) == 0
    mine, trained = load_checkpoint(start).net, load_checkpoint(tmp_path / "run").net
    assert f"{len(mine.state_dict())} tensors taken\n" in capfd.readouterr().err
    names = [name for name, _ in mine.named_parameters()]
    before, after = mine.state_dict(), trained.state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in names)


@pytest.mark.slow
def test_dlib_itself_says_the_same():
    """On the real file, where dlib and face_recognition_models are installed."""
    dlib = pytest.importorskip("dlib")
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or package.origin is None:
        pytest.skip("no face_recognition_models")
    path = Path(package.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat"
    face = np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    said = np.array(dlib.face_recognition_model_v1(str(path)).compute_face_descriptor(face))
    data = path.read_bytes()
    after = data.index(b"fc_2") + len(b"fc_2" + number(128) + number(256))
    matrix = dlib_start._tensor(data, after).view(256, 128)
    maps = dlib_maps(read_dlib(path), torch.from_numpy(face).permute(2, 0, 1)[None].float())
    np.testing.assert_allclose((maps["end"].values.flatten(1) @ matrix).numpy()[0], said, atol=1e-4)
