"""Eight-bit embeddings, and the index, against the exact search over 32 bits."""

from __future__ import annotations

import contextlib
import importlib.util
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface_runtime import FaceRecognizer, Gallery, GalleryError, MissingExtraError, UsageError
from edgeface_runtime.gallery.search import Rows, pack, read_rows, scores, widened
from edgeface_runtime.testing import fake_photo, fake_recognizer

LENGTH = 64  # of the fake recognizer's embeddings


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 64, 512]), st.integers(1, 5), st.sampled_from([1, 1500]))
def test_eight_bits_keep_the_score_within_what_rounding_can_do(seed: int, length: int, queries: int, count: int):
    """Rounding moves a component by half a step, so the vector by √D/2 steps at most, and its direction by as much."""
    rng = np.random.default_rng(seed)
    rows, wanted = unit(rng.normal(size=(count, length))), unit(rng.normal(size=(queries, length)))
    packed = read_rows(b"".join(pack(row, "int8") for row in rows), "int8", length)
    exact = wanted.astype(np.float64) @ rows.T.astype(np.float64)
    moved = np.abs(scores(packed, wanted) - exact)
    step = np.abs(rows).max(axis=1) / 127
    assert (moved <= 1.1 * step * np.sqrt(length) / 2 + 1e-5).all()
    np.testing.assert_allclose(np.linalg.norm(widened(packed), axis=1), 1, atol=1e-5)
    slow = [[float(np.dot(query, row)) for row in widened(packed).astype(np.float64)] for query in wanted]
    np.testing.assert_allclose(scores(packed, wanted), slow, atol=2e-6)


def test_eight_bits_of_a_net_of_512_move_a_score_by_three_thousandths():
    """What docs/privacy.md states, for embeddings whose components are alike."""
    rng = np.random.default_rng(0)
    rows, wanted = unit(rng.normal(size=(5000, 512))), unit(rng.normal(size=(20, 512)))
    packed = read_rows(b"".join(pack(row, "int8") for row in rows), "int8", 512)
    assert np.abs(scores(packed, wanted) - wanted @ rows.T).max() < 0.003


def test_an_int8_gallery_does_what_another_does(path: Path, fake: FaceRecognizer, tmp_path: Path):
    with Gallery.open(path, fake, precision="int8") as small, Gallery.open(tmp_path / "wide", fake) as wide:
        for gallery in (small, wide):
            for person in range(12):
                gallery.enroll(f"P{person}", fake_photo(person), force=True)
                assert gallery.enroll(f"P{person}", fake_photo(person)).id == person + 1  # is there already
        assert (small.precision, wide.precision, len(small)) == ("int8", "float32", 12)
        for person in range(20):
            near, exact = (gallery.search(fake.embed(fake_photo(person, 1)), 1)[0][0] for gallery in (small, wide))
            assert near.score == pytest.approx(exact.score, abs=0.01)
            assert near.name == exact.name or person >= 12
        small.export(tmp_path / "small.csv")
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT DISTINCT length(embedding) FROM photo").fetchall() == [(LENGTH,)]
    rows = np.loadtxt(tmp_path / "small.csv", delimiter=",", skiprows=1, usecols=range(8, 8 + LENGTH))
    np.testing.assert_allclose(
        rows, [fake.embed(fake_photo(person), mirror=True)[0] for person in sorted(range(12), key=str)], atol=0.01
    )


def test_precision_is_chosen_once(path: Path, fake: FaceRecognizer):
    with pytest.raises(UsageError, match="no precision 'int4'; choose float32 or int8"):
        Gallery.open(path, fake, precision="int4")  # type: ignore[arg-type]
    assert not path.exists()
    Gallery.open(path, fake, precision="int8").close()
    with Gallery.open(path) as gallery:
        assert gallery.precision == "int8"
    with pytest.raises(GalleryError, match="stores int8 embeddings, not float32; make a new gallery"):
        Gallery.open(path, fake, precision="float32")


