"""Galleries that travel: merge, import, backup; and what a kill leaves of each."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import FaceRecognizer, Gallery, GalleryError, UsageError, import_gallery
from edgeface_runtime.testing import fake_photo, fake_recognizer

LENGTH = 64  # of the fake recognizer's embeddings


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def whole(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def enrolled(path: Path, people: dict[str, list[tuple[int, int]]], **options: str) -> Path:
    """A gallery of such photos (person, take), whatever name they are given."""
    with Gallery.open(path, fake_recognizer(), **options) as gallery:  # type: ignore[arg-type]
        for name, photos in people.items():
            for photo in photos:
                gallery.enroll(name, fake_photo(*photo), force=True)
    return path


def photos_of(path: Path) -> dict[str, int]:
    with Gallery.open(path) as gallery:
        names = [photo.name for photo in gallery.photos()]
    return {name: names.count(name) for name in sorted(names)}


def crowd(path: Path, names: list[str], seed: int) -> Path:
    """A gallery of one random embedding for each name, by way of a file of embeddings."""
    rows = unit(np.random.default_rng(seed).normal(size=(len(names), LENGTH)))
    source = path.with_suffix(".npz")
    np.savez(source, names=np.array(names), embeddings=rows)
    import_gallery(source, path, fake_recognizer().model)
    return path


@pytest.mark.parametrize("precisions", [("float32", "float32"), ("float32", "int8"), ("int8", "float32")])
def test_merged_people_are_united(tmp_path: Path, fake: FaceRecognizer, precisions: tuple[str, str]):
    home = enrolled(tmp_path / "home", {"Ada": [(1, 0), (1, 1)], "Bea": [(2, 0)]}, precision=precisions[0])
    door = enrolled(tmp_path / "door", {"Ada": [(1, 1), (1, 2)], "Cid": [(3, 0)]}, precision=precisions[1])
    before = door.read_bytes()
    with Gallery.open(home, fake) as gallery:
        found = gallery.merge(door)
        assert (found.added, found.already_there, found.refused) == (2, 1, [])
        assert [gallery.search(fake.embed(fake_photo(n, 9)))[0][0].name for n in (1, 2, 3)] == ["Ada", "Bea", "Cid"]
        sources = {(photo.name, photo.added) for photo in gallery.photos()}
        again = gallery.merge(str(door))
        assert (again.added, again.already_there) == (0, 3)
        assert gallery.merge(home).added == 0
    with Gallery.open(door) as gallery:
        assert {(photo.name, photo.added) for photo in gallery.photos()} <= sources
    assert photos_of(home) == {"Ada": 3, "Bea": 1, "Cid": 1}
    assert door.read_bytes() == before


def test_who_disagrees_is_left_out_and_named(tmp_path: Path, fake: FaceRecognizer):
    home = enrolled(tmp_path / "home", {"Ada": [(1, 0)], "Bea": [(2, 0)]})
    # Ada is Bea there, Robert is Bea too (one photo of hers), and Cid is new.
    door = enrolled(tmp_path / "door", {"Ada": [(2, 1)], "Robert": [(2, 0)], "Cid": [(3, 0)]})
    with Gallery.open(home) as gallery:
        found = gallery.merge(door)
    assert (found.added, found.already_there) == (1, 0)
    assert photos_of(home) == {"Ada": 1, "Bea": 1, "Cid": 1}
    (ada, robert) = found.refused
    assert (ada.name, ada.photo) == ("Ada", str(door))
    assert "door: Ada is left out: looks like Bea (score 0." in ada.reason
    assert "door: Robert is left out: looks like Bea (score 1.00); rename one of them" in robert.reason
    with Gallery.open(home) as gallery:
        assert gallery.merge(door, force=True).added == 2
    assert photos_of(home) == {"Ada": 2, "Bea": 1, "Cid": 1, "Robert": 1}


def test_with_thresholds_two_names_for_one_person_are_seen(tmp_path: Path, fake: FaceRecognizer):
    home = enrolled(tmp_path / "home", {"Bea": [(2, 0)], "Cid": [(3, 0)]})
    door = enrolled(tmp_path / "door", {"Robert": [(2, 1)], "Cid": [(4, 0)]})
    with Gallery.open(home, fake) as gallery:
        assert {refusal.name for refusal in gallery.merge(door).refused} == {"Robert", "Cid"}
    assert photos_of(home) == {"Bea": 1, "Cid": 1}


def test_galleries_of_two_models_are_not_merged(tmp_path: Path, tiny_onnx: Path):
    home = enrolled(tmp_path / "home", {"Ada": [(1, 0)]})
    other = tmp_path / "other"
    Gallery.open(other, FaceRecognizer(tiny_onnx)).close()
    before = [home.read_bytes(), other.read_bytes()]
    with Gallery.open(home) as gallery, pytest.raises(GalleryError) as caught:
        gallery.merge(other)
    assert "\n" not in str(caught.value)
    assert "made with tiny fp32" in str(caught.value)
    assert "is of fake fp32" in str(caught.value)
    assert [home.read_bytes(), other.read_bytes()] == before


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("suffix", [".json", ".csv", ".gallery"])
def test_what_was_exported_is_imported(tmp_path: Path, fake: FaceRecognizer, suffix: str, precision: str):
    home = enrolled(tmp_path / "home.gallery", {'Ada, "A"': [(1, 0), (1, 1)], "Bea": [(2, 0)]}, precision=precision)
    file = tmp_path / f"home{suffix}"
    if suffix != ".gallery":
        with Gallery.open(home) as gallery:
            gallery.export(file)
    found = import_gallery(file, tmp_path / "new", fake.model, precision=precision)  # type: ignore[arg-type]
    assert (found.added, found.already_there, found.refused) == (3, 0, [])
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    for path in (home, tmp_path / "new"):
        with Gallery.open(path, fake) as gallery:
            gallery.export(path.with_suffix(".again.json"))
    rows = [json.loads(path.read_text())["photos"] for path in sorted(tmp_path.glob("*.again.json"))]
    for old, new in zip(*rows, strict=True):
        assert {key: old[key] for key in old if key not in ("id", "embedding")} == {
            key: new[key] for key in new if key not in ("id", "embedding")
        }
        np.testing.assert_allclose(old["embedding"], new["embedding"], atol=1e-7)
    with Gallery.open(home) as gallery:
        assert gallery.merge(file).already_there == 3


def test_embeddings_of_another_program(tmp_path: Path, fake: FaceRecognizer):
    rows = np.concatenate([fake.embed(fake_photo(person)) for person in (1, 2)])
    np.savez(tmp_path / "them.npz", names=np.array(["Ada", "Bea"]), embeddings=3 * rows.astype(np.float64))
    with pytest.raises(UsageError, match="does not say which model made its embeddings: name it"):
        import_gallery(tmp_path / "them.npz", tmp_path / "new")
    assert import_gallery(tmp_path / "them.npz", tmp_path / "new", fake.model).added == 2
    with Gallery.open(tmp_path / "new", fake) as gallery:
        (found,) = gallery.search(rows[1:])
        assert (found[0].name, found[0].score) == ("Bea", pytest.approx(1, abs=1e-6))


def test_a_gallery_that_is_there_is_not_written_over(tmp_path: Path, fake: FaceRecognizer):
    home = enrolled(tmp_path / "home", {"Ada": [(1, 0)]})
    door = enrolled(tmp_path / "door", {"Bea": [(2, 0)]})
    before = door.read_bytes()
    with Gallery.open(home) as gallery:
        for target in (door, home):
            with pytest.raises(GalleryError, match="is there already; name another file"):
                gallery.backup(target)
        with pytest.raises(GalleryError, match="No such file"):
            gallery.backup(tmp_path / "nowhere" / "copy")
    with pytest.raises(GalleryError, match="is there already"):
        import_gallery(home, door)
    assert door.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["door", "home"]


def write(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def to(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


def arrays(name: str, **content: np.ndarray) -> Callable[[Path], Path]:
    def to(folder: Path) -> Path:
        np.savez(folder / name, **content)
        return folder / name

    return to


ROW = "0.6,0.8"
MODEL = '{"name":"n","file_sha256":"1","parent_sha256":null,"precision":"fp32","recipe":"r","length":2}'


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (write("text.gallery", "no gallery at all, " * 99), "text.gallery: not a gallery"),
        (write("photo.jpg", b"\xff\xd8\xff" + bytes(999)), "photo.jpg: not a gallery"),
        (lambda folder: folder / "none.gallery", "none.gallery: no such gallery"),
        (lambda folder: folder / "none.json", "none.json: No such file"),
        (write("a.json", "{"), "a.json: not an export of a gallery"),
        (write("a.json", "[1, 2]"), "a.json: not an export of a gallery"),
        (write("a.json", "[" * 100_000), "a.json: not an export of a gallery"),
        (write("a.json", '{"schema": 1, "model": {"name": "n"}, "photos": []}'), "a.json: not an export of a gallery"),
        (write("a.json", f'{{"model": {MODEL}, "photos": [{{"name": "Ada"}}]}}'), "photo 1 of 1: 'embedding' is miss"),
        (
            write("a.json", f'{{"model": {MODEL}, "photos": [7]}}'),
            "a.json: not an export of a gallery: export.photos.0",
        ),
        (
            write("a.json", f'{{"model": {MODEL}, "photos": [{{"name": "Ada", "embedding": [1, 0, 0]}}]}}'),
            "embeddings are of 3 numbers",
        ),
        (write("a.csv", ""), "a.csv: not an export of a gallery"),
        (write("a.csv", b"\xff\xfe\x00\x01"), "a.csv: not an export of a gallery"),
        (write("a.csv", f"who,e0,e1\nAda,{ROW}\n"), "it has no columns name, e0, e1"),
        (write("a.csv", f"name,e0,e1\nAda,{ROW}\nBea,0.6\n"), "a.csv: damaged: photo 2 of 2"),
        (write("a.csv", f"name,e0,e1\nAda,{ROW}\nBea,nan,1\n"), "photo 2 of 2: no direction in its embedding"),
        (write("a.csv", "name,e0,e1\nAda,0,0\n"), "photo 1 of 1: no direction in its embedding"),
        (write("a.csv", f"name,e0,e1\n,{ROW}\n"), "photo 1 of 1: a person's name is"),
        (write("a.csv", f"name,size,e0,e1\nAda,inf,{ROW}\n"), "photo 1 of 1: .* is no number"),
        (write("a.csv", f"name,e0,e1\nAda,{ROW}\n"), "embeddings of 2 numbers; the model has 64"),
        (write("a.npz", b"PK\x03\x04nothing"), "a.npz: not an export of a gallery"),
        (write("a.npz", b""), "a.npz: not an export of a gallery"),
        (arrays("a.npz", names=np.array(["Ada"])), "a.npz: not an export of a gallery"),
        (arrays("a.npz", names=np.array(["Ada"]), embeddings=np.ones((2, 2))), "do not fit"),
    ],
)
def test_what_is_no_gallery_is_one_line(tmp_path: Path, fake: FaceRecognizer, make: Callable[[Path], Path], words: str):
    source = make(tmp_path)
    home = enrolled(tmp_path / "home", {"Ada": [(1, 0)]})
    files, before = sorted(tmp_path.iterdir()), home.read_bytes()
    with pytest.raises((GalleryError, UsageError), match=words) as caught:
        import_gallery(source, tmp_path / "new", fake.model)
    assert "\n" not in str(caught.value)
    with Gallery.open(home) as gallery, pytest.raises((GalleryError, UsageError)) as caught:
        gallery.merge(source)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == files
    assert home.read_bytes() == before


WRITE = """
import sys
from edgeface_runtime import Gallery
from edgeface_runtime.testing import fake_photo, fake_recognizer
with Gallery.open(sys.argv[1], fake_recognizer()) as gallery:
    for person in range(100000):
        gallery.enroll(f"P{person}", fake_photo(person), force=True)
        print(person, flush=True)
