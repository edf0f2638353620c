"""What a training run leaves for people: its page, its record, and runs beside each other."""

from __future__ import annotations

import html
import json
import math
import re
import shlex
import shutil
import stat
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("jinja2")

from edgeface.cli import run
from edgeface.data.dataset import load_data
from edgeface.report import run_page
from edgeface.report.run_page import write_run_page
from edgeface.report.runs import differing, read_run, read_runs
from edgeface.training.checkpoints import load_checkpoint
from edgeface.training.record import Command, read_record, resumed
from edgeface.training.schedule import Epoch, best_epoch, read_curves, write_curves
from edgeface_export.rewrite import torch_embeddings
from edgeface_runtime import UsageError

if TYPE_CHECKING:
    from conftest import Say

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import chromium

ROW = Epoch(1, 2.5, 0.25, None, 3.0, 0.5, None, 1e-3, 0.3, 112, 10.0)


@pytest.fixture(scope="module")
def made(att_people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three people's photos and a run of the command on them, ``runs/first``."""
    place = tmp_path_factory.mktemp("made")
    (place / "people").mkdir()
    for number in (1, 2, 3):
        shutil.copytree(att_people / f"s{number}", place / "people" / f"s{number}")
    tiny = ["--backbone", "mobilefacenet-tiny", "--set", "batch_size=6", "--epochs", "2", "--licence", "<b>mine</b>"]
    assert run(["train", str(place / "people"), "-o", str(place / "runs" / "first"), *tiny]) == 0
    return place


@pytest.fixture
def first(made: Path, tmp_path: Path) -> Path:
    """A copy of that run, to change."""
    return Path(shutil.copytree(made / "runs" / "first", tmp_path / "runs" / "first"))


@pytest.fixture
def able(first: Path) -> Path:
    """The same with a shipped model in place of its own, which tells people apart."""
    shutil.copy(load_checkpoint("mobilefacenet-tiny").path, first / "best.safetensors")
    return first


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def words(text: str) -> str:
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_a_run_ends_with_a_page_that_needs_no_other_file(made: Path):
    page = made / "runs" / "first" / "report.html"
    for file in (page, page.with_name("run.json")):  # which hold faces or names
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = page.read_text("utf-8")
    for tag, attributes in Tags(text).tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "b"}
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
    shown = words(text)
    best = best_epoch(read_curves(page.parent / "curves.csv"))
    assert best is not None
    assert f"The model of epoch {best.epoch} is kept" in shown
    assert f"validation accuracy of {100 * best.val_accuracy:.1f} %" in shown
    assert "It did not stop early" in shown
    assert "licence: <b>mine</b>" in shown
    assert "random weights, no teacher" in shown
    assert "batch_size 6 40" in shown
    assert re.search(r"python \d\.\d+", shown)
    assert text.count("<svg") == 3
    augmented = re.findall(r'<img src="([^"]+)" alt="(s\d|augmented)"', text.partition("What it saw")[2])
    assert [name for _, name in augmented] == [f"s{n}" if not at else "augmented" for n in (1, 2, 3) for at in range(4)]
    assert len({picture for picture, _ in augmented}) == 12


