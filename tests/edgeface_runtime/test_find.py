from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime.detect import load_detector
from edgeface_runtime.faces import Face
from edgeface_runtime.find import find_faces, most_central
from edgeface_runtime.images import open_rgb


def face_at(x: float, y: float, side: float) -> Face:
    box = np.array([x, y, x + side, y + side], np.float32)
    return Face(box, 0.9, np.tile(box[:2] + 1, (5, 1)))


class Scripted:
    """Answers each look in turn and notes what it was shown."""

    def __init__(self, *answers: list[Face]) -> None:
        self.answers, self.shown = list(answers), []

    def detect(self, image: np.ndarray) -> list[Face]:
        self.shown.append(image)
        return self.answers.pop(0)


PHOTO = np.full((80, 100, 3), 200, np.uint8)


def test_a_whole_face_is_looked_at_once() -> None:
    detector = Scripted([face_at(0, 0, 80)])
    faces, margin = find_faces(PHOTO, detector)
    assert margin == 0
    assert faces[0].box.tolist() == [0, 0, 80, 80]
    assert len(detector.shown) == 1


@pytest.mark.parametrize("first", [[], [face_at(-1, 0, 60)], [face_at(45, 0, 60)], [face_at(20, 30, 60)]])
def test_a_cut_or_absent_face_is_looked_at_again_with_a_border(first: list[Face]) -> None:
    detector = Scripted(first, [face_at(25, 35, 90)])
    faces, margin = find_faces(PHOTO, detector)
    assert margin == 0.3
    assert faces[0].box.tolist() == [-5, 5, 85, 95]
    assert faces[0].landmarks[0].tolist() == [-4, 6]
    framed = detector.shown[1]
    assert framed.shape == (140, 160, 3)
    assert (framed[30:-30, 30:-30] == 200).all()
    assert framed.sum() == PHOTO.sum()


def test_what_was_seen_without_a_border_counts_when_nothing_is_seen_with_it() -> None:
    faces, margin = find_faces(PHOTO, Scripted([face_at(-1, 0, 60)], [], []))
    assert (len(faces), margin) == (1, 0)
    assert find_faces(PHOTO, Scripted([], [], [])) == ([], 0.0)


def test_a_cut_bystander_needs_no_second_look() -> None:
    faces, margin = find_faces(PHOTO, Scripted([face_at(-10, 0, 20), face_at(20, 10, 60)]))
    assert (len(faces), margin) == (2, 0)


def test_the_largest_central_face() -> None:
    faces = [face_at(0, 0, 30), face_at(35, 25, 30), face_at(90, 70, 10)]
    assert most_central(faces, 80, 100) is faces[1]
    assert most_central([face_at(0, 0, 79), faces[2]], 80, 100).box[2] == 79


def test_a_border_puts_mtcnns_landmarks_right(shared: Path) -> None:
    """On tight photos both detectors agree on the landmarks, which MTCNN without a border does not."""
    mtcnn, fast = load_detector("mtcnn"), load_detector("fast")
    people = sorted(path for path in (shared / "data/pins").iterdir() if path.is_dir())
    bare, framed = [], []
    for photo in (open_rgb(min(person.iterdir())) for person in people[:30]):
        expected = most_central(find_faces(photo, fast)[0], *photo.shape[:2]).landmarks
        eyes = np.linalg.norm(expected[1] - expected[0])
        for faces, errors in ((mtcnn.detect(photo), bare), (find_faces(photo, mtcnn)[0], framed)):
            found = most_central(faces, *photo.shape[:2]).landmarks if faces else np.full((5, 2), np.inf)
            errors.append(np.linalg.norm(found - expected, axis=1).mean() / eyes)
    assert np.median(framed) < 0.06
    assert np.median(framed) < np.median(bare) / 2
