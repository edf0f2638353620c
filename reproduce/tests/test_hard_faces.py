"""``reproduce/hard_faces.py``: covered faces, crops beside them, and two functions that tell both from faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from edgeface_runtime import open_rgb
from edgeface_runtime.align import TEMPLATE
from edgeface_runtime.gallery.likeness import seen_in
from edgeface_runtime.model import unit_rows
from reproduce import hard_faces
from reproduce.hard_faces import COVERS, HARD, TAKEN, agreements, covered, crops_beside, fit, gather


@pytest.mark.parametrize("cover", COVERS, ids=lambda cover: cover.__name__)
def test_a_cover_hides_part_of_the_face_and_leaves_the_face_that_was_given(cover):
    face = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    before = face.copy()
    shares = []
    for seed in range(20):
        hidden = cover(face, np.random.default_rng(seed))
        assert (hidden.shape, hidden.dtype) == (face.shape, face.dtype)
        shares.append(float((hidden != face).any(axis=2).mean()))
    assert 0.03 < min(shares) < np.mean(shares) < max(shares) < 1
    assert (face == before).all()


def test_the_same_seed_covers_alike():
    faces = np.random.default_rng(0).integers(0, 256, (9, 112, 112, 3)).astype(np.uint8)
    one, again, other = (covered(faces, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


def test_crops_beside_a_face_lie_in_the_photo():
    photo = np.full((400, 400, 3), 200, np.uint8)
    points = (TEMPLATE + 144).astype(np.float32)
    photo[190:240, 180:220] = 0
    box = np.array([170, 170, 230, 250], np.float32)
    crops = crops_beside(photo, box, points)
    assert len(crops) == 5
    assert all(crop.mean() > 170 for crop in crops)
    assert len(crops_beside(photo[150:260, 150:260], np.array([20, 20, 80, 100], np.float32), points - 150)) < 5


def people(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of 60 people with eight photos each, the same behind a cover, and their names."""
    names = np.repeat([f"P{number:02}" for number in range(60)], 8)
    faces = rng.normal(size=(60, 32))[np.repeat(np.arange(60), 8)] + rng.normal(0, 0.5, (480, 32))
    faces[:, :2] = 0
    hidden = 0.3 * faces + rng.normal(0, 0.5, (480, 32))
    hidden[:, 0] = 6
    return unit_rows(faces.astype(np.float32)), unit_rows(hidden.astype(np.float32)), names


def test_agreement_leaves_out_the_photo_itself_and_photos_of_somebody_else():
    rng = np.random.default_rng(0)
    rows, hidden, names = people(rng)
    rows[3] = rows[100]
    plain, behind = agreements(rows, names, hidden, 0.4)
    others = rows[[0, 1, 2, 4, 5, 6, 7]]
    means = [float((rows[row] @ np.delete(rows[:8], row, axis=0).T).mean()) for row in range(8)]
    assert plain[3] == pytest.approx(float((rows[3] @ others.T).mean()) - np.median(means), abs=1e-5)
    assert behind[3] == pytest.approx(float((hidden[3] @ others.T).mean()) - np.median(means), abs=1e-5)
    assert np.isnan(agreements(rows[:5], names[:5], hidden[:5], 0.4)[0]).all()
    assert np.isnan(agreements(rows, names, hidden, 0.99)[0]).all()


def test_hidden_faces_are_told_from_faces_and_from_what_is_none():
    rng = np.random.default_rng(0)
    rows, hidden, names = people(rng)
    beside = rng.normal(0, 0.3, (300, 32))
    beside[:, :2] = 3
    beside = unit_rows(beside.astype(np.float32))
    found = fit(rows, hidden, beside, names, np.arange(300) % 3, 0.4)
    assert (found.photos, found.people) == (480, 60)
    fresh, covered_, _ = people(np.random.default_rng(1))
    assert np.logical_and(*seen_in(found, fresh)).mean() <= 2 * HARD
    assert np.logical_and(*seen_in(found, covered_)).mean() > 0.95
    assert np.logical_and(*seen_in(found, beside)).mean() <= 2 * TAKEN


def test_a_gathering_that_was_stopped_goes_on_and_ends_as_one_that_was_not(
    att_people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    people = tmp_path / "people"
    for name in ("s1", "s2"):
        (people / name).mkdir(parents=True)
        for photo in sorted((att_people / name).iterdir())[:4]:
            (people / name / photo.name).symlink_to(photo)
    monkeypatch.setattr(hard_faces, "PART", 4)
    gather([people], [], tmp_path / "whole.npz")
    read, limit = open_rgb, 6
    opened: list[Path] = []

    def counted(path: Path) -> np.ndarray:
        opened.append(path)
        if len(opened) == limit:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(hard_faces, "open_rgb", counted)
    with pytest.raises(KeyboardInterrupt):
        gather([people], [], tmp_path / "faces.npz")
    assert not (tmp_path / "faces.npz").exists()
    opened, limit = [], 0
    gather([people], [], tmp_path / "faces.npz")
    assert {path.parent.name for path in opened} == {"s2"}
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "faces.npz") as found:
        assert set(found["names"]) == {"people/s1", "people/s2"}
        assert len(found["faces"]) >= 6
        assert {name: (whole[name] == found[name]).all() for name in whole.files} == dict.fromkeys(found.files, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.npz", "people", "whole.npz"]
