from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")
pytest.importorskip("accelerate")

from torch.fx.experimental.optimization import fuse

from edgeface.backbones import build_backbone
from edgeface.backbones.mobilefacenet import MobileFaceNet
from edgeface.training.config import load_config
from edgeface.training.init.start import start_from
from edgeface.training.init.tflite import init_from_tflite
from edgeface_export.formats.tflite_file import write_float
from edgeface_runtime import ModelError, UsageError

SIDE, LENGTH = 32, 24


def net_of(act: str, padding: str, embedding: int = LENGTH, width: float = 0.125) -> MobileFaceNet:
    return MobileFaceNet(embedding, SIDE, act=act, width=width, padding=padding)


class Photos(torch.nn.Module):
    """A net with its normalization in front."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.permute(0, 3, 1, 2).float() / 127.5 - 1)


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    blobs = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return torch.nn.functional.interpolate(blobs, (SIDE, SIDE), mode="bicubic")


@pytest.fixture(scope="module", params=[("prelu", "same"), ("relu6", "both")], ids="-".join)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, faces: torch.Tensor
) -> tuple[Path, str, str, torch.Tensor]:
    """A TFLite file of a net whose batch norms and slopes are not those of the start, its options and embeddings."""
    act, padding = request.param
    torch.manual_seed(0)
    net = net_of(act, padding)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
            layer.momentum = 1.0
        elif isinstance(layer, torch.nn.PReLU):
            torch.nn.init.uniform_(layer.weight, -1.5, 1.5)
    with torch.no_grad():
        net.train()(faces)
        embeddings = net.eval()(faces)
    path = tmp_path_factory.mktemp("file") / "net.tflite"
    write_float(Photos(fuse(net)), SIDE, path)
    return path, act, padding, embeddings


def similarities(embeddings: torch.Tensor) -> np.ndarray:
    unit = torch.nn.functional.normalize(embeddings)
    return (unit @ unit.T).numpy()


def test_a_net_computes_what_the_file_does_whose_layers_it_took(written: tuple, faces: torch.Tensor) -> None:
    path, act, padding, embeddings = written
    net = net_of(act, padding)
    assert "50 layers taken" in init_from_tflite(net, path, faces)
    with torch.no_grad():
        np.testing.assert_allclose(net.eval()(faces), embeddings, atol=1e-3)


def test_no_slope_is_steeper_than_training_keeps(written: tuple, faces: torch.Tensor) -> None:
    path, act, padding, _ = written
    init_from_tflite(net := net_of(act, padding), path, faces)
    slopes = [layer.weight for layer in net.modules() if isinstance(layer, torch.nn.PReLU)]
    assert bool(slopes) == (act == "prelu")
    assert all(slope.abs().max() <= 1 for slope in slopes)


def test_batch_norm_starts_with_the_statistics_of_the_faces(written: tuple, faces: torch.Tensor) -> None:
    path, act, padding, embeddings = written
    net = net_of(act, padding)
    init_from_tflite(net, path, faces)
    with torch.no_grad():
        np.testing.assert_allclose(net.train()(faces), embeddings, atol=0.01)


def test_a_shorter_embedding_keeps_the_cosines(written: tuple, faces: torch.Tensor) -> None:
    path, act, padding, embeddings = written
    net = net_of(act, padding, embedding=20)
    assert "20 principal axes of its 24 numbers" in init_from_tflite(net, path, faces)
    chance = net_of(act, padding, embedding=20).eval()
    with torch.no_grad():
        wanted = similarities(embeddings)
        off = np.abs(similarities(net.eval()(faces)) - wanted).mean()
        assert off < 0.01 < np.abs(similarities(chance(faces)) - wanted).mean()


def test_another_padding_is_named(written: tuple, faces: torch.Tensor) -> None:
    path, act, padding, _ = written
    other = "both" if padding == "same" else "same"
    with pytest.raises(UsageError, match=f"padding={padding}"):
        init_from_tflite(net_of(act, other), path, faces)


def test_layers_of_another_net_are_refused(written: tuple, faces: torch.Tensor) -> None:
    path, act, padding, _ = written
    with pytest.raises(ModelError, match="layer 1 is"):
        init_from_tflite(net_of(act, padding, width=0.25), path, faces)
    with pytest.raises(UsageError, match="can start a mobilefacenet"):
        init_from_tflite(build_backbone("resnet18", embedding=LENGTH, size=112), path, faces)


def test_slopes_are_looked_for_where_the_net_has_them(written: tuple, faces: torch.Tensor) -> None:
    path, act, padding, _ = written
    if act == "relu6":
        with pytest.raises(ModelError, match="act=relu6"):
            init_from_tflite(net_of("prelu", padding), path, faces)


def test_what_is_no_tflite_file_is_said(tmp_path: Path, faces: torch.Tensor) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be read as a TFLite file"):
        start_from(net_of("prelu", "both"), str(path), load_config(), faces=np.zeros((4, SIDE, SIDE, 3), np.uint8))
