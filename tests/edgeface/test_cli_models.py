"""``edgeface models``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edgeface.cli import run
from edgeface.cli.console import print_table


def test_models_lists_what_is_shipped_and_its_names_work(capsys: pytest.CaptureFixture[str]):
    assert run(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert rows[0]["default"] is True
    for row in rows:
        data = Path(row["path"]).read_bytes()
        assert run(["inspect", row["file"], "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert row["sha256"] == found["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["size_bytes"] == row["bytes"] == found["size_bytes"] == len(data)
        assert row["format"] == found["format"] == Path(row["path"]).suffix[1:]
    keys = {"name", "default", "backbone", "format", "precision", "size_bytes", "sha256", "licence", "accuracy"}
    assert all(keys <= row.keys() for row in rows)


def test_the_table_and_inspect_show_the_digest_that_sha256sum_shows(capsys: pytest.CaptureFixture[str]):
    assert run(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert run(["models"]) == 0
    table = capsys.readouterr().out
    assert all(row["sha256"][:8] in table for row in rows)


@pytest.mark.parametrize("columns", [80, 40])
def test_tables_break_no_file_name(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(["models", "--json"]) == 0
    names = [row["file"] for row in json.loads(capsys.readouterr().out)["models"]]
    tiny = [name for name in names if "tiny" in name]
    for line in ("models", " ".join(["bench --device rpi-4b", *tiny])):
        assert run(line.split()) == 0
        out = capsys.readouterr().out
        shown = names if line == "models" else tiny
        assert all(any(row.startswith(f"{name} ") for row in out.splitlines()) for name in shown), out
        # What has room in the terminal stays in it.
        assert max(map(len, out.splitlines())) <= 80 or line != "models"


def test_a_table_folds_its_other_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    name, other = "a photo of " + "x" * 60 + ".jpg", "y" * 30 + ".onnx"
    title = "/a/folder/" + "z" * 100
    print_table(title, ("who", "file", "against", "note"), [("Ada", name, other, "many words " * 20 + "w" * 64)])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == title
    assert sum(f"│ {name} │ {other} │" in line for line in out) == 1
    assert max(map(len, out[1:])) == len("Ada │ ") + len(name) + len(" │ ") + len(other) + len(" │ ") + 12