def test_what_is_removed_from_an_int8_gallery_is_gone(path: Path, fake: FaceRecognizer):
    with Gallery.open(path, fake, precision="int8") as gallery:
        for person in range(12):
            gallery.enroll(f"P{person}", fake_photo(person), force=True)
        data = pack(fake.embed(fake_photo(3), mirror=True)[0], "int8")
        assert data in path.read_bytes()
        gallery.remove("P3")
        assert all(data[i : i + 16] not in path.read_bytes() for i in range(0, LENGTH - 16, 4))


def need_usearch() -> None:
    """Skips without it, and leaves it to NearIndex to load it in the right order."""
    if importlib.util.find_spec("usearch") is None:
        pytest.skip("needs usearch")


@pytest.fixture
def crowd(path: Path) -> tuple[Path, np.ndarray]:
    """A gallery of 400 people with two photos each, and another photo of each."""
    need_usearch()
    rng = np.random.default_rng(0)
    faces = rng.normal(size=(400, 1, LENGTH))
    looks = unit(faces + 0.4 * rng.normal(size=(400, 3, LENGTH)))
    Gallery.open(path, fake_recognizer()).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        for person, rows in enumerate(looks[:, :2]):
            db.execute("INSERT INTO person (id, name) VALUES (?, ?)", (person + 1, f"P{person}"))
            db.executemany(
                "INSERT INTO photo (person, source, added, sharpness, size, yaw, pitch, embedding) "
                "VALUES (?, '', '', 0, 0, 0, 0, ?)",
                [(person + 1, row.tobytes()) for row in rows],
            )
        db.commit()
    return path, looks[:, 2]


def test_an_index_proposes_as_finely_as_bytes_can_tell():
    """Recall at 10 of what is proposed, before its scores are looked at, among many who are alike."""
    need_usearch()
    from edgeface_runtime.gallery.index import NearIndex

    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(1, 512)) + rng.normal(size=(3000, 512)))
    queries = unit(rows[:100] + 0.004 * rng.normal(size=(100, 512)))
    index = NearIndex(512)
    index.update(np.arange(3000), lambda ids: (ids, Rows(rows[ids], None)))
    found = [index.nearest(query, 10) for query in queries]
    wanted = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, wanted.tolist(), strict=True)]) > 0.95


def indices(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.index"))


def test_an_index_finds_who_the_exact_search_finds(crowd: tuple[Path, np.ndarray]):
    path, looks = crowd
    with Gallery.open(path) as exact, Gallery.open(path, index=True) as near:
        assert len(near) == len(exact) == 800
        pairs = list(zip(near.search(looks, 3), exact.search(looks, 3), strict=True))
    assert np.mean([a[0].name == b[0].name for a, b in pairs]) > 0.995
    for found, wanted in pairs:
        assert len(found) == 3
        known = {candidate.name: candidate.score for candidate in wanted}
        for candidate in found:
            if candidate.name in known:  # scores are the gallery's own
                assert candidate.score == pytest.approx(known[candidate.name], abs=1e-5)


def test_an_index_is_kept_beside_the_gallery(crowd: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch):
    path, looks = crowd
    from edgeface_runtime.gallery.index import NearIndex

    added: list[int] = []
    update = NearIndex.update

    def counted(self: NearIndex, ids: np.ndarray, fetch: Callable[..., object]) -> int:
        added.append(update(self, ids, fetch))  # type: ignore[arg-type]
        return added[-1]

    monkeypatch.setattr(NearIndex, "update", counted)
    for _ in range(2):
        with Gallery.open(path, fake_recognizer(), index=True) as gallery:
            assert gallery.search(looks[:1])[0][0].name == "P0"
    assert added == [800, 0]
    (file,) = indices(path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with Gallery.open(path, fake_recognizer(), index=True) as gallery:
        gallery.enroll("Ada", fake_photo(7), force=True)
        assert gallery.search(fake_recognizer().embed(fake_photo(7)))[0][0].name == "Ada"
    with Gallery.open(path, fake_recognizer(), index=True) as gallery:
        assert gallery.search(fake_recognizer().embed(fake_photo(7)))[0][0].name == "Ada"
    assert added[2:] == [1, 0]


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 500, None])
def test_a_damaged_index_is_built_again(crowd: tuple[Path, np.ndarray], damage: bytes | None):
    path, looks = crowd
    with Gallery.open(path, index=True) as gallery:
        gallery.search(looks[:1])
    (file,) = indices(path)
    file.write_bytes(file.read_bytes()[:1000] if damage is None else damage)
    with Gallery.open(path, index=True) as gallery:
        assert [found[0].name for found in gallery.search(looks[:5])] == [f"P{person}" for person in range(5)]


