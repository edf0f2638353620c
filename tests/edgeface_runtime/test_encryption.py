"""Galleries that are encrypted at rest."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeface_runtime import FaceRecognizer, Gallery, GalleryError, MissingExtraError, UsageError, import_gallery
from edgeface_runtime.gallery.encryption import KEY, KEY_FILE
from edgeface_runtime.testing import fake_photo

HEX = "0123456789abcdef" * 4


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("sqlcipher3")
    monkeypatch.setenv(KEY, HEX)  # no key is derived from it, which takes its time
    return HEX


def filled(path: Path, fake: FaceRecognizer) -> Path:
    with Gallery.open(path, fake) as gallery:
        for person, name in enumerate(("Ada Lovelace", "Bea", "Cid")):
            gallery.enroll(name, fake_photo(person))
    return path


def traces(path: Path, fake: FaceRecognizer) -> list[bytes]:
    """What of the people a file, or another that begins with its name, holds in plain."""
    vector = fake.embed(fake_photo(0), mirror=True)[0].tobytes()
    data = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    secrets = (b"Lovelace", b"SQLite", b"CREATE TABLE", b"fake", *(vector[i : i + 16] for i in range(0, 240, 16)))
    return [secret for secret in secrets if secret in data]


def test_nothing_of_the_people_is_in_the_files(path: Path, fake: FaceRecognizer, key: str):
    filled(path, fake)
    assert traces(path, fake) == []
    with Gallery.open(path, fake, index=True) as gallery:
        assert gallery.search(fake.embed(fake_photo(0, 1)))[0][0].name == "Ada Lovelace"
        with gallery._store.writing() as db:
            db.execute("UPDATE person SET name = name || '!'")
            db.execute("PRAGMA cache_spill = 1")
            assert path.with_name(f"{path.name}-journal").exists()
            assert traces(path, fake) == []
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]  # an index would be in plain


def test_an_encrypted_gallery_does_what_another_does(path: Path, fake: FaceRecognizer, key: str, tmp_path: Path):
    filled(path, fake)
    with Gallery.open(path, fake) as gallery, Gallery.open(path, fake) as other:
        assert len(other) == 3
        gallery.rename("Bea", "Bee")
        gallery.remove("Cid")
        assert [photo.name for photo in other.photos()] == ["Ada Lovelace", "Bee"]
        assert other.search(fake.embed(fake_photo(1, 1)))[0][0].name == "Bee"
        gallery.backup(tmp_path / "copy")
        gallery.export(tmp_path / "people.json")
    assert traces(tmp_path / "copy", fake) == []
    assert import_gallery(tmp_path / "people.json", tmp_path / "new").added == 2
    with Gallery.open(tmp_path / "new", fake) as gallery:
        assert gallery.merge(tmp_path / "copy").already_there == 2
        assert gallery.merge(path).already_there == 2


def test_a_plain_gallery_stays_one_and_is_encrypted_by_an_import(
    path: Path, fake: FaceRecognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("sqlcipher3")
    filled(path, fake)
    monkeypatch.setenv(KEY, HEX)
    with Gallery.open(path, fake) as gallery:
        gallery.enroll("Dee", fake_photo(4))
        gallery.backup(tmp_path / "copy")
    assert len(traces(tmp_path / "copy", fake)) > 15
    assert import_gallery(path, tmp_path / "new").added == 4
    assert traces(tmp_path / "new", fake) == []


@pytest.mark.parametrize("key", ["it's a ключ", HEX])
def test_the_key_is_the_first_line_of_a_file(
    path: Path, fake: FaceRecognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
):
    """And the file is one that any SQLCipher opens, with 64 hexadecimal digits as the key itself."""
    dbapi2 = pytest.importorskip("sqlcipher3.dbapi2")
    (tmp_path / "key").write_text(f"{key}\n")
    monkeypatch.setenv(KEY_FILE, str(tmp_path / "key"))
    filled(path, fake)
    monkeypatch.delenv(KEY_FILE)
    monkeypatch.setenv(KEY, key)
    with Gallery.open(path) as gallery:
        assert len(gallery) == 3
    with contextlib.closing(dbapi2.connect(str(path))) as db:
        db.execute(f"""PRAGMA key = "x'{key}'" """ if key == HEX else f'PRAGMA key = "{key}"')
        db.execute("PRAGMA cipher_page_size = 8192")
        assert db.execute("SELECT count(*) FROM photo").fetchone() == (3,)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, f"not a gallery; if it is an encrypted one, set {KEY_FILE} or {KEY}"),
        ({KEY: "another"}, "not a gallery, or encrypted with another key"),
        ({KEY: HEX[1:] + "0"}, "not a gallery, or encrypted with another key"),
        ({KEY_FILE: "/nowhere/key"}, f"{KEY_FILE}=/nowhere/key: No such file"),
        ({KEY_FILE: "/dev/null"}, "its first line is empty"),
    ],
)
def test_a_wrong_key_is_one_line(path: Path, fake: FaceRecognizer, key: str, environment: dict[str, str], words: str):
    """Of the whole process, for SQLCipher has a log of its own."""
    before = filled(path, fake).read_bytes()
    rest = {name: value for name, value in os.environ.items() if name not in (KEY, KEY_FILE)}
    command = [sys.executable, "-m", "edgeface", "gallery", "list", str(path)]
    done = subprocess.run(command, env={**rest, **environment}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert words in done.stderr
    assert path.read_bytes() == before


def test_another_key_opens_no_other_file(tmp_path: Path, fake: FaceRecognizer, key: str):
    (tmp_path / "text").write_text("no gallery at all, " * 999)
    with pytest.raises(GalleryError, match="text: not a gallery, or encrypted with another key"):
        Gallery.open(tmp_path / "text")
    with pytest.raises(GalleryError, match="text: not a gallery"):
        Gallery.open(tmp_path / "text", fake)


def test_without_sqlcipher_the_extra_is_named(path: Path, fake: FaceRecognizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sqlcipher3", None)
    monkeypatch.setenv(KEY, "key")
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeface\[encrypted\]'"):
        Gallery.open(path, fake)
    monkeypatch.setenv(KEY_FILE, str(path.parent))
    with pytest.raises(UsageError, match="Is a directory"):
        Gallery.open(path, fake)
