"""Thresholds in the contract and the card: whose photos they come from, what they are, why there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgeface.data.att import att_folder
from edgeface.data.dataset import FaceData, load_data
from edgeface.deploy import ExportPhotos, export_model
from edgeface.evaluation.tails import thresholds
from edgeface.training.checkpoints import load_checkpoint
from edgeface_export.options import ExportOptions
from edgeface_export.result import ExportResult
from edgeface_runtime import ContractError, UsageError, load, read_contract
from edgeface_runtime.model import unit_rows

if TYPE_CHECKING:
    from conftest import Trained


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> FaceData:
    """Sixteen AT&T people that the short run did not see."""
    folder = tmp_path_factory.mktemp("others")
    for number in range(9, 25):
        (folder / f"s{number}").symlink_to(att_folder() / f"s{number}")
    return load_data(folder, pattern="*.pgm")


OPTIONS = ExportOptions(formats=["onnx"], calibration_faces=16, max_drop=100, min_cosine=-1)


@pytest.fixture(scope="module")
def made(trained: Trained, others: FaceData, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    folder = tmp_path_factory.mktemp("models")
    return export_model(trained.run, ExportPhotos(data=trained.data, threshold_data=others), folder, OPTIONS)


def test_each_file_holds_thresholds_of_its_own_scores(made: ExportResult, others: FaceData):
    for file in made.files:
        expected = thresholds(load(file.path).embed(others.faces), others.labels)
        contract = read_contract(file.path)
        assert (contract.thresholds, contract.accuracy["thresholds"]) == expected
    first, second = (file.contract.thresholds for file in made.files)
    assert first["0.01"] != second["0.01"]


def test_a_threshold_accepts_its_share_of_the_impostors():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(15), 10)
    rows = unit_rows((rng.normal(0, 1, (15, 8))[labels] + rng.normal(0, 0.5, (150, 8))).astype(np.float32))
    found, facts = thresholds(rows, labels)
    scores = rows.astype(np.float64) @ rows.T.astype(np.float64)
    pairs = [(scores[i, j], labels[i] == labels[j]) for i in range(150) for j in range(i)]
    impostors = [score for score, same in pairs if not same]
    genuine = [score for score, same in pairs if same]
    for far in (0.01, 0.001):
        item = found[f"{far:g}"]
        assert item["pairs"] == len(impostors) == 10500
        assert sum(score >= item["value"] for score in impostors) == int(far * len(impostors))
        tar = sum(score >= item["value"] for score in genuine) / len(genuine)
        assert item["tar"] == pytest.approx(tar, abs=1e-5)
        assert item["low"] <= item["value"] <= item["high"]
    assert found["0.0001"] is None
    assert set(facts["missing"]) == {"0.0001", "1e-05", "1e-06", "1e-07"}


def test_a_rate_with_too_few_pairs_is_null_with_its_reason(made: ExportResult):
    contract = read_contract(made.files[0].path)
    assert contract.thresholds["0.0001"] is None
    facts = contract.accuracy["thresholds"]
    assert (facts["people"], facts["photos"]) == (16, 160)
    assert "12000 pairs of different people make 1.2 false accepts expected" in facts["missing"]["0.0001"]
    assert contract.thresholds["0.001"] is not None
    assert set(facts["missing"]) == {"0.0001", "1e-05", "1e-06", "1e-07"}


def test_accuracy_lies_in_the_contract(made: ExportResult, trained: Trained):
    for file in made.files:
        # What training measured stays.
        validation = load_checkpoint(trained.run).contract.accuracy["validation"]
        assert read_contract(file.path).accuracy["validation"] == validation
        found = read_contract(file.path).accuracy["verification"]
        assert found["pairs"] == file.drop.pairs == 24 * 23 // 2
        assert found["low"] < found["value"] < found["high"]
        assert found["value"] == pytest.approx(file.drop.accuracy, abs=1e-5)
        assert found["drop_points"] == pytest.approx(file.drop.points, abs=1e-5)
        assert found["drop_low"] <= found["drop_points"] <= found["drop_high"]


def test_the_card_says_what_the_contracts_say(made: ExportResult):
    card = made.card.read_text("utf-8")
    assert made.card.name == "mobilefacenet.card.md"
    for file in made.files:
        at = read_contract(file.path).thresholds["0.001"]
        assert f"| {file.path.name} | {file.size_bytes:,} | `{file.contract.recipe}` | {file.cosine_mean:.5f} |" in card
        assert f"| {file.path.name} | 0.001 | {at['value']:.4f} ({at['low']:.4f} to {at['high']:.4f}) |" in card
    assert "160 photos of 16 people that the model was not trained on" in card
    assert "- FMR 0.0001: none: 12000 pairs" in card
    assert "Licence that the training photos impose: test" in card
    assert str(made.files[0].contract.parent_sha256) in card


def test_without_unseen_people_there_are_none_and_the_card_says_so(trained: Trained):
    contract = read_contract(trained.file("int8", "onnx"))
    assert contract.thresholds == dict.fromkeys(("0.01", "0.001", "0.0001", "1e-05", "1e-06", "1e-07"))
    assert contract.accuracy["thresholds"]["photos"] == 0
    reason = "the photos show no two people that were not trained on, one of them twice"
    assert set(contract.accuracy["thresholds"]["missing"].values()) == {reason}
    assert f"- FMR 0.01: none: {reason}." in trained.export.card.read_text("utf-8")


def test_people_without_train_photos_set_thresholds(trained: Trained):
    split = trained.data.split.copy()
    split[trained.data.labels >= 5] = "test"
    found = ExportPhotos(data=replace(trained.data, split=split)).select(112, ExportOptions()).thresholds
    assert found is not None
    np.testing.assert_array_equal(found.faces, trained.data.faces[trained.data.labels >= 5])
    _, facts = found.thresholds(unit_rows(np.random.default_rng(0).normal(0, 1, (30, 4)).astype(np.float32)))
    assert (facts["people"], facts["photos"]) == (3, 30)


@pytest.mark.parametrize("labels", [[], [0, 0, 0], [0, 1, 2]])
def test_people_that_cannot_be_compared_give_none(labels: list[int]):
    rows = unit_rows(np.random.default_rng(0).normal(0, 1, (len(labels), 4)).astype(np.float32))
    found, facts = thresholds(rows, np.array(labels, np.int64))
    assert set(found.values()) == {None}
    assert set(facts["missing"]) == set(found)


def test_training_photos_give_no_thresholds(trained: Trained, others: FaceData, tmp_path: Path):
    mixed = replace(
        others, faces=np.concatenate([others.faces[2:], trained.data.faces[trained.data.rows("train")][:2]])
    )
    photos = ExportPhotos(data=trained.data, threshold_data=mixed)
    with pytest.raises(UsageError, match="2 of the threshold photos are training photos; give people not trained on"):
        export_model(trained.run, photos, tmp_path / "models", OPTIONS)
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        export_model(trained.run, replace(photos, threshold_data=tmp_path / "nowhere"), tmp_path / "models")
    assert not (tmp_path / "models").exists()


CONTRACT = """
name = "theirs"
backbone = "theirs"
[input]
size = 112
[embedding]
length = 128
"""


def test_a_third_party_model_is_evaluated_on_the_same_photos(
    trained: Trained, without_contract: Callable[[Path, Path], Path], tmp_path: Path
):
    (tmp_path / "contract.toml").write_text(CONTRACT)
    photos = ExportPhotos(data=trained.data)
    source = without_contract(trained.file("fp32", "onnx"), tmp_path / "foreign.onnx")
    contract = tmp_path / "contract.toml"
    options = ExportOptions(precisions=["int8"], calibration_faces=16, max_drop=100, min_cosine=-1)
    found = export_model(source, photos, tmp_path / "models", options, contract=contract)
    assert found.passed, found.reason
    assert [file.path.name for file in found.files] == ["theirs.int8.onnx"]
    assert found.files[0].drop.pairs == trained.export.files[0].drop.pairs
    assert found.files[0].contract.accuracy["thresholds"]["photos"] == len(trained.data.rows("test"))
    assert found.files[0].cosine_mean > 0.98
    (tmp_path / "contract.toml").write_text("name = 1")
    with pytest.raises(ContractError, match=r"contract.toml: "):
        export_model(source, photos, tmp_path / "models", contract=contract)