def test_a_removal_takes_the_index_with_it(crowd: tuple[Path, np.ndarray]):
    """Whoever removes, with an index or without: no file holds the embedding, and the search does not find it."""
    path, looks = crowd
    with Gallery.open(path, index=True) as gallery:
        gallery.search(looks[:1])
        assert indices(path)
        half = path.with_name(f"{path.name}._partial.index")
        half.touch()  # as a kill leaves it
        neighbour = path.with_name(f"{path.name}2.0123abcd.index")
        neighbour.touch()
        with Gallery.open(path) as other:
            other.remove("P0")
        assert not half.exists()
        assert indices(path) == [neighbour]
        neighbour.unlink()
        assert gallery.search(looks[:1])[0][0].name != "P0"
        (file,) = indices(path)  # built anew, for the embedding would stay in the old one
        gallery.remove("P1")
        assert not file.exists()
    with Gallery.open(path, index=True) as gallery:
        assert gallery.search(looks[1:2])[0][0].name != "P1"
        assert gallery.search(looks[2:3])[0][0].name == "P2"


def test_an_index_that_others_have_overtaken_is_not_kept(crowd: tuple[Path, np.ndarray]):
    """It still holds whom another process has removed."""
    path, looks = crowd
    with Gallery.open(path, index=True) as gallery:
        gallery.search(looks[:1])
        indices(path)[0].unlink()
        gallery._unsaved = 1  # as after one enrolment
        with Gallery.open(path) as other:
            other.remove("P0")
    assert indices(path) == []


def test_an_index_of_nobody_and_of_few(path: Path, fake: FaceRecognizer):
    need_usearch()
    with Gallery.open(path, fake, index=True, precision="int8") as gallery:
        assert gallery.search(fake.embed(fake_photo(1)), 5) == [[]]
        gallery.enroll("Ada", fake_photo(1))
        gallery.enroll("Ada", fake_photo(1, 1))
        gallery.enroll("Bea", fake_photo(2))
        found = gallery.search(fake.embed(fake_photo(1, 2)), 5)[0]
        with Gallery.open(path) as exact:
            wanted = exact.search(fake.embed(fake_photo(1, 2)), 5)[0]
        assert [candidate.name for candidate in found] == ["Ada", "Bea"]
        assert [c.score for c in found] == pytest.approx([c.score for c in wanted], abs=1e-6)
        assert fake.identify(fake_photo(1, 3), gallery)[0].name == "Ada"


def test_an_index_may_be_opened_before_a_model(path: Path, tiny_onnx: Path):
    need_usearch()
    pytest.importorskip("onnxruntime")
    Gallery.open(path, fake_recognizer()).close()
    code = (
        "import sys; from edgeface_runtime import Gallery, load\n"
        "with Gallery.open(sys.argv[1], index=True): load(sys.argv[2])"
    )
    done = subprocess.run([sys.executable, "-c", code, path, tiny_onnx], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_usearch_the_extra_is_named(path: Path, fake: FaceRecognizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeface\[index\]'"):
        Gallery.open(path, fake, index=True)
