"""What of a gallery is in memory, against the file: after any changes, by whomever, and in whatever batches."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface_runtime import EnrollmentError, FaceRecognizer, Gallery, GalleryError
from edgeface_runtime.gallery.search import GrowingRows, Precision, pack, read_rows, widened
from edgeface_runtime.testing import fake_photo, fake_recognizer

LENGTH = 64  # of the fake recognizer's embeddings


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def filled(path: Path, people: list[np.ndarray], precision: Precision = "float32") -> None:
    """A gallery with these embeddings of P0, P1 …, one photo of each in turn."""
    Gallery.open(path, fake_recognizer(), precision=precision).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executemany("INSERT INTO person (name) VALUES (?)", [(f"P{person}",) for person in range(len(people))])
        for turn in range(max(map(len, people))):
            db.executemany(
                "INSERT INTO photo (person, source, added, sharpness, size, yaw, pitch, embedding) "
                "VALUES (?, '', '', 0, 0, 0, 0, ?)",
                [(i + 1, pack(rows[turn], precision)) for i, rows in enumerate(people) if turn < len(rows)],
            )
        db.commit()


@pytest.mark.parametrize(("precision", "numpy"), [("float32", 2), ("int8", 2), ("float32", 1)])
def test_the_answer_does_not_depend_on_the_batch(
    path: Path, precision: Precision, numpy: int, monkeypatch: pytest.MonkeyPatch
):
    """One photo is enrolled under many names: their scores are equal and they come in the order of enrollment."""
    if numpy == 1:
        monkeypatch.delattr(np, "vecdot", raising=False)
    rng = np.random.default_rng(0)
    people = [unit(rng.normal(size=(rng.integers(1, 4), LENGTH))) for _ in range(1500)]
    twins = list(range(7, 1500, 61))
    for person in twins:
        people[person] = people[7]
    filled(path, people, precision)
    queries = unit(people[7][0] + 0.05 * rng.normal(size=(65, LENGTH)))
    with Gallery.open(path) as gallery:
        alone = [gallery.search(query[None], len(twins) + 5)[0] for query in queries]
        assert [[found.name for found in row[: len(twins)]] for row in alone] == [[f"P{i}" for i in twins]] * 65
        assert all(len({found.score for found in row[: len(twins)]}) == 1 for row in alone)
        for batch in (2, 3, 4, 5, 17, 65):
            assert gallery.search(queries[:batch], len(twins) + 5) == alone[:batch]
        assert gallery.search(queries[:9], 1500) == [gallery.search(query[None], 1500)[0] for query in queries[:9]]


def steps_of(gallery: Gallery, work: Callable[[], object]) -> int:
    """How many hundreds of instructions SQLite's machine carries out meanwhile."""
    counts = [0]

    def count() -> int:
        counts[0] += 1
        return 0

    with gallery._store.reading() as db:
        db.set_progress_handler(count, 100)
    work()
    with gallery._store.reading() as db:
        db.set_progress_handler(None, 100)
    return counts[0]


def test_a_search_after_an_enrollment_reads_the_new_photo_alone(path: Path, fake: FaceRecognizer):
    rng = np.random.default_rng(0)
    filled(path, [unit(rng.normal(size=(2, LENGTH))) for _ in range(2000)])
    query = fake.embed(fake_photo(1))
    with Gallery.open(path, fake) as gallery, Gallery.open(path, fake) as other:
        whole = steps_of(gallery, lambda: gallery.search(query))
        other.search(query)
        gallery.enroll("Ada", fake_photo(1))
        for reader in (gallery, other):
            assert steps_of(reader, lambda reader=reader: reader.search(query)) < whole / 50
            assert reader.search(query)[0][0].name == "Ada"
            assert len(reader) == 4001

        def refused() -> None:
            with pytest.raises(EnrollmentError, match="looks like Ada"):
                gallery.enroll("Bea", fake_photo(1))
            gallery.search(query)

        assert steps_of(gallery, refused) < whole / 50


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["enroll", "enroll", "enroll", "remove", "rename", "search"]), st.integers(0, 5)),
    max_size=14,
)


@settings(max_examples=12, deadline=None)
@given(OPERATIONS, st.sampled_from(["float32", "int8"]))
def test_whatever_is_done_by_whom_memory_holds_what_the_file_holds(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]], precision: Precision
):
    path, fake = tmp_path_factory.mktemp("store") / "g", fake_recognizer()
    queries = np.concatenate([fake.embed(fake_photo(person)) for person in range(6)])
    with Gallery.open(path, fake, precision=precision) as one, Gallery.open(path, fake) as two:
        for turn, (what, person) in enumerate(operations):
            gallery = (one, two)[turn % 2]
            names = sorted({photo.name for photo in gallery.photos()})
            if what == "enroll":
                gallery.enroll(f"P{person}", fake_photo(person, turn % 3), force=True)
            elif what == "remove" and names:
                gallery.remove(names[person % len(names)])
            elif what == "rename" and names:
                gallery.rename(names[person % len(names)], f"N{turn}")
            with Gallery.open(path) as fresh:
                wanted = fresh.search(queries, 9)
                assert one.search(queries, 9) == wanted
                assert [two.search(query[None], 9)[0] for query in queries] == wanted
                assert len(one) == len(two) == len(fresh.photos())


