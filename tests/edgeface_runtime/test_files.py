from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeface_runtime.errors import UsageError
from edgeface_runtime.files import check_target, is_unused, remove_leftovers, replacing, write_text


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
            f".door.{dead.pid}.edgeface.mp4",
            f".door.{os.getpid()}.edgeface.mp4",
            f".people.{dead.pid}.edgeface.gallery-journal",
            f".run.{dead.pid}.edgeface",
            ".door.99999999.edgeface.mp4",
        ]
        folder = tmp_path / f".export.{dead.pid}.edgeface.a1b2"
        kept = [
            f".door.{living.pid}.edgeface.mp4",
            f".door.{dead.pid}.mp4",
            f"door.{dead.pid}.edgeface.mp4",
            ".door.1a.edgeface.mp4",
            ".door.20250101.json",
            "door.mp4",
        ]
        for name in (*left, *kept):
            (tmp_path / name).touch()
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "half.onnx").touch()
        with replacing(tmp_path / "other.csv") as part:
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
            part.touch()
            (tmp_path / left[0]).touch()  # a process that runs for long finds what others leave meanwhile
            remove_leftovers(tmp_path)
            assert part.exists()  # this process writes it
            assert not (tmp_path / left[0]).exists()
        remove_leftovers(tmp_path / "none")
        living.communicate(b"\n")


def test_what_a_killed_process_was_writing_is_gone_after_the_next_write(tmp_path: Path):
    write = (
        "import os, signal; from pathlib import Path; from edgeface_runtime.files import replacing, temporary_folder\n"
        "with temporary_folder(Path()) as folder, replacing(Path('page.html')) as part:\n"
        "    part.write_text('half'); (Path(folder) / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", write], cwd=tmp_path, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 2  # what the first one left is not there beside what the second left
    write_text(tmp_path / "other.html", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.html"]


def test_a_picture_that_a_full_disk_cuts_short_is_an_error(tmp_path: Path):
    write = (
        "import resource, signal, sys; from functools import partial; from pathlib import Path; import numpy as np\n"
        "from PIL import Image; from edgeface_runtime.files import write_whole\n"
        "picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))\n"
        "path = Path('picture.jpg'); write_whole(path, partial(picture.save, format='JPEG'))\n"
        "whole = path.stat().st_size\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for size in range(whole - 300, whole, 50):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "    try: write_whole(path, partial(picture.save, format='JPEG'))\n"
        "    except OSError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", write], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"] * 6


def test_a_folder_of_leftovers_alone_is_unused(tmp_path: Path):
    (tmp_path / "below" / "empty").mkdir(parents=True)
    (tmp_path / ".run.99999999.edgeface.json").touch()
    assert is_unused(tmp_path)
    (tmp_path / "below" / "file").touch()
    assert not is_unused(tmp_path)


def test_a_name_as_long_as_a_file_system_takes_is_written(tmp_path: Path):
    path = tmp_path / f"{'ü' * 125}.csv"
    write_text(path, "whole")
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


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
