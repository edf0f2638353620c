"""The embedding by least squares and the head by means, before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch.utils.data import TensorDataset

from edgeface.backbones import build_backbone
from edgeface.data.dataset import load_data
from edgeface.training.checkpoints import load_checkpoint
from edgeface.training.config import load_config
from edgeface.training.init import fit
from edgeface.training.init.fit import fit_embedding
from edgeface.training.loop import train
from edgeface_runtime import UsageError

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData

GUIDE = Path(__file__).parents[2] / "weights" / "mobilefacenet.safetensors"
LEAST = ["batch_size=12", "lr=1e-6", "embedding_dim=128", "classification_weight=0"]


class Heard:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str, *, heading: bool = False) -> None:
        self.lines.append(line)

    def track(self, items: Sequence[object], title: str) -> Iterator[object]:
        return iter(items)


@pytest.fixture
def people(att_people: Path, tmp_path: Path) -> FaceData:
    (tmp_path / "people").mkdir()
    for number in (1, 2, 3, 4):
        (tmp_path / "people" / f"s{number}").symlink_to(att_people / f"s{number}")
    return load_data(tmp_path / "people")


@pytest.mark.parametrize("backbone", ["resnet18:pool=none", "vgg11"])
def test_the_embedding_is_scikit_learns_ridge(backbone: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fit, "ROWS", 16)
    torch.manual_seed(0)
    net = build_backbone(backbone, embedding=6, size=64)
    x, wanted = torch.randn(40, 3, 64, 64), 3 * torch.randn(40, 6)
    cosine = fit_embedding(net, TensorDataset(*(each.unflatten(0, (8, 5)) for each in (x, wanted))), len(x))
    with torch.no_grad():
        rows = net.embed[0](net.trunk(x)).flatten(1).double().numpy()
        said = net(x).numpy()
    aim = F.normalize(wanted).numpy()
    centred = rows - rows.mean(0)
    penalty = fit.RIDGE * rows.shape[1] / len(rows) * (centred**2).sum(0).mean()
    expected = Ridge(penalty, solver="svd").fit(rows, aim).predict(rows)
    scale = said.std() / expected.std()
    np.testing.assert_allclose(said, scale * expected, atol=0.02 * said.std())
    lengths = np.linalg.norm(said, axis=1) * np.linalg.norm(aim, axis=1)
    assert cosine == pytest.approx(float(((said * aim).sum(1) / lengths).mean()), abs=1e-3)


def test_what_cannot_be_fitted_is_said_before_anything_is_done(people: FaceData, tmp_path: Path):
    for backbone, guide, said in (
        ("resnet18", None, "--guide CHECKPOINT or --teacher MODEL"),
        ("mobilefacenet", load_checkpoint(GUIDE), "only resnet18 and vgg"),
    ):
        config = load_config(settings=["batch_size=12", "fit_embedding=true"], backbone=backbone, epochs=1)
        with pytest.raises(UsageError, match=said):
            train(people, tmp_path / "run", config, feature_teacher=guide)
        assert not (tmp_path / "run").exists()


def test_a_run_starts_from_the_fit_and_says_how_near_it_is(people: FaceData, tmp_path: Path):
    cosines = {}
    for refit in ("true", "false"):
        config = load_config(settings=[*LEAST, f"fit_embedding={refit}"], backbone="resnet18:pool=none", epochs=1)
        heard = Heard()
        rows = train(people, tmp_path / refit, config, reporter=heard, feature_teacher=load_checkpoint(GUIDE))
        cosines[refit] = rows[-1].train_cosine
        said = "\n".join(heard.lines)
        assert ("embedding fitted on 24 faces: mean cosine to the teacher" in said) is (refit == "true")
    assert cosines["true"] > cosines["false"] + 0.2


def test_a_net_that_knows_faces_names_people_from_an_imprinted_head(people: FaceData, tmp_path: Path):
    known = load_checkpoint(GUIDE)

    def fill(net: torch.nn.Module) -> None:
        net.load_state_dict(known.net.state_dict())

    accuracy = {}
    for imprint in ("true", "false"):
        settings = ["batch_size=12", "lr=1e-6", "normalization=imagenet", f"imprint_head={imprint}"]
        config = load_config(settings=settings, backbone=known.contract.backbone, epochs=1)
        rows = train(people, tmp_path / imprint, config, init=fill)
        accuracy[imprint] = rows[-1].val_accuracy
    assert accuracy["true"] == 1
    assert accuracy["false"] < 1
