"""The page that an adaptation ends with."""

from __future__ import annotations

import contextlib
import html
import io
import json
import re
import shutil
import stat
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("jinja2")

from edgeface.adapting import Adapted
from edgeface.cli import run
from edgeface.data.dataset import FaceData, load_data
from edgeface.evaluation.tails import TarAtFar
from edgeface.report.adapt_page import named, write_adapt_page
from edgeface.training.checkpoints import load_checkpoint, save_tensors
from edgeface.training.schedule import read_curves
from edgeface_export.rewrite import torch_embeddings

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import chromium

NAME = "mobilefacenet-tiny"


@dataclass(frozen=True)
class Made:
    """The command's folder, the people it was adapted to, and what it printed."""

    folder: Path
    data: FaceData
    answer: dict[str, object]

    @property
    def text(self) -> str:
        return (self.folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def made(att_people: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("adapted")
    people = place / "people"
    people.mkdir()
    for number in range(1, 7):
        (people / (f"s{number}" if number > 1 else "<b>one")).symlink_to(att_people / f"s{number}")
    words = ["adapt", str(people), "--model", NAME, "-o", str(place / "run"), "--epochs", "1", "--set", "batch_size=10"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run([*words, "--json"]) in (0, 1)
    return Made(place / "run", load_data(people), json.loads(out.getvalue()))


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the same net whose convolutions are noise."""
    checkpoint = load_checkpoint(NAME)
    noise = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(value.shape, generator=noise) if value.ndim == 4 else value
        for name, value in checkpoint.net.state_dict().items()
    }
    path = tmp_path_factory.mktemp("blind") / "best.safetensors"
    save_tensors(path, weights, {"contract": json.loads(checkpoint.contract.to_json())})
    return path


def test_it_is_private_whole_and_safe(made: Made):
    page = made.folder / "report.html"
    assert made.answer["report"] == str(page)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert "<b>" not in made.text
    assert "<script" not in made.text
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)"', made.text))


def test_its_figures_are_those_of_the_record(made: Made):
    record = json.loads((made.folder / "adapt.json").read_text())
    cells = [html.unescape(cell) for cell in re.findall(r"<td>([^<]*)</td>", made.text.partition("What to do next")[0])]
    for at, rate in enumerate(record["before"]):
        for place, when in enumerate(("before", "after")):
            value = record[when][rate]["value"]
            shown = cells[2 * at + place]
            assert shown == "too few photos" if value is None else shown.startswith(f"{100 * value:.1f}")
    verdict = {True: "more genuine pairs", False: "no better", None: "cannot be shown"}[record["better"]]
    assert verdict in made.text


def test_names_are_those_of_a_loop_over_the_held_out_photos(made: Made):
    data, found = made.data, named(made.folder, made.data, NAME, 0)
    assert found is not None
    train, test = data.rows("train"), data.rows("test")
    assert found.photos == len(test)
    for when, source in enumerate((NAME, made.folder)):
        checkpoint = load_checkpoint(source)
        rows = torch_embeddings(checkpoint.net, checkpoint.contract.input, data.faces).astype(np.float64)
        right: Counter[str] = Counter()
        for probe in test:
            scores = {}
            for person in range(len(data.identities)):
                mean = rows[train[data.labels[train] == person][:5]].mean(0)
                scores[person] = float(rows[probe] @ mean / np.linalg.norm(mean))
            right[data.identities[data.labels[probe]]] += max(scores, key=lambda at: scores[at]) == data.labels[probe]
        assert {person[0]: person[2 + when] for person in found.people} == dict(right)
        assert found.right(when) == right.total()


def test_photos_whose_name_changed_are_shown(made: Made, blind: Path):
    worse, better = named(blind.parent, made.data, NAME, 0), named(made.folder, made.data, str(blind), 0)
    assert worse is not None
    assert better is not None
    assert (worse.gained, better.lost) == ([], [])
    for strips, word, lost in (
        (worse.lost, "now", worse.right(0) - worse.right(1)),
        (better.gained, "before", better.right(1) - better.right(0)),
    ):
        assert lost > 0
        assert len(strips) == min(lost, 12)
        for (_, name), (_, taken) in strips:
            assert taken.startswith(f"{word} taken for ")
            assert taken.removeprefix(f"{word} taken for ") in {*made.data.identities} - {name}
    assert worse.people[0][2] - worse.people[0][3] == max(before - after for _, _, before, after in worse.people)


def test_one_person_alone_gets_no_names(made: Made):
    alone = made.data.labels == 0
    data = replace(made.data, split=np.where(alone, made.data.split, "val"))
    assert named(made.folder, data, NAME, 0) is None


@pytest.mark.skipif(chromium.found() is None, reason="needs a Chromium")
def test_the_page_is_as_wide_as_the_window(made: Made, tmp_path: Path):
    with chromium.browsing(str(chromium.found()), tmp_path / "profile") as tab:
        for width in (1280, 400):
            tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1.0, mobile=False)
            tab.open((made.folder / "report.html").as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("after", "shown"), [(0.95, True), (0.5, False)])
def test_the_export_is_named_only_where_it_became_better(made: Made, tmp_path: Path, after: float, shown: bool):
    folder = Path(shutil.copytree(made.folder, tmp_path / "run"))
    found = Adapted(
        folder=folder, photos=18, before={"0.01": TarAtFar(0.9)}, after={"0.01": TarAtFar(after)},
        curves=read_curves(folder / "training" / "curves.csv"),
    )  # fmt: skip
    text = write_adapt_page(found, made.data, NAME).read_text("utf-8")
    assert ("edgeface export" in text) is shown
    assert ("no better" in text) is not shown
