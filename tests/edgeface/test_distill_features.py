"""A teacher's feature maps, and that a student learns to predict them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgeface.backbones import build_backbone
from edgeface.cli import run
from edgeface.data.dataset import FaceData, load_data
from edgeface.training.augment import normalize
from edgeface.training.checkpoints import Checkpoint, contract_draft, load_checkpoint, load_tensors, save_tensors
from edgeface.training.config import NORMALIZATIONS, TrainConfig, load_config
from edgeface.training.distill.features import FeatureTeacher, folded, last_feature_maps
from edgeface.training.loop import shrink, train
from edgeface_runtime import UsageError

if TYPE_CHECKING:
    from conftest import Trained

ACT = "mobilefacenet:act=relu,width=0.5"


def untrained(path: Path, text: str = ACT, **settings: object) -> Checkpoint:
    """A checkpoint of random weights, whose batch norms say something."""
    config = load_config(backbone=text, **{"embedding_dim": 16, **settings})
    torch.manual_seed(1)
    net = build_backbone(text, embedding=config.model.embedding_dim, size=config.model.input_size)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    contract = contract_draft(config, data_sha256="", licence="test")
    save_tensors(path, net.state_dict(), {"contract": json.loads(contract.to_json())})
    return load_checkpoint(path)


def config_of(text: str, **settings: object) -> TrainConfig:
    return load_config(backbone=text, **{"embedding_dim": 16, **settings})


def faces_of(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 112, 112, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("mobilefacenet:act=relu", ["layers.10", "layers.17", "layers.23"]),
        ("resnet18", ["trunk.layer1", "trunk.layer2", "trunk.layer3"]),
        ("vgg11:pool=none", ["trunk.13", "trunk.20", "trunk.27"]),
    ],
)
def test_the_last_map_of_each_side_is_a_whole_blocks(text: str, names: Sequence[str]):
    found = last_feature_maps(build_backbone(text, embedding=16, size=112), 112)
    assert [found[side][0] for side in (28, 14, 7)] == names


def test_a_folded_net_says_what_the_net_says(tmp_path: Path):
    net = untrained(tmp_path / "teacher.safetensors").net
    less = folded(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in less.layers)
    x = torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(less(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_teacher_takes_the_students_faces_in_its_own_normalization(tmp_path: Path):
    checkpoint = untrained(tmp_path / "teacher.safetensors", normalization="imagenet")
    student, config = build_backbone("resnet18", embedding=16, size=112), config_of("resnet18")
    faces = faces_of(4)
    mine, its = (normalize(faces, *NORMALIZATIONS[name]) for name in ("arcface", "imagenet"))
    teacher = FeatureTeacher(student, checkpoint, mine, config)
    with torch.no_grad():
        torch.testing.assert_close(teacher.embed(mine), checkpoint.net(its), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [112, 64])
def test_the_hint_loss_is_the_mean_square_of_standardized_maps(tmp_path: Path, side: int):
    checkpoint = untrained(tmp_path / "teacher.safetensors")
    student, config = build_backbone("resnet18", embedding=16, size=112), config_of("resnet18")
    some, faces = (normalize(faces_of(5, seed), *NORMALIZATIONS["arcface"]) for seed in (0, 1))
    teacher = FeatureTeacher(student, checkpoint, some, config)
    teacher.embed(faces)
    student(shrink(faces, side))
    shares = []
    for size, mine, its in ((28, "layer1", 10), (14, "layer2", 17), (7, "layer3", 23)):
        names = [name for name, _ in student.trunk.named_children()]
        with torch.no_grad():
            y = student.trunk[: names.index(mine) + 1](shrink(faces, side))
            scale, shown = (checkpoint.net.layers[: its + 1](x).numpy() for x in (some, faces))
        mean, std = scale.mean((0, 2, 3)), scale.std((0, 2, 3), ddof=1) + 1e-3
        wanted = (shown - mean[:, None, None]) / std[:, None, None]
        wanted = shrink(torch.from_numpy(wanted), y.shape[-1]).numpy()
        layer = teacher.regressors[str(size)]
        weight, bias = layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()
        said = np.einsum("oc,nchw->nohw", weight, y.numpy()) + bias[:, None, None]
        shares.append(((said - wanted) ** 2).mean())
    assert teacher().item() == pytest.approx(float(np.mean(shares)), rel=1e-3)


def test_a_student_that_is_the_teacher_has_no_hint_loss(tmp_path: Path):
    checkpoint = untrained(tmp_path / "teacher.safetensors")
    student = load_checkpoint(tmp_path / "teacher.safetensors").net
    faces = normalize(faces_of(4), *NORMALIZATIONS["arcface"])
    teacher = FeatureTeacher(student, checkpoint, faces, config_of(ACT))
    for side in teacher.sides:
        mean, std = (getattr(teacher, f"{what}{side}").flatten() for what in ("mean", "std"))
        layer = teacher.regressors[str(side)]
        with torch.no_grad():
            layer.weight.copy_(torch.diag(1 / std)[:, :, None, None])
            layer.bias.copy_(-mean / std)
    teacher.embed(faces)
    student(faces)
    assert teacher().item() < 1e-6


def test_a_student_learns_to_predict_the_teachers_feature_maps(trained: Trained):
    config = load_config(backbone="mobilefacenet-tiny")
    student = build_backbone(config.model.backbone, embedding=128, size=112)
    faces = normalize(torch.from_numpy(trained.data.faces[:8]), *NORMALIZATIONS["arcface"])
    teacher = FeatureTeacher(student, load_checkpoint(trained.run), faces, config)
    optimizer = torch.optim.AdamW([*student.parameters(), *teacher.parameters()], lr=1e-2)
    shares = []
    for _ in range(15):
        teacher.embed(faces)
        student(faces)
        share = teacher()
        optimizer.zero_grad()
        share.backward()
        optimizer.step()
        shares.append(share.item())
    assert shares[-1] < 0.5 * shares[0], shares


class Interrupted:
    """Ctrl-C as the second epoch is reported."""

    def track(self, items: Sequence[object], title: str) -> Iterator[object]:
        return iter(items)

    def say(self, line: str, *, heading: bool = False) -> None:
        if "Epoch 2/" in line:
            raise KeyboardInterrupt


@pytest.fixture
def two_people(att_people: Path) -> tuple[FaceData, np.ndarray]:
    """Two people with names, and twenty faces of others."""
    data = load_data(att_people)
    named = np.isin(data.labels, (0, 1))
    paths = tuple(np.array(data.paths)[named].tolist())
    few = FaceData(data.faces[named], data.labels[named], data.identities[:2], paths, data.split[named])
    return few, data.faces[~named][:20]


def test_a_student_learns_its_teachers_embedding_and_a_resumed_run_too(
    two_people: tuple[FaceData, np.ndarray], trained: Trained, tmp_path: Path
):
    few, others = two_people
    teacher = load_checkpoint(trained.run)
    config = load_config(
        None,
        ["progressive_size=64", "progressive_ratio=0.5"],
        backbone="mobilefacenet-tiny", epochs=4, batch_size=10, classification_weight=0.0, warmup_ratio=0.1,
        hint_weight=1.0, lr=2e-3,
    )  # fmt: skip
    rows = train(few, tmp_path / "whole", config, feature_teacher=teacher, unlabeled=others)
    cosines = [row.train_cosine or 0.0 for row in rows]
    assert cosines[-1] > cosines[0], cosines
    assert all(row.val_cosine is not None for row in rows)

    with pytest.raises(KeyboardInterrupt):
        train(few, tmp_path / "broken", config, reporter=Interrupted(), feature_teacher=teacher, unlabeled=others)
    train(few, tmp_path / "broken", config, feature_teacher=teacher, unlabeled=others, resume=True)
    (expected, _), (found, _) = (load_tensors(tmp_path / each / "last.safetensors") for each in ("whole", "broken"))
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def test_the_model_that_is_kept_holds_nothing_of_the_teacher(two_people: tuple[FaceData, np.ndarray], tmp_path: Path):
    few, _ = two_people
    config = config_of("mobilefacenet-tiny", epochs=1, batch_size=10)
    train(few, tmp_path / "run", config, feature_teacher=untrained(tmp_path / "teacher.safetensors"))
    tensors, _ = load_tensors(tmp_path / "run" / "best.safetensors")
    assert tensors.keys() == build_backbone("mobilefacenet-tiny", embedding=16, size=112).state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 24}, "this teacher has 24 floats, the student 16"),
        ({"input_size": 224}, "this teacher has faces of 224 pixels, the student 112"),
    ],
)
def test_a_teacher_of_another_shape_is_refused(tmp_path: Path, settings: dict[str, int], message: str):
    checkpoint = untrained(tmp_path / "teacher.safetensors", **settings)
    student = build_backbone("resnet18", embedding=16, size=112)
    with pytest.raises(UsageError, match=message):
        FeatureTeacher(student, checkpoint, torch.zeros(2, 3, 112, 112), config_of("resnet18"))


def test_a_teacher_without_a_feature_map_in_common_is_refused(tmp_path: Path):
    checkpoint = untrained(tmp_path / "teacher.safetensors")
    alone = replace(checkpoint, net=nn.Sequential(nn.Conv2d(3, 16, 112), nn.Flatten()))
    student = build_backbone("resnet18", embedding=16, size=112)
    with pytest.raises(UsageError, match="no feature map of this teacher has the size of one of resnet18's"):
        FeatureTeacher(student, alone, torch.zeros(2, 3, 112, 112), config_of("resnet18"))


def test_two_kinds_of_teacher_at_once_are_refused(att_people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    checkpoint = untrained(tmp_path / "teacher.safetensors")
    words = ["--guide", str(checkpoint.path), "--teacher", str(checkpoint.path), "--embedding-dim", "16"]
    assert run(["train", str(att_people), "-o", str(tmp_path / "run"), *words]) == 2
    assert "--guide is a teacher itself" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
