from __future__ import annotations

import contextlib
import csv
import json
import random
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeface_runtime import (
    Candidate,
    FaceRecognizer,
    Gallery,
    GalleryError,
    ImageError,
    UsageError,
)
from edgeface_runtime.testing import fake_photo, fake_recognizer


def whole(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def names(gallery: Gallery) -> list[str]:
    return [photo.name for photo in gallery.photos()]


def test_the_class_itself_opens(path: Path, fake: FaceRecognizer, tmp_path: Path):
    with Gallery(path, fake, precision="int8") as gallery:
        gallery.enroll("Ada", fake_photo(1))
    with Gallery(str(path)) as gallery:
        assert (names(gallery), gallery.precision, gallery.path) == (["Ada"], "int8", path)
    for opens in (Gallery, Gallery.open):
        with pytest.raises(GalleryError, match="stores int8 embeddings, not float32"):
            opens(path, fake, precision="float32")
        with pytest.raises(GalleryError, match="no such gallery"):
            opens(tmp_path / "absent")

    class Mine(Gallery):
        pass

    with Mine.open(path) as mine:
        assert type(mine) is Mine


def test_several_photos_a_person(gallery: Gallery, tmp_path: Path, path: Path):
    file = tmp_path / "Ada at home.png"
    Image.fromarray(fake_photo(1)).save(file)
    first, second, third = (
        gallery.enroll("Ada", file),
        gallery.enroll(" Ada ", fake_photo(1, 1)),
        gallery.enroll("Bea", fake_photo(2)),
    )
    assert gallery.photos() == [first, second, third]
    assert (first.name, first.source, second.source) == ("Ada", "Ada at home.png", "")
    assert len({first.id, second.id, third.id}) == len(gallery) == 3
    assert first.size == 64
    assert first.sharpness > 60
    with Gallery.open(path) as again:
        assert again.photos() == [first, second, third]


def test_the_same_photo_twice_is_one(gallery: Gallery):
    first = gallery.enroll("Ada", fake_photo(1))
    assert gallery.enroll("Ada", fake_photo(1)) == first
    assert len(gallery) == 1


def test_one_name_in_two_unicode_forms_is_one_person(gallery: Gallery):
    gallery.enroll("Jose\u0301", fake_photo(1))
    gallery.enroll("José", fake_photo(1, 1))
    assert names(gallery) == ["José", "José"]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201, "\0", "\x1b[31m"])
def test_names_that_cannot_be_used(gallery: Gallery, name: str):
    with pytest.raises(UsageError, match="printable characters"):
        gallery.enroll(name, fake_photo(1))
    assert len(gallery) == 0


def test_no_face_and_no_recognizer(gallery: Gallery, path: Path):
    with pytest.raises(ImageError, match="no face found"):
        gallery.enroll("Ada", np.zeros((64, 64, 3), np.uint8))
    with Gallery.open(path) as bare, pytest.raises(UsageError, match="without a recognizer"):
        bare.enroll("Ada", fake_photo(1))


def test_rename(gallery: Gallery):
    gallery.enroll("Ada", fake_photo(1))
    gallery.enroll("Bea", fake_photo(2))
    gallery.rename("Ada", "Adele")
    assert names(gallery) == ["Adele", "Bea"]
    with pytest.raises(GalleryError, match="somebody is called Bea already"):
        gallery.rename("Adele", "Bea")
    with pytest.raises(GalleryError, match="nobody called Ada"):
        gallery.rename("Ada", "Cleo")
    assert names(gallery) == ["Adele", "Bea"]
    assert b"Ada" not in gallery.path.read_bytes()


def test_remove_a_photo_and_a_person(gallery: Gallery):
    kept, gone = gallery.enroll("Ada", fake_photo(1)), gallery.enroll("Ada", fake_photo(1, 1))
    other = gallery.enroll("Bea", fake_photo(2))
    assert gallery.remove("Ada", gone.id) == 1
    assert gallery.photos() == [kept, other]
    with pytest.raises(GalleryError, match=f"no photo {other.id} of Ada"):
        gallery.remove("Ada", other.id)
    assert gallery.remove("Ada") == 1
    with pytest.raises(GalleryError, match="nobody called Ada"):
        gallery.remove("Ada")
    assert names(gallery) == ["Bea"]
    assert gallery.enroll("Ada", fake_photo(1)).id > other.id


def test_what_is_removed_is_not_in_the_file_any_more(path: Path, fake: FaceRecognizer):
    """Embeddings of many sizes of gallery are searched for byte by byte, in the file and beside it."""
    random.seed(0)
    vectors = {(p, t): fake.embed(fake_photo(p, t), mirror=True)[0].tobytes() for p in range(30) for t in range(2)}
    with Gallery.open(path, fake) as gallery:
        for person, take in vectors:
            gallery.enroll(f"Person {person:03d}", fake_photo(person, take), force=True)
        assert all(vector in path.read_bytes() for vector in vectors.values())
        for person in random.sample(range(30), 12):
            gallery.remove(f"Person {person:03d}")
            data = b"".join(file.read_bytes() for file in path.parent.iterdir())
            assert f"Person {person:03d}".encode() not in data
            for take in range(2):
                vector = vectors.pop((person, take))
                assert all(vector[i : i + 16] not in data for i in range(0, len(vector) - 16, 4))
            assert all(vector in data for vector in vectors.values())
    assert whole(path)


