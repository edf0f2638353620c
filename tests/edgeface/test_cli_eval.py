from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from PIL import Image

from edgeface.cli import run
from edgeface.data.dataset import load_data
from edgeface.evaluation import evaluate
from edgeface.evaluation.identification import figures, identify
from edgeface_runtime import load

Say = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people of ten noisy 32-pixel photos each; the last two look alike."""
    folder, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    base = rng.integers(0, 256, (5, 8, 8, 3))
    base[4] = base[3]
    for person, picture in enumerate(base):
        (folder / f"P{person} <b>").mkdir()
        for number in range(10):
            noisy = np.clip(picture.repeat(4, 0).repeat(4, 1) + rng.normal(0, 40, (32, 32, 3)), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(folder / f"P{person} <b>" / f"{number}.png")
    return folder


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def call(*words: object) -> tuple[int, dict[str, Any], str]:
        code = run(["eval", *map(str, words), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


def test_the_document_keeps_its_keys(say: Say, tiny_onnx: Path, people: Path):
    code, found, _ = say(tiny_onnx, "--data", people)
    assert (code, found["schema"], found["model"]) == (0, 1, str(tiny_onnx))
    assert {"method", "accuracy", "precision", "recall", "f1", "photos", "identities"} <= set(found["identification"])
    assert {"accuracy", "auc", "eer", "threshold", "pairs", "failed", "tar_at_far"} <= set(found["verification"])
    assert {"value", "low", "high"} <= set(found["verification"]["tar_at_far"]["0.001"])
    data = load_data(people, size=32)
    expected = evaluate(load(tiny_onnx).embed(data.faces), data).as_json()
    assert found["identification"] == json.loads(json.dumps(expected["identification"]))


def test_svc_and_flip_are_what_they_say(say: Say, tiny_onnx: Path, people: Path):
    _, found, _ = say(tiny_onnx, "--data", people, "--method", "svc", "--flip")
    data, model = load_data(people, size=32), load(tiny_onnx)
    both = model.embed(data.faces) + model.embed(np.ascontiguousarray(data.faces[:, :, ::-1]))
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    gallery, probes = data.rows("train", "val"), data.rows("test")
    given = identify(both[gallery], data.labels[gallery], both[probes], data.labels[probes], method="svc")
    assert found["identification"]["method"] == "PCA + SVC"
    assert found["identification"]["accuracy"] == figures(given).accuracy
    assert found["flip"] is True


def test_tables_pictures_and_page(say: Say, tiny_onnx: Path, people: Path, tmp_path: Path):
    out = tmp_path / "new" / "out"
    code, found, err = say(tiny_onnx, "--data", people, "-o", out, "--report", out / "page.html", "--example", 3)
    assert code == 0, err
    names = {path.name for path in out.iterdir()}
    tables = {"confusion.csv", "identities.csv"}
    assert names == {*tables, "confusion.png", "roc.png", "det.png", "example.png", "page.html"}
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width > 400
    rows = list(csv.reader((out / "confusion.csv").read_text("utf-8").splitlines()))
    matrix = np.array([[int(cell) for cell in row[1:]] for row in rows[1:]])
    assert rows[0][1:] == [row[0] for row in rows[1:]] == [f"P{person} <b>" for person in range(5)]
    photos, accuracy = found["identification"]["photos"], found["identification"]["accuracy"]
    assert matrix.sum() == photos == 15
    assert np.trace(matrix) / photos == pytest.approx(accuracy)
    people_rows = list(csv.DictReader((out / "identities.csv").read_text("utf-8").splitlines()))
    assert sum(int(row["photos"]) for row in people_rows) == photos
    wrong = photos - np.trace(matrix)
    assert wrong > 0, "the two alike must be confused, or the page has nothing to show"
    page = (out / "page.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == 3 * (wrong + 1)
    assert f"Wrongly named photos: {wrong}" in page
    assert "P3 &lt;b&gt;" in page
    assert "P3 <b>" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count("<svg") == 3


def test_groups(say: Say, tiny_onnx: Path, people: Path, tmp_path: Path):
    table = "identity,group\n" + "".join(f"P{person} <b>,{'a' if person < 3 else 'b'}\n" for person in range(5))
    (tmp_path / "groups.csv").write_text(table)
    _, found, _ = say(tiny_onnx, "--data", people, "--groups", tmp_path / "groups.csv", "-o", tmp_path / "out")
    assert [(row["group"], row["people"], row["genuine"], row["impostor"]) for row in found["groups"]] == [
        ("a", 3, 9, 27),
        ("b", 2, 6, 9),
    ]
    assert len((tmp_path / "out" / "groups.csv").read_text().splitlines()) == 3


def test_a_person_reads_the_same_figures(tiny_onnx: Path, people: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["eval", str(tiny_onnx), "--data", str(people)]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "nearest centroid, 15 photos of 5 people" in out
    assert "too few pairs for this FMR: 90 pairs of different people make 0.1 false accepts" in out


def test_strangers_are_verified_but_not_named(say: Say, tiny_onnx: Path, people: Path, monkeypatch: pytest.MonkeyPatch):
    import edgeface.evaluation.pipeline

    def by_identities(folder: Path, *, size: int, **_: object) -> object:
        from dataclasses import replace

        data = load_data(folder, size=size)
        return replace(data, split=np.where(data.labels < 3, "train", "test"))

    monkeypatch.setattr(edgeface.evaluation.pipeline, "open_faces", by_identities)
    code, found, err = say(tiny_onnx, "--data", people)
    assert (code, found["identification"]) == (0, None)
    assert found["verification"]["pairs"] == 190
    assert "nothing to identify" in err


def test_a_run_names_people_by_its_own_head(say: Say, trained: Any):
    code, found, err = say(trained.run, "--data", trained.photos, "--method", "head")
    assert code == 0, err
    assert found["identification"]["method"] == "head"
    from safetensors.numpy import load_file

    tensors = load_file(trained.run / "last.safetensors")
    centres = tensors["learner.head.weight"].astype(float)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    probes = trained.data.rows("test")
    net = {name.removeprefix("learner."): value for name, value in tensors.items() if name.startswith("learner.net.")}
    embeddings = by_hand(net, trained.data.faces[probes])
    named = (embeddings @ centres.T).argmax(axis=1)
    truth = trained.data.labels[probes]
    assert found["identification"]["accuracy"] == pytest.approx((named == truth).mean())
    settings = json.loads((trained.run / "run.json").read_text())["config"]["head"]
    cosines = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) @ centres.T
    logits = settings["logit_scale"] * cosines
    rows = np.arange(len(probes))
    logits[rows, truth] = settings["logit_scale"] * np.cos(np.arccos(cosines[rows, truth]) + settings["margin"])
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[rows, truth]
    assert found["identification"]["loss"] == pytest.approx(losses.mean(), rel=1e-4)


def by_hand(weights: dict[str, np.ndarray], faces: np.ndarray) -> np.ndarray:
    import torch

    from edgeface.backbones import build_backbone

    net = build_backbone("mobilefacenet", embedding=128, size=112).eval()
    net.load_state_dict({name.removeprefix("net."): torch.from_numpy(value) for name, value in weights.items()})
    with torch.no_grad():
        return net(torch.from_numpy((faces / 127.5 - 1).transpose(0, 3, 1, 2).astype(np.float32))).numpy().astype(float)


def test_a_head_is_asked_about_its_own_people_only(say: Say, trained: Any, people: Path):
    code, _, err = say(trained.run, "--data", people, "--method", "head")
    assert code == 2
    assert "its head names the people of the photos that it was trained on" in err


def test_foreign_files_need_a_contract(say: Say, tiny_onnx: Path, people: Path, tmp_path: Path):
    import onnx

    model = onnx.load(tiny_onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    code, _, err = say(tmp_path / "foreign.onnx", "--data", people)
    assert (code, "contract" in err) == (2, True)
    (tmp_path / "contract.json").write_text(load(tiny_onnx).contract.to_json())
    _, found, _ = say(tmp_path / "foreign.onnx", "--data", people, "--contract", tmp_path / "contract.json")
    _, expected, _ = say(tiny_onnx, "--data", people)
    assert found["identification"] == expected["identification"]
    code, found, err = say(tmp_path / "foreign.onnx", "--data", people, "--contract", "auto")
    assert (code, found["verification"] is None) == (0, False)
    assert f"{tmp_path / 'foreign.onnx'}: contract found: " in err
    code, _, err = say(tmp_path / "foreign.onnx", "--data", people, "--contract", "insightface")
    assert (code, "takes faces of 32 pixels, insightface of 112" in err) == (2, True)
    code, _, err = say(tmp_path / "foreign.onnx", "--data", people, "--contract", "nobody")
    assert (code, "there are auto, insightface, insightface-mxnet, sface, " in err) == (2, True)


@pytest.mark.parametrize("model", ["FILE", "mobilefacenet", "mobilefacenet.onnx"])
def test_a_contract_inside_is_not_replaced(say: Say, tiny_onnx: Path, people: Path, model: str):
    name = model.replace("FILE", str(tiny_onnx))
    code, _, err = say(Path(name), "--data", people, "--contract", "foamliu")
    assert (code, "carries its own contract; --contract is for a model without one: leave it out" in err) == (2, True)
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name photos to measure on: --data FOLDER, --lfw FOLDER with --pairs FILE, --cfp FOLDER, or --open-set"),
        (["--data", "here", "--folds", "1,3"], "--folds chooses among the folds of --cfp FOLDER"),
        (["--cfp", "here", "--folds", "3"], "name two at least"),
        (["--cfp", "here", "--folds", "3-1"], "--folds 3-1: give numbers and ranges, such as 1,3-10"),
        (["--cfp", "here", "--folds", "1,3-"], "--folds 1,3-: give numbers and ranges"),
        (["--lfw", "here"], "--lfw FOLDER and --pairs FILE belong together"),
        (["--data", "PEOPLE", "--pairs", "x.txt"], "belong together"),
        (["--data", "PEOPLE", "--train-pairs", "x.txt"], "--train-pairs chooses a threshold for --pairs"),
        (["--data", "nowhere", "--method", "foo"], "--method foo: choose centroid, svc or head"),
        (["--data", "PEOPLE", "--method", "knn"], "--method knn: choose centroid, svc or head"),
        (["--data", "PEOPLE", "--method", "head"], "--method head needs a run folder"),
        (["--data", "PEOPLE", "--example", "1"], "--example shows a photo of --data in --output FOLDER"),
        (["--data", "PEOPLE", "--example", "15", "-o", "OUT"], "--example 15: the test photos are numbered 0 to 14"),
        (["--data", "PEOPLE", "--report", "OUT/absent/page.html"], "there is no folder"),
        (["--data", "PEOPLE", "--groups", "OUT/absent.csv"], "cannot be read: No such file"),
        (["--data", "PEOPLE", "--contract", "OUT/absent.json"], "the contract cannot be read"),
        (["--data", "OUT/absent"], "no such folder"),
    ],
)
def test_bad_input_is_one_line(say: Say, tiny_onnx: Path, people: Path, tmp_path: Path, words: list[str], message: str):
    filled = [word.replace("PEOPLE", str(people)).replace("OUT", str(tmp_path)) for word in words]
    code, _, err = say(tiny_onnx, *filled)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
