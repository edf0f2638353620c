"""Training itself: real photos, real processes, killed ones too."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from edgeface.backbones import build_backbone
from edgeface.backbones.layers import stretch_small_maps
from edgeface.data.dataset import load_data, split_photos
from edgeface.deploy import ExportPhotos, export_model
from edgeface.training.checkpoints import load_checkpoint, load_tensors
from edgeface.training.config import load_config
from edgeface.training.loop import shrink, train
from edgeface.training.schedule import learning_rate, side_at
from edgeface.training.training_state import make_optimizer
from edgeface_export.rewrite import torch_embeddings
from edgeface_runtime import UsageError

if TYPE_CHECKING:
    from conftest import Trained

SMALL = ["batch_size=12", "embedding_dim=16", "lr=0.001"]


@pytest.fixture
def four_people(att_people: Path, tmp_path: Path) -> Path:
    (tmp_path / "people").mkdir()
    for number in (1, 2, 3, 4):
        (tmp_path / "people" / f"s{number}").symlink_to(att_people / f"s{number}")
    return tmp_path / "people"


def curves(run: Path) -> list[dict[str, str]]:
    """The rows of ``curves.csv``, without how long each epoch took."""
    with (run / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row.pop("seconds")) > 0 for row in rows)
    return rows


def test_a_run_is_whole(trained: Trained):
    assert {path.name for path in trained.run.iterdir()} == {
        "run.json", "curves.csv", "best.safetensors", "last.safetensors",
    }  # fmt: skip
    document = json.loads((trained.run / "run.json").read_text())
    assert document["config"]["schedule"]["epochs"] == 2
    assert document["data"]["sha256"] == trained.data.sha256
    rows = curves(trained.run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    contract = load_checkpoint(trained.run).contract
    assert (contract.licence, contract.data_sha256) == ("test", trained.data.sha256)
    best = max(rows, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    kept, last = (load_tensors(trained.run / f"{name}.safetensors")[0] for name in ("best", "last"))
    is_last = all(torch.equal(value, last[f"learner.net.{name}"]) for name, value in kept.items())
    assert is_last == (best["epoch"] == "2")


def test_slopes_stay_where_the_exact_rewrites_hold(trained: Trained):
    net = load_checkpoint(trained.run).net
    slopes = [module.weight for module in net.modules() if isinstance(module, torch.nn.PReLU)]
    assert slopes
    assert all(bool((weight <= 1).all()) for weight in slopes)


def test_a_few_people_are_learnt(four_people: Path, tmp_path: Path):
    data = load_data(four_people)
    config = load_config(settings=[*SMALL, "margin=0.1", "warmup_ratio=0.1"], epochs=6)
    rows = train(data, tmp_path / "run", config)
    assert rows[-1].train_loss < 0.5 * rows[0].train_loss
    assert rows[-1].train_accuracy > 0.6
    checkpoint = load_checkpoint(tmp_path / "run")
    found = torch_embeddings(checkpoint.net, checkpoint.contract.input, data.faces)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("backbone", ["mobilefacenet", "resnet18:pool=none", "vgg11"])
def test_each_weight_has_one_rate_and_an_embedding_layer_its_own(backbone: str, optimizer: str):
    net = build_backbone(backbone, embedding=16, size=64)
    config = load_config(settings=[f"optimizer={optimizer}", "embedding_lr_scale=0.1"])
    groups = make_optimizer(net, config.optim).param_groups
    share = {id(tensor): group["share"] for group in groups for tensor in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(share) == len(list(net.parameters()))
    slow = [name for name, tensor in net.named_parameters() if share[id(tensor)] != 1]
    assert slow == ([] if backbone == "mobilefacenet" else ["embed.1.weight"])


def test_an_embedding_layer_of_rate_0_stays(four_people: Path, tmp_path: Path):
    starts: list[dict[str, torch.Tensor]] = []
    config = load_config(settings=[*SMALL, "embedding_lr_scale=0"], backbone="resnet18", epochs=1)
    train(
        load_data(four_people), tmp_path / "run", config,
        init=lambda net: starts.append({name: value.clone() for name, value in net.state_dict().items()}),
    )  # fmt: skip
    after = load_checkpoint(tmp_path / "run").net.state_dict()
    same = {name for name, value in starts[0].items() if torch.equal(value, after[name])}
    assert same == {"embed.1.weight"}


def test_small_faces_come_first_and_the_best_net_is_one_of_full_size(four_people: Path, tmp_path: Path):
    settings = ["epochs=3", "progressive_size=64", "progressive_ratio=0.6"]
    config = load_config(None, [*SMALL, *settings], backbone="mobilefacenet-tiny")
    rows = train(load_data(four_people), tmp_path / "run", config)
    assert [row.side for row in rows] == [64, 64, 112]
    found = load_checkpoint(tmp_path / "run").contract.accuracy["validation"]
    assert found["epoch"] == 3


@pytest.mark.parametrize("backbone", ["mobilefacenet", "resnet18", "resnet18:pool=none", "vgg11", "vgg11:pool=none"])
def test_nets_take_smaller_faces_and_full_ones_as_before(backbone: str):
    net = build_backbone(backbone, embedding=16, size=112).eval()
    x = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    before = net(x)
    stretch_small_maps(net)
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    assert net(shrink(x, 64)).shape == (2, 16)


def test_shrinking_keeps_a_flat_face_flat_and_does_not_alias():
    stripes = torch.zeros(1, 3, 112, 112)
    stripes[..., ::2] = 1.0
    small = shrink(stripes, 56)[..., 4:-4]
    torch.testing.assert_close(small, torch.full_like(small, 0.5), rtol=0, atol=0.02)


def train_command(data: Path, run: Path, *more: str) -> list[str]:
    settings = [
        part for setting in (*SMALL, "backbone=mobilefacenet-tiny", "ema_decay=0.9") for part in ("--set", setting)
    ]
    return [sys.executable, "-m", "edgeface", "train", str(data), "-o", str(run), "--epochs", "2", *settings, *more]


def test_a_killed_run_resumes_to_the_same_weights(four_people: Path, tmp_path: Path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(train_command(four_people, whole), check=True, env=environment, capture_output=True)
    child = subprocess.Popen(train_command(four_people, broken), env=environment, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120_000):
            if (broken / "curves.csv").exists() or child.poll() is not None:
                break
            time.sleep(0.005)
        assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert len(curves(broken)) in (1, 2)
    again = train_command(four_people, broken, "--resume")
    subprocess.run(again, check=True, env=environment, capture_output=True)
    for name in ("best.safetensors", "last.safetensors"):
        (expected, _), (found, _) = load_tensors(whole / name), load_tensors(broken / name)
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    assert curves(broken) == curves(whole)


def test_a_run_is_not_resumed_with_other_settings_or_photos(trained: Trained, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    for path in trained.run.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    same = load_config(epochs=2, batch_size=16)
    with pytest.raises(UsageError, match="started with another lr; resume with"):
        train(trained.data, run, load_config(epochs=2, batch_size=16, lr=1.0), resume=True)
    with pytest.raises(UsageError, match="holds a run already; go on with --resume"):
        train(trained.data, run, same)
    other = load_data(trained.photos, seed=3)
    with pytest.raises(UsageError, match="started on other photos"):
        train(other, run, same, resume=True)
    rows = train(trained.data, run, same, resume=True)
    assert len(rows) == 2
    assert (run / "last.safetensors").read_bytes() == (trained.run / "last.safetensors").read_bytes()


def test_too_few_photos_for_the_batch_leave_no_folder(trained: Trained, tmp_path: Path):
    with pytest.raises(UsageError, match=r"batch_size is 500, .*48 training photos: --set batch_size=24"):
        train(trained.data, tmp_path / "run", load_config(batch_size=500))
    assert list(tmp_path.iterdir()) == []


def test_the_rate_rises_and_falls_once_for_each_size():
    small = {"progressive_size": 64, "progressive_ratio": 0.7, "full_size_lr_scale": 0.25}  # three epochs small
    config = load_config(lr=1.0, warmup_ratio=0.3, epochs=4, **small)
    alone = load_config(lr=1.0, warmup_ratio=0.3)
    for share in np.linspace(0, 0.999, 100):
        assert learning_rate(0.75 * share, config) == pytest.approx(learning_rate(share, alone))
        assert learning_rate(0.75 + 0.25 * share, config) == pytest.approx(0.25 * learning_rate(share, alone))
    steps = 7
    switch = [side_at(step // steps, config) for step in range(4 * steps)].index(112)
    assert learning_rate(switch / (4 * steps), config) == pytest.approx(0.25 * 0.04)


def test_the_rate_rises_and_falls():
    config = load_config(lr=1.0, warmup_ratio=0.3)
    rates = [learning_rate(step / 1000, config) for step in range(1001)]
    assert rates[0] == pytest.approx(0.04)
    assert np.argmax(rates) == 300
    assert max(rates) == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert (np.diff(rates[:301]) > 0).all()
    assert (np.diff(rates[300:]) < 0).all()
    assert learning_rate(0.0, load_config(warmup_ratio=0.0)) == pytest.approx(3e-3)


class Lines:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str, *, heading: bool = False) -> None:
        self.said.append(line)

    def track(self, items, title):
        return iter(items)


@pytest.mark.parametrize("validates", [True, False])
def test_a_run_that_nothing_validates_says_which_epoch_it_keeps(validates: bool, four_people: Path, tmp_path: Path):
    data, lines = load_data(four_people), Lines()
    if not validates:
        data = replace(data, split=np.where(data.split == "val", "train", data.split))
    train(data, tmp_path / "run", load_config(settings=SMALL, epochs=1, backbone="mobilefacenet-tiny"), reporter=lines)
    assert any("the last one is kept and early stopping is off" in line for line in lines.said) is not validates


def test_photos_that_were_split_again_are_refused_where_files_are_stamped(trained: Trained, tmp_path: Path):
    again = replace(trained.data, split=split_photos(trained.data.labels, seed=5))
    with pytest.raises(UsageError, match="the photos were split again after mobilefacenet was trained on them"):
        export_model(trained.run, ExportPhotos(data=again), tmp_path / "models")
    assert not (tmp_path / "models").exists()
    contract = trained.export.files[0].contract
    assert contract.photos_sha256 == trained.data.photos_sha256()
    assert again.split_since(contract)
    assert trained.data.split_since(contract) is None
