from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeface_runtime.errors import UsageError
from edgeface_runtime.files import check_target, remove_leftovers, replacing, write_text


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_file_is_replaced_whole_when_the_block_ends_well(tmp_path: Path, elsewhere: bool):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = tmp_path / "text.csv"
    path.write_text("old")
    with replacing(path, scratch if elsewhere else None) as part:
        assert part.suffix == ".csv"
        assert part.parent == (scratch if elsewhere else tmp_path)
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert not part.exists()


def test_a_block_that_fails_leaves_the_file_before_it_and_nothing_beside(tmp_path: Path):
    path = tmp_path / "text"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [item.name for item in tmp_path.iterdir()] == ["text"]
    assert path.read_text() == "old"


def test_what_killed_processes_have_left_is_removed_and_nothing_else(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        left = [
            f".door.{dead.pid}.mp4",
            f".door.{os.getpid()}.mp4",
            f".door.{dead.pid}.mp4-journal",
            ".door.99999999.mp4",
        ]
        kept = [
            f".door.{living.pid}.mp4",
            f".door.{dead.pid}.jpg",
            f".doors.{dead.pid}.mp4",
            f"door.{dead.pid}.mp4",
            ".door.1a.mp4",
            "door.mp4",
        ]
        for name in (*left, *kept):
            (tmp_path / name).touch()
        remove_leftovers(tmp_path, "door", ".mp4")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
        remove_leftovers(tmp_path, "*", ".jpg")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*kept} - {f".door.{dead.pid}.jpg"})
        remove_leftovers(tmp_path / "none", "*", ".jpg")
        living.communicate(b"\n")


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
