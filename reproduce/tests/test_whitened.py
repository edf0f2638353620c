from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from edgeface.backbones import build_backbone
from edgeface.data.dataset import load_data
from edgeface.evaluation.tails import all_against_all
from edgeface.training.checkpoints import load_checkpoint, save_tensors
from edgeface_runtime.model import unit_rows
from reproduce import whitened

LENGTH = 16


def people(seed: int, count: int = 200, photos: int = 8) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings whose first three directions say more of the photo than of who it is."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(count), photos)
    spread = np.where(np.arange(LENGTH) < 3, 1.2, 0.3)
    rows = rng.normal(size=(count, LENGTH))[labels] + spread * rng.normal(size=(len(labels), LENGTH))
    return unit_rows(rows.astype(np.float32)), labels


def covariance_within(rows: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    apart = np.concatenate([rows[labels == label] - rows[labels == label].mean(0) for label in np.unique(labels)])
    found: NDArray[np.float64] = apart.T @ apart / (len(rows) - len(np.unique(labels)))
    return found


def test_a_whole_share_spreads_people_alike_in_every_direction():
    rows, labels = people(0)
    after = covariance_within(rows @ whitened.whitening(rows, labels, 1.0).T, labels)
    np.testing.assert_allclose(after, after[0, 0] * np.eye(LENGTH), atol=1e-6)


def test_no_share_changes_nothing():
    rows, labels = people(0)
    np.testing.assert_allclose(whitened.whitening(rows, labels, 0.0), np.eye(LENGTH), atol=1e-9)


def test_a_shorter_embedding_keeps_what_sets_people_apart():
    rows, labels = people(0)
    low = unit_rows(
        np.hstack([rows, np.zeros_like(rows)]) @ np.linalg.qr(np.random.default_rng(1).normal(size=(32, 32)))[0]
    )
    whole = unit_rows(low @ whitened.whitening(low, labels, 0.5).T)
    short = unit_rows(low @ whitened.whitening(low, labels, 0.5, LENGTH).T)
    assert short.shape == (len(rows), LENGTH)
    np.testing.assert_allclose(short @ short.T, whole @ whole.T, atol=1e-5)


def test_people_that_were_not_fitted_on_are_told_apart_better():
    fitted, (rows, labels) = people(0), people(1)

    def accepted(embeddings: NDArray[np.float32]) -> float:
        found = all_against_all(embeddings, labels)
        return float((found.genuine >= found.threshold(0.001)).mean())

    turned = unit_rows((rows @ whitened.whitening(*fitted, 0.5).T).astype(np.float32))
    assert accepted(turned) > accepted(rows) + 0.1


def test_people_with_one_photo_say_nothing():
    rows, labels = people(0)
    more = np.concatenate([rows, people(1, count=30, photos=1)[0]])
    alone = np.concatenate([labels, 1000 + np.arange(30)])
    found, wanted = whitened.whitening(more, alone, 0.5), whitened.whitening(rows, labels, 0.5)
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("stem", ["paper", "foamliu"])
@pytest.mark.parametrize("length", [LENGTH, 9])
def test_the_last_layer_takes_the_map(stem: str, length: int):
    torch.manual_seed(0)
    net = build_backbone(f"mobilefacenet-tiny:act=relu6,stem={stem}", embedding=LENGTH, size=112).eval()
    for layer in net.modules():  # as after training: statistics and factors of their own
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values in (layer.running_mean, layer.bias.data):
                values.normal_(0, 0.1)
            for values in (layer.running_var, layer.weight.data):
                values.uniform_(0.5, 1.5)
    x, turn = torch.randn(64, 3, 112, 112), np.random.default_rng(0).normal(size=(length, LENGTH))
    with torch.no_grad():
        before = net(x)
        whitened.follow(net, turn, before)
        after = net(x)
        np.testing.assert_allclose(after, before.numpy() @ turn.T, rtol=1e-3, atol=1e-3)
        last = [layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)][-1]
        np.testing.assert_allclose(last.train()(last_input(net.eval(), x)).flatten(1), after, rtol=1e-2, atol=1e-2)


def last_input(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the last batch norm gets."""
    return net.layers[:-2](x)  # type: ignore[no-any-return, index, operator]


@pytest.mark.parametrize("length", [None, 40])
def test_a_whitened_checkpoint_is_one_as_before(length: int | None, att_people: Path, tmp_path: Path):
    torch.manual_seed(0)
    source = tmp_path / "net.safetensors"
    net = build_backbone("mobilefacenet-tiny:act=relu6,stem=foamliu", embedding=128, size=112)
    contract = load_checkpoint("mobilefacenet-tiny").contract
    save_tensors(source, net.state_dict(), {"contract": json.loads(contract.to_json())})
    data = load_data(att_people)
    rows = data.rows("train")
    before = whitened.outputs(load_checkpoint(source).net, contract.input, data, rows).numpy()
    made = load_checkpoint(whitened.write(source, att_people, tmp_path / "whitened.safetensors", length=length))
    embedding = dataclasses.replace(contract.embedding, length=length or 128)
    assert made.contract == dataclasses.replace(contract, embedding=embedding)
    turn = whitened.whitening(unit_rows(before), data.labels[rows], whitened.SHARE, length)
    after = whitened.outputs(made.net, contract.input, data, rows).numpy()
    np.testing.assert_allclose(unit_rows(after), unit_rows((before @ turn.T).astype(np.float32)), atol=1e-3)


def test_the_shares_are_judged_on_people_who_were_not_fitted_on(att_people: Path):
    head, *lines = whitened.choose(Path("mobilefacenet-tiny"), att_people)
    assert head.startswith("share")
    assert [float(line.split()[0]) for line in lines] == [0.0, *whitened.SHARES]
    plain = [float(word) for word in lines[0].replace("%", "").split()[1:]]
    assert len(plain) == 2 * len(whitened.FARS)
    assert all(0 < value <= 100 for value in plain)
