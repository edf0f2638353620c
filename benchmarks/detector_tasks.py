"""One task of ``benchmarks.detectors`` in a process of its own, with the build that this process imports.

Serves older builds too, and runs in the emulator, where there is no more than numpy, Pillow and the engines.
"""

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from detector_scenes import faceless, scene, six, touching

from edgeface_runtime import Face, FaceRecognizer, Gallery
from edgeface_runtime.align import align

try:
    from edgeface_runtime.detection.find import find_faces, load_detector, most_central
except ImportError:  # a build before the package of detectors
    from edgeface_runtime.detect import load_detector
    from edgeface_runtime.find import find_faces, most_central

from edgeface_runtime.images import SUFFIXES, open_rgb

WIDTHS = (20, 25, 30, 40)
NEAR = 0.25  # of the eye distance: points farther off on average are no find
FIRST_MARK = -4700  # closing such a descriptor always fails; the emulator's counter sees the call
Pixels = np.ndarray
Figures = dict[str, float]


def photos_of(folder: Path, number: int, offset: float = 0.0) -> list[Pixels]:
    """So many photos of a folder, evenly; ``offset`` in steps."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    step = max(1, len(files) // number)
    return [open_rgb(file) for file in files[int(offset * step) :: step][:number]]


def milliseconds(call: Callable[[], object], times: int = 7) -> float:
    call()
    taken = []
    for _ in range(times):
        began = time.thread_time()
        call()
        taken.append((time.thread_time() - began) * 1e3)
    return statistics.median(taken)


def found_and_aligned(photo: Pixels, recognizer: FaceRecognizer) -> int:
    faces = find_faces(photo, recognizer.detector)[0]
    for face in faces:
        align(photo, face.landmarks)
    return len(faces)


def central(photo: Pixels) -> Face:
    return most_central(load_detector("mtcnn").detect(photo), *photo.shape[:2])


def kinds(faces: Path) -> dict[str, Pixels]:
    """The photos that times are taken of."""
    photos, rng = photos_of(faces, 60), np.random.default_rng(0)
    box = central(photos[0]).box
    share = float(box[2] - box[0]) / photos[0].shape[1]
    return {
        "640 × 480, one face": scene(photos[0], share, 150, rng, (640, 480))[0],
        "640 × 480, six faces": six(photos),
        "176 × 176": np.asarray(photos[0]),
        "1920 × 1080": scene(photos[0], share, 150, rng, (1920, 1080))[0],
        "640 × 480, no face": faceless(photos, rng),
    }


def speed(recognizer: FaceRecognizer, asked: dict[str, str]) -> Figures:
    shown = {name: np.load(file) for name, file in json.loads(asked["kinds"]).items()}
    said = {name: milliseconds(partial(found_and_aligned, photo, recognizer)) for name, photo in shown.items()}
    with tempfile.TemporaryDirectory() as folder, Gallery.open(Path(folder) / "people", recognizer) as gallery:
        for name in ("640 × 480, one face", "176 × 176"):
            call = partial(recognizer.identify, shown[name], gallery, threshold=0.3)
            said[f"to a name, {name}"] = milliseconds(call)
    return said


def start(recognizer: FaceRecognizer, asked: dict[str, str]) -> Figures:
    with tempfile.TemporaryDirectory() as folder, Gallery.open(Path(folder) / "people", recognizer) as gallery:
        recognizer.identify(asked["photo"], gallery, threshold=0.3)
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return {"start to first name, CPU s": time.process_time(), "peak memory, MB": peak}


def recall(recognizer: FaceRecognizer, asked: dict[str, str]) -> Figures:
    photos = photos_of(Path(asked["faces"]), 100)
    faces = [central(photo) for photo in photos]
    said = {}
    for width in WIDTHS:
        rng, found = np.random.default_rng(width), 0
        for photo, face in zip(photos, faces, strict=True):
            share = float(face.box[2] - face.box[0]) / photo.shape[1]
            seen, (x, y, side, _) = scene(photo, share, width, rng, (640, 480))
            scale = side / photo.shape[1]
            true = (face.landmarks + 0.5) * scale - 0.5 + [x, y]
            reach = NEAR * float(np.linalg.norm(true[1] - true[0]))
            looks = find_faces(seen, recognizer.detector)[0]
            off = [float(np.linalg.norm(look.landmarks - true, axis=1).mean()) for look in looks]
            found += min(off, default=np.inf) < max(reach, 1.5)
        said[f"recall at {width} pixels, %"] = round(100 * found / len(photos), 1)
    return said


def empty(recognizer: FaceRecognizer, asked: dict[str, str]) -> Figures:
    photos, count = photos_of(Path(asked["faces"]), 60, 0.5), int(asked["scenes"])
    rng = np.random.default_rng(20_000)
    found = [len(find_faces(faceless(photos, rng), recognizer.detector)[0]) for _ in range(count)]
    return {f"finds in {count:,} scenes without a face": sum(found)}


def heads(recognizer: FaceRecognizer, asked: dict[str, str]) -> Figures:
    big, small = (open_rgb(path) for path in json.loads(asked["heads"]))
    big = big[:: max(1, big.shape[1] // 600), :: max(1, big.shape[1] // 600)].copy()
    found = [
        len(find_faces(photo, recognizer.detector)[0])
        for photo in touching(big, central(big).box, small, central(small).box)
    ]
    return {
        "pictures of two touching heads": len(found),
        "of them one lost": sum(number < 2 for number in found),
        "of them more than two found": sum(number > 2 for number in found),
    }


def crop_of(path: Path, recognizer: FaceRecognizer) -> Pixels | None:
    photo = open_rgb(path)
    faces = find_faces(photo, recognizer.detector)[0]
    return align(photo, most_central(faces, *photo.shape[:2]).landmarks) if faces else None


def best_limit(scores: Pixels, same: Pixels) -> float:
    limits = np.linspace(-0.2, 0.9, 551)
    return float(limits[np.argmax([((scores >= value) == same).mean() for value in limits])])


def view_1(recognizer: FaceRecognizer, asked: dict[str, str]) -> Figures:
    """Accuracy on LFW's View 1 test pairs at the best threshold of its training pairs."""
    faces, pairs = Path(asked["faces"]), Path(asked["pairs"])
    rows: dict[str, Pixels] = {}

    def row(name: str, number: str) -> Pixels:
        key = f"{name}_{int(number):04d}.jpg"
        if key not in rows:
            crop = crop_of(faces / key, recognizer)
            length = recognizer.model.contract.embedding.length
            rows[key] = np.zeros(length, np.float32) if crop is None else recognizer.model.embed(crop[None])[0]
        return rows[key]

    def scores(file: str) -> tuple[Pixels, Pixels]:
        said, same = [], []
        for line in (pairs / file).read_text().splitlines():
            words = line.split()
            if len(words) in (3, 4):
                a, b = (words[0], words[1]), (words[-2] if len(words) == 4 else words[0], words[-1])
                said.append(float(row(*a) @ row(*b)))
                same.append(len(words) == 3)
        return np.array(said), np.array(same)

    limit = best_limit(*scores("pairsDevTrain.txt"))
    test, same = scores("pairsDevTest.txt")
    missed = sum(not value.any() for value in rows.values())
    return {"LFW View 1, %": round(float(((test >= limit) == same).mean()) * 100, 2), "of its photos no face": missed}


