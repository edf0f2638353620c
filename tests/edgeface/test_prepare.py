import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface.data import crops, table, workers
from edgeface.data import prepare as module
from edgeface.data.crops import CropSettings
from edgeface.data.finish import Drop, parse_drops
from edgeface.data.prepare import Options, prepare
from edgeface.data.table import read_card, read_faces, read_rejected
from edgeface_runtime.errors import UsageError
from edgeface_runtime.faces import Face
from edgeface_runtime.images import open_rgb

POINTS = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]], np.float32)


MAIN = "from edgeface.cli import main; main()"


class CentredFace:
    """Finds one face in the middle of any photo that is not of one colour."""

    def detect(self, image: np.ndarray) -> list[Face]:
        if image[image > 0].std() < 1:  # a border is black
            return []
        height, width = image.shape[:2]
        side = np.float32(min(height, width))
        corner = np.array([(width - side) / 2, (height - side) / 2], np.float32)
        return [Face(np.concatenate([corner, corner + side]), 0.99, corner + POINTS * side)]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (crops, module):
        monkeypatch.setattr(place, "load_detector", lambda name, threads: CentredFace())
    monkeypatch.setattr(crops, "_loaded", type("Loaded", (), {})())


def picture(seed: int, side: int = 64) -> Image.Image:
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def save(path: Path, seed: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, **options)  # type: ignore[arg-type]
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a prepared folder except its working folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".prepare" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two people, seven different photos, one of them under both names."""
    for number in range(4):
        save(tmp_path / f"photos/Ann/{number}.png", number)
    for number in range(3):
        save(tmp_path / f"photos/Bob/{number}.png", number + 3)
    return tmp_path / "photos"


def test_writes_crops_table_and_card(people: Path, tmp_path: Path, fake: None) -> None:
    told: list[tuple[int, int, str]] = []
    options = Options(licence="mine", crops=CropSettings(size=64))
    card = prepare(people, tmp_path / "out", options, progress=lambda *step: told.append(step))
    rows = read_faces(tmp_path / "out")
    assert [row["path"] for row in rows] == [f"faces/Ann/{n}.png" for n in range(4)] + [
        f"faces/Bob/{n}.png" for n in range(3)
    ]
    assert [row["source"] for row in rows] == [f"Ann/{n}.png" for n in range(4)] + [f"Bob/{n}.png" for n in range(3)]
    assert [row["label"] for row in rows] == list("0000111")
    assert {row["box"] for row in rows} == {"0.0 0.0 64.0 64.0"}
    assert all(open_rgb(tmp_path / "out" / row["path"]).shape == (64, 64, 3) for row in rows)
    assert rows[4]["duplicate_of"] == "faces/Ann/3.png"
    assert [row["duplicate_of"] for row in rows].count("") == 6
    assert card == read_card(tmp_path / "out")
    assert card["counts"] == {
        "photos": 7, "faces": 7, "identities": 2, "rejected": 0, "found_with_margin": 0,
        "duplicates": 1, "duplicates_across_identities": 1,
    }  # fmt: skip
    assert (card["name"], card["licence"], card["settings"]["size"]) == ("photos", "mine", 64)
    stages = {what: [(done, total) for done, total, named in told if named == what] for _, _, what in told}
    photos, *others = stages.items()
    assert photos == ("photos", [(0, 7), (7, 7)])
    assert [what for what, _ in others] == ["groups of photos read", "faces compared", "groups of photos listed"]
    for _, steps in others:
        assert steps == sorted(steps)
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1] == steps[0][1]
    assert str(tmp_path) not in "".join(map(str, tree(tmp_path / "out").values()))


def test_drops_are_named(people: Path, tmp_path: Path, fake: None) -> None:
    (people / "Cy").mkdir()
    picture(20, side=40).save(people / "Cy/tiny.png")
    card = prepare(people, tmp_path / "out", Options(drop=parse_drops("small=50,duplicates")))
    assert {row["source"]: (row["reason"], row["identity"]) for row in read_rejected(tmp_path / "out")} == {
        "Bob/0.png": ("duplicates", "Bob"),
        "Cy/tiny.png": ("small", "Cy"),
    }
    assert (card["counts"]["faces"], card["counts"]["identities"], card["counts"]["duplicates"]) == (6, 2, 0)
    assert card["settings"]["drop"] == {"small": 50.0, "duplicates": 0.0}
    listed = {row["path"] for row in read_faces(tmp_path / "out")}
    assert listed == {path for path in tree(tmp_path / "out") if path.endswith(".png")}


@pytest.mark.parametrize(
    ("drop", "kept"),
    [
        *(("blur=0", 7), ("blur=1e6", 0), ("small=64", 7), ("small=64.1", 0)),
        *(("score=0.99", 7), ("score=1", 0), ("pose=90", 7), ("pose=-1", 0)),
    ],
)
def test_a_limit_is_kept_to(drop: str, kept: int, people: Path, tmp_path: Path, fake: None) -> None:
    card = prepare(people, tmp_path / "out", Options(drop=parse_drops(drop)))
    assert card["counts"]["faces"] == kept
    assert card["rejected"] == ({} if kept else {drop.split("=")[0]: 7})


@pytest.mark.parametrize("text", ["blurr", "blur=much", "duplicates=3", "=4"])
def test_drops_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="--drop"):
        parse_drops(text)


def test_drop_defaults() -> None:
    assert parse_drops("small, duplicates ,pose=30") == (Drop("small", 32), Drop("duplicates", 0), Drop("pose", 30))
    assert parse_drops("") == ()


def test_every_bad_photo_is_rejected_with_its_reason(people: Path, tmp_path: Path, fake: None) -> None:
    bad = people / "Zoe"
    save(bad / "good.png", 20)
    (bad / "empty.jpg").touch()
    (bad / "truncated.png").write_bytes((bad / "good.png").read_bytes()[:500])
    (bad / "text.jpg").write_text("not a photo")
    (bad / "notes.txt").write_text("not a photo")
    Image.new("RGB", (1, 1)).save(bad / "one.png")
    Image.new("RGB", (64, 64), "grey").save(bad / "blank.png")
    Image.new("1", (20_000, 20_000)).save(bad / "huge.png")
    Image.new("1", (10_000, 10_000)).save(bad / "large.png")
    Image.new("F", (64, 64)).save(bad / "float.tif")
    (bad / "loop").symlink_to(people)
    prepare(people, tmp_path / "out")
    assert {row["source"]: row["reason"] for row in read_rejected(tmp_path / "out")} == {
        "Zoe/empty.jpg": "unreadable",
        "Zoe/truncated.png": "unreadable",
        "Zoe/text.jpg": "unreadable",
        "Zoe/notes.txt": "not a photo",
        "Zoe/one.png": "too small",
        "Zoe/blank.png": "no face",
        "Zoe/huge.png": "unreadable",
        "Zoe/large.png": "unreadable",
        "Zoe/float.tif": "unreadable",
        "Zoe/loop": "link loop",
    }
    assert all(row["detail"] for row in read_rejected(tmp_path / "out"))
    assert len(read_faces(tmp_path / "out")) == 8


def test_odd_pixel_types_give_faces(tmp_path: Path, fake: None) -> None:
    colour = picture(0)
    (tmp_path / "photos/Ann").mkdir(parents=True)
    for mode, suffix in (("L", "png"), ("P", "png"), ("P", "gif"), ("RGBA", "png"), ("CMYK", "jpg"), ("LA", "png")):
        colour.convert(mode).save(tmp_path / f"photos/Ann/{mode}.{suffix}")
    Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257).save(tmp_path / "photos/Ann/16.png")
    colour.save(tmp_path / "photos/Ann/moving.gif", save_all=True, append_images=[picture(1)])
    colour.save(tmp_path / "photos/Ann/a_jpeg.png", "JPEG")
    card = prepare(tmp_path / "photos", tmp_path / "out")
    assert card["counts"]["faces"] == 9
    assert read_rejected(tmp_path / "out") == []


def test_upright_by_exif(tmp_path: Path, fake: None) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / "photos/Ann/turned.png"
    save(turned)
    picture(0).transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    save(tmp_path / "photos/Ann/upright.png")
    prepare(tmp_path / "photos", tmp_path / "out")
    first, second = read_faces(tmp_path / "out")
    assert first["sha256"] == second["sha256"]


def test_names_that_clash_or_are_not_utf8(tmp_path: Path, fake: None) -> None:
    photos = tmp_path / "photos"
    for number, name in enumerate(("a.png", "a.jpg", "A.bmp", "a-2.png")):
        save(photos / "Ann" / name, number)
    save(Path(os.fsdecode(os.fsencode(photos) + b"/Ren\xe9/caf\xe9.png")), 9)
    prepare(photos, tmp_path / "out")
    rows = read_faces(tmp_path / "out")
    assert len({row["path"].casefold() for row in rows}) == 5
    assert all((tmp_path / "out" / row["path"]).is_file() for row in rows)
    assert rows[-1]["identity"] == "Ren\\xe9"
    assert rows[-1]["source"] == "Ren\\xe9/caf\\xe9.png"


def test_a_finished_folder_is_left_alone(
    people: Path, tmp_path: Path, fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = prepare(people, tmp_path / "out")
    before = tree(tmp_path / "out")
    monkeypatch.setattr(module, "crop_task", None)  # would fail if any photo were worked again
    assert prepare(people, tmp_path / "out") == card
    with pytest.raises(UsageError, match="other photos or options"):
        prepare(people, tmp_path / "out", Options(crops=CropSettings(size=64)))
    save(people / "Ann/new.png", 50)
    with pytest.raises(UsageError, match="other photos or options"):
        prepare(people, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_folders_that_are_not_ours(people: Path, tmp_path: Path, fake: None) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        prepare(people, tmp_path / "mine")
    with pytest.raises(UsageError, match="is a file"):
        prepare(people, tmp_path / "mine/letter.txt")
    for inside in (people, people / "out"):
        with pytest.raises(UsageError, match="inside the photos"):
            prepare(people, inside)
    with pytest.raises(UsageError, match="cannot write"):
        prepare(people, Path("/proc/nowhere"))


def test_two_at_once_are_refused(people: Path, tmp_path: Path, fake: None) -> None:
    def again(done: int, total: int, what: str) -> None:
        with pytest.raises(UsageError, match="another prepare"):
            prepare(people, tmp_path / "out")

    prepare(people, tmp_path / "out", progress=again)


def test_a_full_disk_stops_cleanly_and_goes_on(
    people: Path, tmp_path: Path, fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PHOTOS_PER_TASK", 2)
    prepare(people, tmp_path / "whole")
    real = Path.write_bytes
    for _ in range(4):
        room = iter(range(3))  # a task is two crops and a record

        def write_bytes(path: Path, data: bytes, room: Iterator[int] = room) -> int:
            if next(room, None) is None:
                real(path, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(path, data)

        monkeypatch.setattr(table.Path, "write_bytes", write_bytes)
        with pytest.raises(UsageError, match=r"No space left on device.*run the same command again"):
            prepare(people, tmp_path / "out")
        assert not list((tmp_path / "out/.prepare").glob("part-*"))
    monkeypatch.setattr(table.Path, "write_bytes", real)
    prepare(people, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_truly_full_disk(people: Path, tmp_path: Path, fake: None) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        with pytest.raises(UsageError, match="No space left on device"):
            prepare(people, disk / "out")
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        prepare(people, disk / "out")
        prepare(people, tmp_path / "whole")
        assert tree(disk / "out") == tree(tmp_path / "whole")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_damaged_crop_is_worked_anew(
    people: Path, tmp_path: Path, fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(people, tmp_path / "whole")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(people, tmp_path / "out")
    (tmp_path / "out/faces/Ann/1.png").write_bytes(b"")
    (tmp_path / "out/faces/Ann/stray.png").write_bytes(b"of an earlier listing")
    prepare(people, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_no_scheduler(people: Path, tmp_path: Path, fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "_CONNECT_S", 1)
    with pytest.raises(UsageError, match="no Dask scheduler"):
        prepare(people, tmp_path / "out", scheduler="tcp://127.0.0.1:1")
