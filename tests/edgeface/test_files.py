from __future__ import annotations

from pathlib import Path

import pytest

from edgeface.files import check_target, replacing, write_text
from edgeface_runtime import UsageError


def test_a_block_that_fails_leaves_the_file_before_it_and_nothing_beside(tmp_path: Path):
    path = tmp_path / "text"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [item.name for item in tmp_path.iterdir()] == ["text"]
    assert path.read_text() == "old"


def test_writing_replaces_the_file(tmp_path: Path):
    write_text(tmp_path / "text", "old")
    write_text(tmp_path / "text", "new")
    assert (tmp_path / "text").read_text() == "new"


def test_a_target_is_checked_before_the_work(tmp_path: Path):
    check_target(tmp_path / "new")
    with pytest.raises(UsageError, match="is a folder"):
        check_target(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        check_target(tmp_path / "none" / "file")
    with pytest.raises(UsageError, match="cannot be written"):
        write_text(tmp_path / "none" / "file", "text")