def cfp(recognizer: FaceRecognizer, asked: dict[str, str]) -> Figures:
    """Frontal-profile pairs of CFP: mean over its folds of the accuracy at the best threshold of the other folds."""
    from edgeface_runtime.engines import open_engine

    root, net = Path(asked["cfp"]), open_engine(asked["recognizer"])
    folds = json.loads(asked["folds"])
    there = {file.parts[-3:]: file for file in root.glob("Data/Images/**/*.jpg")}
    files = {}
    for kind in "FP":
        for line in (root / f"Protocol/Pair_list_{kind}.txt").read_text().splitlines():
            number, name = line.split()
            files[kind, int(number)] = there[Path(name).parts[-3:]]
    pairs = [
        (fold, kind == "same", *(int(value) for value in line.split(",")))
        for fold in folds
        for kind in ("same", "diff")
        for line in (root / f"Protocol/Split/FP/{fold}/{kind}.txt").read_text().split()
    ]
    wanted = sorted({("F", a) for *_, a, _ in pairs} | {("P", b) for *_, b in pairs})
    rows: dict[tuple[str, int], Pixels] = {}
    missed = {"F": 0, "P": 0}
    nothing = np.zeros(net.run(np.zeros((2, 112, 112, 3), np.float32))[0].shape[-1])
    for key in wanted:
        crop = crop_of(files[key], recognizer)
        if crop is None:
            missed[key[0]] += 1
            rows[key] = nothing
            continue
        both = np.stack([crop, crop[:, ::-1]]).astype(np.float32)  # the net takes two: the face and its mirror image
        row = net.run((both - np.float32(127.5)) / np.float32(128))[0].sum(axis=0)
        rows[key] = row / np.linalg.norm(row)
    scores = np.array([float(rows["F", a] @ rows["P", b]) for *_, a, b in pairs])
    same, fold = np.array([pair[1] for pair in pairs]), np.array([pair[0] for pair in pairs])
    right = []
    for one in folds:
        limit = best_limit(scores[fold != one], same[fold != one])
        right.append(float(((scores >= limit) == same)[fold == one].mean()))
    return {
        f"CFP frontal-profile, folds {' '.join(folds)}, %": round(100 * statistics.mean(right), 2),
        "of its profiles no face": missed["P"],
        "of its frontal photos no face": missed["F"],
    }


def counted(recognizer: FaceRecognizer, asked: dict[str, str]) -> Figures:
    """In the emulator: calls with marks between them."""
    photo = np.load(asked["scene"])
    found_and_aligned(photo, recognizer)
    for number in range(6):
        with contextlib.suppress(OSError):
            os.close(FIRST_MARK - number)
        found = found_and_aligned(photo, recognizer)
    return {"faces": found}


TASKS = {
    "speed": speed,
    "start": start,
    "recall": recall,
    "empty": empty,
    "heads": heads,
    "view 1": view_1,
    "cfp": cfp,
    "counted": counted,
}


def main() -> None:
    task, detector = sys.argv[1:]
    asked = json.loads(os.environ["EDGEFACE_BENCHMARK"])
    if task == "kinds":
        for number, (name, photo) in enumerate(kinds(Path(asked["faces"])).items()):
            np.save(Path(asked["folder"]) / f"{number}.npy", photo)
            print(json.dumps([name, str(Path(asked["folder"]) / f"{number}.npy")]))
        return
    print(json.dumps(TASKS[task](FaceRecognizer(detector=detector), asked)))


if __name__ == "__main__":
    main()
