"""A shipped model adapted to a few people: what is kept, what is written, what travels with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeface.adapting import Adapted, adapt, adapt_config
from edgeface.cli import run
from edgeface.data.dataset import FaceData, load_data
from edgeface.deploy import ExportPhotos, export_model
from edgeface.evaluation.tails import TarAtFar
from edgeface.training import checkpoints
from edgeface.training.checkpoints import find_checkpoint, load_checkpoint
from edgeface_export.options import ExportOptions
from edgeface_export.rewrite import torch_embeddings
from edgeface_runtime import UsageError
from edgeface_runtime.model import find_model, load

NAME = "mobilefacenet-tiny"
SETTINGS = ["batch_size=10", "lr=1e-3"]


@dataclass(frozen=True)
class Made:
    """A model adapted to five people, three others, and what was said."""

    own: FaceData
    others: np.ndarray
    result: Adapted
    lines: list[str]


class Heard:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str, *, heading: bool = False) -> None:
        self.lines.append(line)

    track = staticmethod(lambda items, title: iter(items))


@pytest.fixture(scope="module")
def made(att_people: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, heard = tmp_path_factory.mktemp("adapt"), Heard()
    (folder / "people").mkdir()
    for number in range(1, 6):
        (folder / "people" / f"s{number}").symlink_to(att_people / f"s{number}")
    whole = load_data(att_people)
    others = whole.faces[np.isin(whole.labels, np.unique(whole.labels)[5:])]
    data, config = load_data(folder / "people"), adapt_config(NAME, SETTINGS, epochs=2)
    return Made(data, others, adapt(data, folder / "run", NAME, config, reporter=heard, licence="mine"), heard.lines)


def test_the_weights_are_the_mean_of_the_old_and_the_new(made: Made):
    old, new, found = (
        load_checkpoint(source).net.state_dict()
        for source in (NAME, made.result.folder / "training", made.result.folder)
    )
    assert any(not torch.equal(old[name], new[name]) for name in old)
    for name, value in found.items():
        mean = (old[name].numpy().astype(np.float64) + new[name].numpy().astype(np.float64)) / 2
        np.testing.assert_allclose(value.numpy(), mean.astype(value.numpy().dtype), rtol=1e-6, atol=1e-9, err_msg=name)


def test_other_people_look_as_before(made: Made):
    spec = load_checkpoint(NAME).contract.input
    sources = (NAME, made.result.folder, made.result.folder / "training")
    before, after, tuned = (torch_embeddings(load_checkpoint(source).net, spec, made.others) for source in sources)
    kept, lost = (before * after).sum(1).mean(), (before * tuned).sum(1).mean()
    assert kept > max(0.9, lost)


def test_what_it_came_from_is_written_down(made: Made):
    start, contract = load_checkpoint(NAME), load_checkpoint(made.result.folder).contract
    assert contract.parent_sha256 == start.sha256
    assert contract.licence == f"photos: mine; init {NAME}: {start.contract.licence}"
    for document in ("training/run.json", "adapt.json"):
        (source,) = json.loads((made.result.folder / document).read_text())["sources"]
        assert source == {
            "role": "init", "name": NAME, "licence": start.contract.licence, "sha256": start.sha256
        }  # fmt: skip


def test_it_is_exported_with_the_thresholds_of_the_model_before(made: Made, tmp_path: Path):
    pytest.importorskip("onnx")
    options = ExportOptions(formats=("onnx",), precisions=("fp32",))
    result = export_model(made.result.folder, ExportPhotos(data=made.own), tmp_path, options)
    contract, shipped = load(result.files[0].path).contract, load(find_model(NAME)).contract
    assert contract.thresholds.keys() >= shipped.thresholds.keys()
    for rate, item in shipped.thresholds.items():
        found = contract.thresholds[rate]
        assert (found and found["value"]) == (item and item["value"])
        assert found is None or found["from"].endswith(f"before it was adapted, {item['from']}")
    card = result.card.read_text()
    assert "FMR 0.001: not measured on this file, but on mobilefacenet-tiny-relu6-foamliu before it was adapted" in card
    assert "Measured all against all" not in card
    assert f"init {NAME}: research only" in card


def test_too_few_photos_to_judge_are_said_before_the_training(made: Made):
    assert made.result.is_better is None
    assert made.lines[0].startswith("too few held-out photos to show whether adapting helps: ")
    assert made.lines[1].startswith("Epoch 1/2")


def test_a_finished_adaptation_resumes_to_the_same(made: Made, tmp_path: Path):
    before = (made.result.folder / "best.safetensors").read_bytes()
    config = adapt_config(NAME, SETTINGS, epochs=2)
    with pytest.raises(UsageError, match="holds a run already; go on with --resume"):
        adapt(made.own, made.result.folder, NAME, config, licence="mine")
    adapt(made.own, made.result.folder, NAME, config, licence="mine", resume=True)
    assert (made.result.folder / "best.safetensors").read_bytes() == before


def test_the_command_prints_one_document_and_exits_with_0(made: Made, capsys: pytest.CaptureFixture[str]):
    """Resumed: it needs the people alone, since no command made this run; settings, model and licence are known."""
    folder = made.result.folder
    for line, message in (
        (["-o", f"{folder}"], "does not say where its photos are; name their folder: edgeface adapt PEOPLE -o"),
        (["-o", f"{folder}.none"], f"no run.json in it); begin one: edgeface adapt PEOPLE -o {folder}.none"),
    ):
        assert run(["adapt", *line, "--resume"]) == 2
        assert message in capsys.readouterr().err
    assert run(["adapt", str(folder.parent / "people"), "-o", str(folder), "--resume", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"schema", "run", "photos", "better", "before", "after", "report"}
    assert document["before"].keys() == document["after"].keys() == {"0.01", "0.001"}
    assert document["photos"] == len(made.own.rows("test"))


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [((0.9, 0.8), (0.8, 0.9), True), ((0.9, None), (0.9, None), False), ((None, None), (None, None), None)],
)
def test_the_smallest_rate_that_could_be_measured_decides(
    before: tuple[float | None, ...], after: tuple[float | None, ...], better: bool | None
):
    figures = ({"0.01": TarAtFar(first), "0.001": TarAtFar(second)} for first, second in (before, after))
    first, second = figures
    assert Adapted(folder=Path(), photos=0, before=first, after=second, curves=[]).is_better is better


def test_train_takes_the_settings_of_the_model_that_it_starts_from(
    att_people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["train", str(att_people), "-o", str(tmp_path / "run"), "--epochs", "1", "--init", NAME, "--json"]
    assert run(words) == 0
    capsys.readouterr()
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    start = load_checkpoint(NAME).contract
    model = document["config"]["model"]
    assert (model["backbone"], model["embedding_dim"]) == (start.backbone, start.embedding.length)
    assert model["normalization"] == "imagenet"
    assert document["sources"][0]["licence"] == start.licence
    assert load_checkpoint(tmp_path / "run").contract.licence.startswith(f"photos: unknown; init {NAME}: research only")


def test_a_model_brings_its_settings():
    config = adapt_config("mobilefacenet", ["lr=1e-4"])
    assert config.model.backbone == "mobilefacenet:act=relu6,stem=foamliu"
    assert (config.model.embedding_dim, config.model.input_size, config.model.normalization) == (128, 112, "imagenet")
    assert (config.optim.lr, config.init.imprint_head) == (1e-4, True)


def test_another_net_than_the_models_is_refused(made: Made, tmp_path: Path):
    with pytest.raises(
        UsageError, match=r"adapting keeps its mobilefacenet-tiny:act=relu6,stem=foamliu; .* edgeface train"
    ):
        adapt(made.own, tmp_path / "run", NAME, adapt_config(NAME, ["backbone=resnet18"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nobody", "nobody: no such file, run folder or shipped model"),
        ("imagenet", "imagenet: not a checkpoint of edgeface; .* edgeface train --init imagenet"),
    ],
)
def test_what_cannot_be_adapted_is_named(model: str, message: str):
    with pytest.raises(UsageError, match=message):
        adapt_config(model)


def test_weights_that_the_package_does_not_carry_are_said_not_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(Path(NAME)).name == f"{NAME}.safetensors"
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "weights")
    with pytest.raises(UsageError, match=r"in a clone of edgeface's repository \(weights/.*\), not in the installed"):
        find_checkpoint(Path(NAME))
