import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface.data.cache import open_cache
from edgeface.data.table import COLUMNS, write_table
from edgeface_runtime.errors import ImageError, UsageError


def make_folder(folder: Path, count: int = 3, size: int = 16) -> np.ndarray:
    faces = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), np.uint8)
    (folder / "faces").mkdir(parents=True)
    rows = []
    for number, face in enumerate(faces):
        Image.fromarray(face).save(folder / f"faces/{number}.png")
        rows.append({"path": f"faces/{number}.png", "sha256": str(number)})
    write_table(folder / "faces.csv", COLUMNS, rows, folder)
    return faces


def test_gives_the_faces_in_order(tmp_path: Path) -> None:
    faces = make_folder(tmp_path)
    cached = open_cache(tmp_path, 16)
    np.testing.assert_array_equal(cached, faces)
    assert isinstance(cached, np.memmap)
    assert not cached.flags.writeable


def test_decodes_once(tmp_path: Path) -> None:
    faces = make_folder(tmp_path)
    open_cache(tmp_path, 16)
    (tmp_path / "faces/1.png").unlink()
    np.testing.assert_array_equal(open_cache(tmp_path, 16), faces)


def test_a_new_split_decodes_nothing_and_other_crops_do(tmp_path: Path) -> None:
    faces = make_folder(tmp_path)
    open_cache(tmp_path, 16)
    rows = [{"path": f"faces/{number}.png", "sha256": str(number), "split": "test"} for number in range(3)]
    write_table(tmp_path / "faces.csv", COLUMNS, rows, tmp_path)
    made = (tmp_path / ".cache/faces-16.npy").stat().st_ino
    open_cache(tmp_path, 16)
    assert (tmp_path / ".cache/faces-16.npy").stat().st_ino == made
    write_table(tmp_path / "faces.csv", COLUMNS, rows[::-1], tmp_path)
    np.testing.assert_array_equal(open_cache(tmp_path, 16), faces[::-1])


def test_a_cache_whose_head_was_cut_or_changed_builds_anew(tmp_path: Path) -> None:
    faces = make_folder(tmp_path)
    open_cache(tmp_path, 16)
    array = tmp_path / ".cache/faces-16.npy"
    whole = array.read_bytes()
    heads = [whole[:length] for length in (0, 4, 9, 40, 100)]
    heads += [
        whole.replace(old, new, 1) for old, new in ((b"(", b"["), (b"'shape'", b"'sh\npe'"), (b"False", b"\0alse"))
    ]
    for head in heads:
        array.unlink()  # the one before is mapped
        array.write_bytes(head)
        np.testing.assert_array_equal(open_cache(tmp_path, 16), faces)


@pytest.mark.parametrize("mark", [None, "", "{}", "no json"])
def test_a_damaged_mark_builds_anew(tmp_path: Path, mark: str | None) -> None:
    faces = make_folder(tmp_path)
    open_cache(tmp_path, 16)
    path = tmp_path / ".cache/faces-16.json"
    path.unlink() if mark is None else path.write_text(mark)
    np.testing.assert_array_equal(open_cache(tmp_path, 16), faces)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data prepare"):
        open_cache(tmp_path, 16)
    make_folder(tmp_path)
    with pytest.raises(UsageError, match="16 pixels, not 32"):
        open_cache(tmp_path, 32)
    (tmp_path / "faces/1.png").write_bytes(b"")
    with pytest.raises(ImageError, match="empty"):
        open_cache(tmp_path, 16)
    assert list((tmp_path / ".cache").iterdir()) == []


def test_no_face(tmp_path: Path) -> None:
    write_table(tmp_path / "faces.csv", COLUMNS, [], tmp_path)
    assert open_cache(tmp_path, 16).shape == (0, 16, 16, 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_a_line_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this root may not mount")
    try:
        faces = make_folder(disk / "faces", 64)
        opened = "import sys; from edgeface.data.cache import open_cache; open_cache(sys.argv[1], 16)"
        used = sum(path.stat().st_blocks * 512 for path in disk.rglob("*"))
        subprocess.run(["mount", "-o", f"remount,size={used + 4 * 4096}", disk], check=True)
        done = subprocess.run(
            [sys.executable, "-c", opened, disk / "faces"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].endswith("faces-16.npy: cannot be written (No space left on device)")
        assert not list((disk / "faces/.cache").iterdir())
        subprocess.run(["mount", "-o", "remount,size=2m", disk], check=True)
        np.testing.assert_array_equal(open_cache(disk / "faces", 16), faces)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
