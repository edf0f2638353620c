from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import typer

from edgeface.cli import app
from reproduce import reference_models, whitened


def args(name: str, **places: Path) -> argparse.Namespace:
    given = {"peers": None, "others": None} | places
    return argparse.Namespace(name=name, photos=Path("photos"), output=Path("out"), **given)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("mobilefacenet", {"peers": Path("peers")}),
        ("mobilefacenet-tiny", {"others": Path("others")}),
        ("mobilefacenet-tiny-0.1", {"others": Path("others")}),
    ],
)
def test_the_recorded_commands_are_taken(name: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []
    monkeypatch.setattr(reference_models, "run", lambda words: asked.append(words) or 0)
    assert reference_models.train(args(name, **places)) == 0
    (words,) = asked
    assert words[:2] == ["train", "photos"]
    command = typer.main.get_group(app).commands["train"]
    command.make_parser(command.context_class(command)).parse_args(words[1:])  # raises for an option that is not there
    assert "None" not in " ".join(words)
    assert words[words.index("--licence") + 1].startswith("research only")


@pytest.mark.parametrize(("name", "place"), [("mobilefacenet", "peers"), ("mobilefacenet-tiny", "others")])
def test_what_a_training_lacks_is_named(
    name: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["reference_models", "train", name, "--photos", "photos", "-o", "out"])
    with pytest.raises(SystemExit):
        reference_models.main()
    assert f"{name} is trained with --{place}" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "whitens"), [("mobilefacenet", False), ("mobilefacenet-tiny", True)])
def test_the_small_model_is_whitened_before_it_is_exported(
    name: str, whitens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exported: list[str] = []
    monkeypatch.setattr(whitened, "write", lambda source, photos, output: output)
    monkeypatch.setattr(reference_models, "run", lambda words: exported.append(words[1]) or 1)
    options = argparse.Namespace(name=name, photos=Path("photos"), run=tmp_path, init=None)
    assert reference_models.ship(options) == 1  # the export refuses, and nothing is put into the package
    assert exported == [str(tmp_path / "whitened.safetensors" if whitens else tmp_path)]
