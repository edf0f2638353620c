from __future__ import annotations

from pathlib import Path

import pytest

from edgeface_runtime import UsageError
from edgeface_runtime.files import check_target, write_text


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
