"""``edgeface models``."""

from __future__ import annotations

import json

import pytest

from edgeface.cli import run


def test_models_lists_what_is_shipped_and_its_names_work(capsys: pytest.CaptureFixture[str]):
    assert run(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert rows[0]["default"] is True
    for row in rows:
        assert run(["inspect", row["file"], "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["contract"]["file_sha256"] == row["sha256"]
    assert run(["models"]) == 0
    table = capsys.readouterr().out
    assert all(row["sha256"][:8] in table for row in rows)