"""


def test_a_backup_while_somebody_writes_holds_all_that_was_acknowledged(tmp_path: Path):
    home = enrolled(tmp_path / "home", {"Ada": [(1, 0)]})
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(home)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        for turn in range(6):
            done = int(process.stdout.readline())
            copy = tmp_path / f"copy{turn}"
            with Gallery.open(home) as gallery:
                gallery.backup(copy)
            assert whole(copy)
            assert stat.S_IMODE(copy.stat().st_mode) == 0o600
            with Gallery.open(copy, fake_recognizer()) as gallery:
                names = [photo.name for photo in sorted(gallery.photos(), key=lambda photo: photo.id)]
                assert names == ["Ada", *(f"P{person}" for person in range(len(names) - 1))]
                assert len(names) > done + 1
                assert gallery.search(fake_recognizer().embed(fake_photo(0)))[0][0].name == "P0"
    finally:
        process.kill()
        process.communicate()


def test_a_backup_holds_nothing_of_who_was_removed(tmp_path: Path, fake: FaceRecognizer):
    """Not even where a removal was cut short before the file was rewritten."""
    home = enrolled(tmp_path / "home", {f"P{person}": [(person, 0)] for person in range(12)})
    vector = fake.embed(fake_photo(3))[0].tobytes()
    with Gallery.open(home) as gallery:
        with contextlib.closing(sqlite3.connect(home)) as db:
            db.execute("DELETE FROM photo WHERE id = 4")
            db.execute("DELETE FROM person WHERE id = 4")
            db.execute("UPDATE meta SET value = '1' WHERE key = 'stale'")
            db.commit()
        gallery.backup(tmp_path / "copy")
    data = (tmp_path / "copy").read_bytes()
    assert all(vector[i : i + 16] not in data for i in range(0, len(vector) - 16, 4))
    assert len(photos_of(tmp_path / "copy")) == 11


def test_a_damaged_gallery_is_not_backed_up(tmp_path: Path):
    home = crowd(tmp_path / "home", [f"P{person}" for person in range(200)], 0)
    data = bytearray(home.read_bytes())
    data[5 * 8192 : 5 * 8192 + 4096] = b"\xff" * 4096
    home.write_bytes(data)
    with Gallery.open(home) as gallery, pytest.raises(GalleryError, match="damaged"):
        gallery.backup(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


TRANSFER = {
    "merge": "with Gallery.open(home) as gallery: gallery.merge(other, force=True)",
    "backup": "with Gallery.open(home) as gallery: gallery.backup(new)",
    "import": "import_gallery(home, new)",
}


@pytest.mark.parametrize("what", TRANSFER)
def test_a_kill_leaves_the_old_whole_and_the_new_whole_or_absent(tmp_path: Path, what: str):
    home = crowd(tmp_path / "home", [f"P{person}" for person in range(2500)], 0)
    other = crowd(tmp_path / "other", [f"Q{person}" for person in range(2500)], 1)
    source = (home.read_bytes(), other.read_bytes())
    code = (
        "import sys; from pathlib import Path; from edgeface_runtime import Gallery, import_gallery\n"
        "home, other, new = map(Path, sys.argv[1:])\nprint('open', flush=True)\n"
    )
    new, cut = tmp_path / "new.gallery", 0

    def unfinished() -> list[str]:
        return [path.name for path in tmp_path.iterdir() if path.name.startswith((".new.", "home-journal"))]

    for attempt in range(6):
        home.write_bytes(source[0])
        new.unlink(missing_ok=True)
        command = [sys.executable, "-c", code + TRANSFER[what], str(home), str(other), str(new)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        while process.poll() is None and not unfinished():
            time.sleep(0.0005)
        time.sleep(0.004 * attempt)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        cut += bool(unfinished())
        assert whole(home)
        assert len(photos_of(home)) in ((2500, 5000) if what == "merge" else (2500,))
        assert other.read_bytes() == source[1]
        if new.exists():
            assert whole(new)
            assert len(photos_of(new)) == 2500
    assert cut
    with Gallery.open(home) as gallery:  # and what was left is removed by whoever comes next
        new.unlink(missing_ok=True)
        gallery.backup(new)
    assert not [name for name in unfinished() if name.startswith(".new.")]