def test_the_page_gives_commands_as_they_are_typed(
    able: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(["train", "-o", str(able), "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"next: edgeface export {able} --data ")
    text = (able / "report.html").read_text("utf-8")
    lines = [shlex.split(html.unescape(line)) for line in re.findall(r"<pre[^>]*>([^<]+)</pre>", text)]
    assert [line[:2] for line in lines] == [["edgeface", verb] for verb in ("eval", "export", "bench", "runs")]
    monkeypatch.chdir("/")
    assert run(lines[0][1:]) == 0
    assert run(lines[3][1:]) == 0
    assert Path(lines[2][2]).parent == able


def test_figures_of_validation_photos_are_those_of_a_loop_over_them(made: Path):
    run_folder, data = made / "runs" / "first", load_data(made / "people")
    checkpoint = load_checkpoint(run_folder)
    embedded = torch_embeddings(checkpoint.net, checkpoint.contract.input, data.faces).astype(np.float64)
    right = 0
    for probe in data.rows("val"):
        scores = []
        for person in range(3):
            rows = [row for row in data.rows("train") if data.labels[row] == person][: run_page.PER_PERSON]
            mean = sum(embedded[row] for row in rows)
            scores.append(float(embedded[probe] @ mean / np.linalg.norm(mean)))
        right += scores.index(max(scores)) == data.labels[probe]
    found = json.loads((run_folder / "summary.json").read_text())["validation"]
    assert (found["right"], found["photos"], found["people"]) == (right, len(data.rows("val")), 3)


def test_confusions_are_shown_with_both_faces(first: Path, made: Path):
    """A model that gives everybody's photos the embedding of the same blur takes some for others."""
    data = load_data(made / "people")
    blank = data.faces.copy()
    blank[data.rows("val")] = data.faces[data.rows("train")[0]]
    result = write_run_page(first, replace(data, faces=blank))
    assert result.validation is not None
    assert result.validation.right == 1
    shown = words((first / "report.html").read_text("utf-8"))
    assert "1 photo s2 taken for s1" in shown
    assert "1 photo s3 taken for s1" in shown
    assert re.search(
        r"Each person, the worst first .* s2 \d 1 0 % \(0\) s1 s3 \d 1 0 % \(0\) s1 s1 \d 1 100 % \(1\)", shown
    )


def test_a_run_that_tells_nobody_apart_says_what_helps_in_place_of_an_export(
    made: Path, say: Say, capsys: pytest.CaptureFixture[str]
):
    """As the run of two epochs does, from random weights; resumed, it has nothing to train and ends as it did."""
    first, same = made / "runs" / "first", "it gives every face the same embedding"
    assert run(["export", str(first), "--data", str(made / "people"), "-o", str(made / "files")]) == 2
    assert "gives the same embedding for every face" in capsys.readouterr().err
    assert run(["train", "-o", str(first), "--resume"]) == 0
    *_, refused, advice = capsys.readouterr().out.splitlines()
    assert refused == f"edgeface export would refuse this model: {same}"
    assert advice.startswith("next: train anew, in another folder, with a lower rate (--set lr=0.001), ")
    assert all(word in advice for word in ("margin_warmup_ratio=0.8", "more photos a person", "--init mobilefacenet"))
    text = (first / "report.html").read_text("utf-8")
    assert f"edgeface export would refuse this model: {same}. What helps: train anew" in words(text)
    assert re.findall(r"<pre[^>]*>(edgeface \w+)", text) == ["edgeface runs"]
    assert say("runs", first)[1]["runs"][0]["refused"] == same
    assert run(["runs", str(first.parent), "--page", str(made / "page.html")]) == 0
    line = f"first would be refused by edgeface export: {same}"
    assert line in capsys.readouterr().err
    assert line in words((made / "page.html").read_text("utf-8"))


def test_a_model_no_better_than_a_coin_is_said_to_be_one(able: Path, made: Path):
    """Right names, wrong faces: each validation photo is one of somebody else's training photos."""
    data = load_data(made / "people")
    swapped = data.faces.copy()
    for person in range(3):
        mine, other = (np.flatnonzero(data.labels == label) for label in (person, (person + 1) % 3))
        swapped[mine[data.split[mine] == "val"]] = data.faces[other[data.split[other] == "train"][0]]
    refused = write_run_page(able, replace(data, faces=swapped)).refused
    assert refused is not None
    assert re.fullmatch(r"it tells people apart no better than a coin \(equal error rate \d+ %\)", refused)
    assert read_run(able).refused == refused


def test_without_validation_photos_the_page_says_so(first: Path, made: Path):
    data = load_data(made / "people")
    unseen = replace(data, split=np.where(data.split == "val", "train", data.split))
    rows = [replace(row, val_loss=None, val_accuracy=None) for row in read_curves(first / "curves.csv")]
    write_curves(rows, first / "curves.csv")
    assert write_run_page(first, unseen).validation is None
    shown = words((first / "report.html").read_text("utf-8"))
    assert "No photo validated, so the last epoch is kept" in shown
    assert "Nothing can be said: it takes validation photos" in shown


def test_only_so_many_photos_are_embedded_for_a_page(first: Path, made: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_page, "PROBES", 2)
    monkeypatch.setattr(run_page, "PER_PERSON", 1)
    result = write_run_page(first, load_data(made / "people"))
    assert result.validation is not None
    assert result.validation.photos == 2
    assert "A sample of the validation photos" in words((first / "report.html").read_text("utf-8"))


@pytest.mark.skipif(chromium.found() is None, reason="needs a Chromium")
def test_pages_are_as_wide_as_the_window(made: Path, tmp_path: Path):
    assert run(["runs", str(made / "runs"), "--page", str(tmp_path / "runs.html")]) == 0
    with chromium.browsing(str(chromium.found()), tmp_path / "profile") as tab:
        for page in (made / "runs" / "first" / "report.html", tmp_path / "runs.html"):
            for width in (1280, 400):
                tab.send(
                    "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1.0, mobile=False
                )
                tab.open(page.as_uri())
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                assert tab.evaluate("[...document.images].every(one => one.naturalWidth > 0)")


def test_runs_are_compared(first: Path, say: Say, capsys: pytest.CaptureFixture[str]):
    folder = first.parent
    second = Path(shutil.copytree(first, folder / "group" / "second"))
    document = json.loads((second / "run.json").read_text())
    document["config"]["optim"]["lr"] = 0.010000123456789
    document["config"]["schedule"] |= {"epochs": 9, "early_stopping_patience": 1}
    (second / "run.json").write_text(json.dumps(document))
    rows = [replace(ROW, epoch=epoch, val_accuracy=0.5 if epoch > 1 else 0.75) for epoch in (1, 2)]
    write_curves(rows, second / "curves.csv")
    third = Path(shutil.copytree(second, folder / "third$^$"))
    for name in ("curves.csv", "summary.json", "best.safetensors"):
        (third / name).unlink()
    code, found, _ = say("runs", folder)
    assert (code, found["schema"], found["differing"]) == (0, 1, ["lr", "epochs", "early_stopping_patience"])
    states = {Path(row["run"]).name: (row["state"], row["epochs"], row["best_epoch"]) for row in found["runs"]}
    best = best_epoch(read_curves(first / "curves.csv"))
    assert best is not None
    expected = {
        "first": ("finished", 2, best.epoch),
        "second": ("stopped early", 2, 1),
        "third$^$": ("unfinished", 0, None),
    }
    assert states == expected
    seconds = {Path(row["run"]).name: row["seconds"] for row in found["runs"]}
    assert (seconds["second"], seconds["third$^$"]) == (20.0, None)
    assert seconds["first"] == pytest.approx(sum(row.seconds or math.nan for row in read_curves(first / "curves.csv")))
    assert run(["runs", str(folder), "--page", str(folder / "page.html")]) == 0
    out = capsys.readouterr().out
    table, _, settings = out.partition("settings that differ")
    assert all(word in table for word in ("group/second", "unfinished", "mobilefacenet-tiny"))
    assert re.search(r"group/second │ +0\.01 │ +9 │ +1\n", settings)
    page = (folder / "page.html").read_text("utf-8")
    assert "lr 0.003 0.01 0.01" in words(page)
    assert all(name in words(page) for name in ("group/second", "third$^$", "unfinished"))
    assert "<img" not in page
    assert page.count("<svg") == 3


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("run.json", "{", "run.json: not JSON"),
        ("run.json", '{"config": 5, "data": {}}', "run.config is not an object"),
        ("run.json", "\0\xff", "run.json: not JSON"),
        ("curves.csv", "epoch,train_loss\n1,2\n", "curves.csv: epoch 1 has no"),
        ("curves.csv", "epoch,train_loss\n" + "9" * 5000 + ",nan\n", "curves.csv: epoch 1"),
        ("curves.csv", "epoch,train_loss\n" + "9" * 200_000 + ",1\n", "curves.csv: not CSV"),
        ("summary.json", "[]", "summary"),
        ("summary.json", '{"validation": {"people": -1}}', "validation has no"),
        ("summary.json", '{"refused": 1}', "summary.refused is not of type str"),
    ],
)
def test_a_damaged_run_is_a_row_that_says_so(name: str, text: str, why: str, first: Path, say: Say):
    (first / name).write_text(text, encoding="latin-1")
    shutil.copytree(first, first.parent / "beside")
    code, found, err = say("runs", first.parent)
    assert (code, err) == (0, "")
    for row in found["runs"]:
        assert row["state"] == "unreadable"
        assert why in row["problem"]
        assert "\n" not in row["problem"]
    assert run(["runs", str(first.parent), "--page", str(first.parent / "page.html")]) == 0
    page = words((first.parent / "page.html").read_text("utf-8"))
    assert f"beside is unreadable: {found['runs'][0]['problem']}" in page


def test_where_no_run_is_the_line_says_so(tmp_path: Path, say: Say):
    (tmp_path / "run.json").mkdir()
    (tmp_path / "file").touch()
    for folder, message in (
        (tmp_path / "none", "none: no such folder"),
        (tmp_path / "file", "file: is a file, not a folder"),
        (tmp_path / "run.json", "no run in it (no run.json"),
    ):
        code, _, err = say("runs", folder)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1


def test_one_run_is_a_table_too(first: Path):
    (found,) = read_runs(first)
    assert found == read_run(first)
    assert differing([found]) == []
    assert found.lines()[0].startswith(f"{first}: best epoch ")


def test_resume_needs_the_folder_alone(
    first: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
):
    before = (first / "last.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path)
    code, found, err = say("train", "-o", "runs/first", "--resume")
    assert (code, found["epochs"], found["state"]) == (0, 2, "finished"), err
    assert (first / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-o none --resume", "none: no run to resume (no run.json in it); begin one: edgeface train DATA -o none"),
        ("", "Missing argument 'DATA'"),
        ("-o runs/first --resume --set lr=0.1", "first: started with another lr; resume with the same settings"),
        ("-o runs/first --resume --epochs 3", "begin a new run from this one: --init runs/first -o NEW"),
        (
            "nowhere -o runs/first --resume",
            "first: its photos are not at nowhere; name their folder: edgeface train",
        ),
    ],
)
def test_what_cannot_be_resumed_is_one_line(
    words: str, message: str, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
):
    monkeypatch.chdir(tmp_path)
    code, found, err = say("train", *words.split())
    assert (code, found) == (2, {})
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_photos_that_were_moved_are_named_again(first: Path, made: Path, say: Say):
    record = read_record(first)
    assert record.command is not None
    assert record.command.data == made / "people"
    document = json.loads((first / "run.json").read_text())
    document["command"]["data"] = "/gone/people"
    (first / "run.json").write_text(json.dumps(document))
    code, _, err = say("train", "-o", first, "--resume")
    line = f"{first}: its photos are not at /gone/people; name their folder: edgeface train DATA -o {first} --resume"
    assert (code, err) == (2, f"edgeface: {line}\n")
    assert resumed(first, Command(data=made / "people"))[1].data == made / "people"


def test_what_a_run_learns_from_is_found_from_anywhere(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("big.onnx", "big.toml", "people"):
        Path(name).mkdir()
    given = Command(
        data=Path("people"), init="mobilefacenet", teacher=[Path("big.onnx")], teacher_contract=[Path("big.toml")],
        tensorboard=True,
    )  # fmt: skip
    document = json.loads((first / "run.json").read_text())
    (first / "run.json").write_text(json.dumps(document | {"command": given.document()}))
    monkeypatch.chdir("/")
    folder, command, record = resumed(first, Command())
    assert folder == first
    assert record is not None
    assert command == replace(
        given, data=tmp_path / "people", teacher=[tmp_path / "big.onnx"], teacher_contract=[tmp_path / "big.toml"],
        licence="<b>mine</b>",
    )  # fmt: skip
    assert resumed(first, Command(guide=Path("other")))[1].guide == Path("other")
    with pytest.raises(UsageError, match="no run to resume"):
        resumed(tmp_path, Command())
    assert resumed(tmp_path, Command(data=Path("x"))) == (tmp_path, Command(data=Path("x")), None)
    assert resumed(tmp_path, Command(data=first))[0] == first


def test_a_link_to_a_run_is_no_second_run(first: Path):
    (first.parent / "best").symlink_to(first.name)
    assert [found.folder.name for found in read_runs(first.parent)] == ["first"]
    assert [found.folder.name for found in read_runs(first.parent / "best")] == ["best"]