def test_what_was_taken_back_is_not_in_memory(path: Path, fake: FaceRecognizer):
    """A transaction that fails after a search within it."""
    with Gallery.open(path, fake) as gallery:
        gallery.enroll("Ada", fake_photo(1))

        def stopped() -> None:
            with gallery._store.writing() as db:
                db.execute("INSERT INTO person (name) VALUES ('Bea')")
                db.execute(
                    "INSERT INTO photo (person, source, added, sharpness, size, yaw, pitch, embedding) "
                    "SELECT id, '', '', 0, 0, 0, 0, ? FROM person WHERE name = 'Bea'",
                    (fake.embed(fake_photo(2)).tobytes(),),
                )
                assert len(gallery) == 2
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped()
        assert len(gallery) == 1
        assert [found.name for found in gallery.search(fake.embed(fake_photo(2)), 5)[0]] == ["Ada"]


@pytest.mark.parametrize("damage", [b"\0", np.full(LENGTH, np.nan, np.float32).tobytes()])
def test_a_damaged_photo_is_named_does_not_take_the_others_with_it_and_can_be_removed(
    path: Path, fake: FaceRecognizer, damage: bytes, caplog: pytest.LogCaptureFixture
):
    with Gallery.open(path, fake) as gallery:
        for person, name in enumerate(("Ada", "Bea", "Cid")):
            gallery.enroll(name, fake_photo(person))
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE photo SET embedding = ? WHERE id = 2", (damage,))
        db.commit()
    with Gallery.open(path, fake) as gallery:
        for _ in range(2):
            found = gallery.search(fake.embed(fake_photo(0)), 5)[0]
            assert [candidate.name for candidate in found] == ["Ada", "Cid"]
        assert re.search(r"damaged: photo 2 of Bea is passed over: .*remove, with --photo", *gallery.damaged)
        assert caplog.messages == gallery.damaged
        gallery.remove("Bea", 2)
        assert gallery.search(fake.embed(fake_photo(0)))[0][0].name == "Ada"
        assert len(gallery) == 2


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("name = x'ff' WHERE id = 2", "its name is"),
        ("name = cast(x'41ff' AS TEXT) WHERE id = 2", "its name is"),
        ("sharpness = 'sharp' WHERE id = 2", "its sharpness is 'sharp'"),
        ("yaw = 9e999 WHERE id = 2", "its yaw is inf"),
        ("source = x'00' WHERE id = 2", "its source is"),
        ("embedding = 7 WHERE id = 2", "not 64 float32 numbers"),
        ("person = 99 WHERE id = 2", "of nobody"),
    ],
)
def test_a_sound_copy_leaves_out_what_is_damaged_alone(path: Path, fake: FaceRecognizer, damage: str, why: str):
    with Gallery.open(path, fake) as gallery:
        for person, name in enumerate(("Ada", "Bea", "Cid")):
            gallery.enroll(name, fake_photo(person))
        photos, embeddings = gallery.contents()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE {'person' if damage.startswith('name') else 'photo'} SET {damage}")
        db.commit()
    before, copy = path.read_bytes(), path.with_name("sound.gallery")
    with Gallery.open(path, fake) as gallery:
        left, detector = gallery.repair(copy), gallery.detector
    assert len(left) == 1
    assert why in left[0]
    assert path.read_bytes() == before
    with Gallery.open(copy, fake) as sound:
        kept, rows = sound.contents()
        assert (sound.damaged, sound.detector) == ([], detector)
    assert [replace(photo, id=0) for photo in kept] == [replace(photos[0], id=0), replace(photos[2], id=0)]
    np.testing.assert_array_equal(rows, embeddings[[0, 2]])
    with Gallery.open(path, fake) as gallery, pytest.raises(GalleryError, match="is there already"):
        gallery.repair(copy)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_rows_that_grow_keep_what_was_handed_out(precision: Precision):
    rng = np.random.default_rng(0)
    parts = [unit(rng.normal(size=(count, 8))) for count in (5, 0, 1, 1, 40, 3)]
    growing, seen = GrowingRows(8, precision, 5), []
    for part in parts:
        growing.add(read_rows(b"".join(pack(row, precision) for row in part), precision, 8))
        seen.append(growing.rows())
    for number, rows in enumerate(seen):
        wanted = np.concatenate(parts[: number + 1])
        np.testing.assert_allclose(widened(rows), wanted, atol=0 if precision == "float32" else 0.01)


def test_of_many_damaged_photos_five_are_said_and_all_are_listed(
    path: Path, fake: FaceRecognizer, caplog: pytest.LogCaptureFixture
):
    with Gallery.open(path, fake) as gallery:
        for person in range(12):
            gallery.enroll(f"P{person}", fake_photo(person))
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE photo SET embedding = ? WHERE id > 1", (b"",))
        db.commit()
    with Gallery.open(path, fake) as gallery:
        assert [found.name for found in gallery.search(fake.embed(fake_photo(0)), 5)[0]] == ["P0"]
        assert len(gallery.damaged) == 11
        assert caplog.messages[:5] == gallery.damaged[:5]
        assert len(caplog.messages) == 6
        assert "more photos are passed over" in caplog.messages[5]
