from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeface.backbones import build_backbone
from edgeface.training.config import load_config
from reproduce import turned_model

FACES = np.random.default_rng(0).integers(0, 256, (96, 112, 112, 3), np.uint8)


def nets() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Teacher and student, with random weights."""
    torch.manual_seed(0)
    teacher = build_backbone(turned_model.ORIGINAL, embedding=192, size=112).eval()
    return teacher, build_backbone(turned_model.BACKBONE, embedding=turned_model.LENGTH, size=112).train()


def faces() -> turned_model.Faces:
    return turned_model.Faces([FACES[:40], FACES[40:]])


def options(folder: Path, **given: float) -> argparse.Namespace:
    return argparse.Namespace(output=folder, **{"passes": 1.4, "lr": 1e-3, "bf16": False} | given)


def test_a_batch_takes_faces_of_every_part():
    rows = np.array([39, 40, 95, 0])
    found = faces().batch(rows, config := load_config())
    mean, std = config.model.pixel_statistics
    expected = (FACES[rows].transpose(0, 3, 1, 2) - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_targets_keep_the_cosines_of_the_teachers_side_by_side():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(400, 60))  # both embeddings lie on few axes
    given = {name: (low @ rng.normal(size=(60, 100))).astype(np.float32) for name in turned_model.TEACHERS}
    given = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in given.items()}
    found = turned_model.targets_of(given)
    shares = np.array([turned_model.TEACHERS[name][1] ** 2 for name in given])
    wanted = sum(share * rows @ rows.T for share, rows in zip(shares / shares.sum(), given.values(), strict=True))
    assert np.corrcoef((found @ found.T).ravel(), wanted.ravel())[0, 1] > 0.999


def test_early_layers_end_where_maps_are_an_eighth_of_the_face():
    teacher, _ = nets()
    count = turned_model.early_layers(teacher)
    with torch.no_grad():
        before = turned_model.maps_of(teacher, torch.zeros(1, 3, 112, 112), count)
    assert [x.shape[-1] for x in before] == [28] * 5 + [14]


def test_the_fast_copy_computes_the_same():
    teacher, _ = nets()
    x = torch.randn(4, 3, 112, 112)
    with torch.no_grad():
        cosine = torch.nn.functional.cosine_similarity(
            turned_model.fast(teacher).bfloat16()(x.bfloat16()).float(), teacher(x)
        )
    assert cosine.min() > 0.99


def test_every_pass_sees_each_face_once_in_another_order():
    passes = [
        np.concatenate([turned_model.rows_of(step, 640) for step in range(first, first + 10)]) for first in (0, 10)
    ]
    assert all(sorted(rows) == list(range(640)) for rows in passes)
    assert (passes[0] != passes[1]).any()


def test_early_layers_learn_alone_and_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turned_model, "KEEP_EVERY", 1)
    teacher, student = nets()
    start = {name: value.clone() for name, value in student.state_dict().items()}
    turned_model.teach(student, teacher, faces(), options(tmp_path), load_config())
    early = turned_model.early_layers(teacher)
    weights = [name for name, _ in student.named_parameters()]
    changed = {name for name in weights if not torch.equal(student.state_dict()[name], start[name])}
    assert changed == {name for name in weights if int(name.split(".")[1]) < early}
    again = nets()[1]  # what is done is not done again
    turned_model.teach(again, teacher, faces(), options(tmp_path), load_config())
    assert all(torch.equal(student.state_dict()[name], again.state_dict()[name]) for name in weights)


def test_the_last_layer_is_fitted_to_the_targets():
    _, student = nets()
    given, config, rows = faces(), load_config(), np.arange(96)
    targets = np.random.default_rng(1).normal(size=(96, turned_model.LENGTH)).astype(np.float32)
    targets = torch.from_numpy(targets / np.linalg.norm(targets, axis=1, keepdims=True))

    def cosine() -> float:
        with torch.no_grad():
            x = given.batch(rows, config)
            return float(torch.nn.functional.cosine_similarity(student.eval()(x), targets).mean())

    before = cosine()
    turned_model.finish(student, given, rows, targets, config)
    assert cosine() > 0.5 > before