def test_a_removal_that_was_cut_short_is_finished_at_the_next_opening(path: Path, fake: FaceRecognizer):
    with Gallery.open(path, fake) as gallery:
        gallery.enroll("Ada", fake_photo(1))
        gallery.enroll("Bea", fake_photo(2))
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("DELETE FROM photo WHERE id = 1")
        db.execute("DELETE FROM person WHERE name = 'Ada'")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'stale'")
        db.commit()
    vector = fake.embed(fake_photo(1), mirror=True)[0].tobytes()
    assert vector[16:200] in path.read_bytes()
    with Gallery.open(path) as gallery:
        assert names(gallery) == ["Bea"]
    assert vector[16:200] not in path.read_bytes()


def test_only_the_owner_may_read_it(gallery: Gallery, path: Path, tmp_path: Path):
    gallery.export(tmp_path / "people.json")
    for file in (path, tmp_path / "people.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def brute_force(rows: list[tuple[str, np.ndarray]], query: np.ndarray, k: int) -> list[Candidate]:
    best: dict[str, float] = {}
    for name, row in rows:
        best[name] = max(best.get(name, -np.inf), float(row @ query))
    return [Candidate(name, score) for name, score in sorted(best.items(), key=lambda item: -item[1])[:k]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 5), max_size=24),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_search_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory, people: list[int], k: int, queries: int, seed: int
):
    """Whole numbers, so that both add up to the same bits; ties come in the order of enrolment."""
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("search") / "g"
    order = list(dict.fromkeys(people))
    rows = [(f"P{person}", rng.integers(-2, 3, 64).astype(np.float32)) for person in people]
    with Gallery.open(path, fake_recognizer()) as gallery, contextlib.closing(sqlite3.connect(path)) as db:
        db.executemany("INSERT INTO person (name) VALUES (?)", [(f"P{person}",) for person in order])
        for name, row in rows:
            db.execute(
                "INSERT INTO photo (person, source, added, sharpness, size, yaw, pitch, embedding) "
                "SELECT id, '', '', 0, 0, 0, 0, ? FROM person WHERE name = ?",
                (row.tobytes(), name),
            )
        db.commit()
        wanted = rng.integers(-2, 3, (queries, 64)).astype(np.float32)
        assert gallery.search(wanted, k) == [brute_force(rows, query, k) for query in wanted]
        assert len(gallery) == len(rows)


def test_a_search_sees_what_others_and_itself_have_changed(gallery: Gallery, path: Path, fake: FaceRecognizer):
    query = fake.embed(fake_photo(1))
    assert gallery.search(query) == [[]]
    with Gallery.open(path, fake) as other:
        other.enroll("Ada", fake_photo(1))
        assert gallery.search(query)[0][0].name == "Ada"
        gallery.rename("Ada", "Adele")
        assert [opened.search(query)[0][0].name for opened in (gallery, other)] == ["Adele", "Adele"]
        other.remove("Adele")
    assert gallery.search(query) == [[]]


def test_a_search_for_something_else(gallery: Gallery, fake: FaceRecognizer):
    for wrong in (np.zeros((1, 63), np.float32), np.zeros(64, np.float32)):
        with pytest.raises(UsageError, match="embeddings are"):
            gallery.search(wrong)
    with pytest.raises(UsageError, match="k is 0"):
        gallery.search(fake.embed(fake_photo(1)), 0)


def test_export_holds_everything(gallery: Gallery, tmp_path: Path, fake: FaceRecognizer):
    photos = [gallery.enroll('Ada, "A"', fake_photo(1)), gallery.enroll("Bea", fake_photo(2))]
    vectors = [fake.embed(fake_photo(1), mirror=True)[0], fake.embed(fake_photo(2), mirror=True)[0]]
    gallery.export(tmp_path / "out.json")
    document = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert document["model"]["file_sha256"] == fake.model.contract.file_sha256
    assert [row["name"] for row in document["photos"]] == [photo.name for photo in photos]
    gallery.export(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for photo, vector, row, entry in zip(photos, vectors, rows, document["photos"], strict=True):
        assert (int(row["id"]), row["name"], row["added"]) == (photo.id, photo.name, photo.added)
        np.testing.assert_array_equal(np.array(entry["embedding"], np.float32), vector)
        np.testing.assert_array_equal(np.array([row[f"e{i}"] for i in range(64)], np.float32), vector)
    with pytest.raises(UsageError, match=r"name a \.json or a \.csv file"):
        gallery.export(tmp_path / "out.txt")
    with pytest.raises(UsageError, match="No such file"):
        gallery.export(tmp_path / "nowhere" / "out.csv")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.csv", "out.json", "people.gallery"]


def test_a_closed_gallery_says_so(path: Path, fake: FaceRecognizer):
    gallery = Gallery.open(path, fake)
    gallery.close()
    with pytest.raises(GalleryError, match="closed"):
        gallery.photos()


def test_threads_share_one_gallery(gallery: Gallery, fake: FaceRecognizer):
    def work(person: int) -> str | None:
        gallery.enroll(f"P{person}", fake_photo(person), force=True)
        return fake.identify(fake_photo(person, 1), gallery)[0].name

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(24))) == [f"P{person}" for person in range(24)]
    assert len(gallery) == 24
