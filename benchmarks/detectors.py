"""What the detectors find and what it costs, today's build against an older one in the same run.

    python -m benchmarks.detectors FACES [--old WORKTREE] [--heads A B] [--pairs FOLDER] [--rounds 5] [--scenes 1000]

FACES is a folder of photos of one face in the middle, LFW's or AT&T's. Builds and detectors take turns, each in fresh
processes, one thread, the engine of the default model; figures are thread CPU time. Measured are: finding and aligning
all faces of photos of four kinds; from a photo to a name; recall of faces pasted into soft shapes at widths from 20
pixels on; finds in scenes without a face (tiles of the photos, none large enough for a face, shuffled over soft shapes,
lines and ellipses); two touching heads, HEADS pasted onto each other in 315 ways; LFW View 1, where FOLDER has its two
pair files; and a cold start. Prints one JSON document, a row for each figure, a column for each build and detector.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from PIL import Image, ImageDraw

from edgeface_runtime import Detector, FaceRecognizer, Gallery
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.images import SUFFIXES, open_rgb

HERE = Path(__file__).parents[1]
WIDTHS = (20, 25, 30, 40)
TASKS = ("speed", "start", "recall", "empty", "touching", "view 1")
Pixels = np.ndarray


def soft(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Soft shapes without a face."""
    return Image.fromarray(rng.integers(40, 215, (6, 8, 3)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def scene(photo: Pixels, share: float, width: float, rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """A photo pasted so that its face, ``share`` of its width, is ``width`` pixels wide."""
    image, side = soft(rng, size), max(8, round(width / share))
    high = round(side * photo.shape[0] / photo.shape[1])
    x, y = (int(rng.integers(0, max(1, whole - part))) for whole, part in zip(size, (side, high), strict=True))
    image.paste(Image.fromarray(photo).resize((side, high), Image.Resampling.LANCZOS), (x, y))
    return np.asarray(image)


def faceless(photos: list[Pixels], number: int) -> Pixels:
    """Shuffled tiles of 12 pixels, lines and ellipses: the textures of faces without a face."""
    rng = np.random.default_rng(number)
    image = soft(rng, (640, 480))
    for _ in range(12):
        photo = photos[int(rng.integers(len(photos)))]
        high, wide = (side // 12 for side in photo.shape[:2])
        tiles = photo[: high * 12, : wide * 12].reshape(high, 12, wide, 12, 3).swapaxes(1, 2).reshape(-1, 12, 12, 3)
        mixed = rng.permutation(tiles).reshape(high, wide, 12, 12, 3).swapaxes(1, 2).reshape(high * 12, wide * 12, 3)
        scale = float(rng.uniform(0.5, 2))
        patch = Image.fromarray(mixed).resize((round(wide * 12 * scale), round(high * 12 * scale)))
        image.paste(patch, (int(rng.integers(-50, 600)), int(rng.integers(-50, 450))))
    draw = ImageDraw.Draw(image)
    for _ in range(10):
        x, y, w, h = (int(value) for value in rng.integers((0, 0, 10, 10), (640, 480, 200, 200)))
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), outline=color, width=3)
    return np.asarray(image)


def touching(detector: Detector, heads: list[str]) -> dict[str, float]:
    """Of how many pictures of two heads one is lost."""
    big, small = (open_rgb(path) for path in heads)
    big = big[:: max(1, big.shape[1] // 600), :: max(1, big.shape[1] // 600)].copy()
    x0, y0, x1, y1 = (int(value) for value in most_central(detector.detect(small), *small.shape[:2]).box)
    head = Image.fromarray(small[max(0, y0 - 18) : y1 + 9, max(0, x0 - 18) : x1 + 18])
    left, _, right, bottom = (int(value) for value in most_central(detector.detect(big), *big.shape[:2]).box)
    wide, lost, doubled, count = right - left, 0, 0, 0
    for share in (0.4, 0.5, 0.6, 0.7, 0.8):
        size = (int(wide * share), int(wide * share * head.height / head.width))
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).ellipse((0, 0, size[0] - 1, size[1] - 1), fill=255)
        for across in np.arange(-0.8, 1.21, 0.1):
            for down in (0.3, 0.6, 0.9):
                photo = Image.fromarray(big)
                photo.paste(head.resize(size), (int(left + across * wide), int(bottom - size[1] * down)), mask)
                found = len(find_faces(np.asarray(photo), detector)[0])
                count, lost, doubled = count + 1, lost + (found < 2), doubled + (found > 2)
    return {"pictures": count, "lost": lost, "more_than_two": doubled}


def found_and_aligned(photo: Pixels, detector: Detector) -> int:
    faces = find_faces(photo, detector)[0]
    for face in faces:
        align(photo, face.landmarks)
    return len(faces)


def milliseconds(call: Any, times: int) -> float:
    call()
    taken = []
    for _ in range(times):
        began = time.thread_time()
        call()
        taken.append((time.thread_time() - began) * 1e3)
    return statistics.median(taken)


def view_1(recognizer: FaceRecognizer, faces: Path, pairs: Path) -> dict[str, float]:
    """Accuracy on LFW's View 1 test pairs at the best threshold of its training pairs."""
    rows: dict[str, np.ndarray] = {}

    def row(name: str, number: str) -> np.ndarray:
        key = f"{name}_{int(number):04d}.jpg"
        if key not in rows:
            photo = open_rgb(faces / key)
            found = recognizer.faces(photo)
            rows[key] = (
                recognizer.embed(photo, [most_central(found, *photo.shape[:2])])[0]
                if found
                else np.zeros(recognizer.model.contract.embedding.size, np.float32)
            )
        return rows[key]

    def scores(file: str) -> tuple[np.ndarray, np.ndarray]:
        said, same = [], []
        for line in (pairs / file).read_text().splitlines():
            words = line.split()
            if len(words) in (3, 4):
                a, b = (words[0], words[1]), (words[-2] if len(words) == 4 else words[0], words[-1])
                said.append(float(row(*a) @ row(*b)))
                same.append(len(words) == 3)
        return np.array(said), np.array(same)

    train, is_same = scores("pairsDevTrain.txt")
    limits = np.linspace(-0.2, 0.9, 551)
    limit = limits[np.argmax([((train >= value) == is_same).mean() for value in limits])]
    test, is_same = scores("pairsDevTest.txt")
    missed = sum(not value.any() for value in rows.values())
    return {"accuracy": round(float(((test >= limit) == is_same).mean()) * 100, 2), "photos_without": missed}


def child(task: str, detector_name: str, arguments: dict[str, Any]) -> Any:
    """One task with the build that this process imports."""
    began = time.process_time()
    faces = Path(arguments["faces"])
    if task == "start":
        recognizer = FaceRecognizer(detector=detector_name)
        with tempfile.TemporaryDirectory() as folder:
            gallery = Gallery(Path(folder) / "people", recognizer)
            recognizer.identify(arguments["photo"], gallery, threshold=0.3)
            status = Path("/proc/self/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        return {"cpu_s": time.process_time() - began, "peak_mb": peak}
    recognizer = FaceRecognizer(detector=detector_name)
    detector = recognizer.detector
    if task == "touching":
        return touching(detector, arguments["heads"])
    if task == "view 1":
        return view_1(recognizer, faces, Path(arguments["pairs"]))
    files = sorted(file for file in faces.rglob("*") if file.suffix.lower() in SUFFIXES)
    photos = [open_rgb(file) for file in files[:: max(1, len(files) // 60)]]
    if task == "empty":
        return sum(len(find_faces(faceless(photos, number), detector)[0]) for number in range(arguments["scenes"]))
    reference = load_detector("mtcnn")
    boxes = [most_central(reference.detect(photo), *photo.shape[:2]).box for photo in photos]
    shares = [float(box[2] - box[0]) / photo.shape[1] for box, photo in zip(boxes, photos, strict=True)]
    if task == "recall":
        said = {}
        for width in WIDTHS:
            rng = np.random.default_rng(width)
            seen = [scene(photo, share, width, rng, (640, 480)) for photo, share in zip(photos, shares, strict=True)]
            said[str(width)] = round(100 * float(np.mean([bool(find_faces(photo, detector)[0]) for photo in seen])), 1)
        return said
    rng = np.random.default_rng(0)
    side = Image.fromarray(photos[0])
    six = Image.new("RGB", (640, 480))
    for number in range(6):
        tile = Image.fromarray(photos[number]).resize((213, 240))
        six.paste(tile, (number % 3 * 213, number // 3 * 240))
    kinds = {
        "640x480, one face": scene(photos[0], shares[0], 150, rng, (640, 480)),
        "640x480, six faces": np.asarray(six),
        "176x176": np.asarray(side.resize((176, 176))),
        "1920x1080": scene(photos[0], shares[0], 150, rng, (1920, 1080)),
        "640x480, no face": faceless(photos, 0),
    }
    said = {
        name: milliseconds(lambda photo=photo: found_and_aligned(photo, detector), 7) for name, photo in kinds.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery(Path(folder) / "people", recognizer)
        for name in ("640x480, one face", "176x176"):
            photo = kinds[name]
            said[f"to a name, {name}"] = milliseconds(
                lambda photo=photo: recognizer.identify(photo, gallery, threshold=0.3), 7
            )
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--old", type=Path, help="checkout of an older build; its blazeface stands beside")
    parser.add_argument("--heads", nargs=2, help="two portraits, the larger first")
    parser.add_argument("--pairs", type=Path, help="folder of pairsDevTrain.txt and pairsDevTest.txt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--detectors", nargs="+", default=["blazeface", "yunet"])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        task, name = arguments.child
        print(json.dumps(child(task, name, json.loads(os.environ["EDGEFACE_BENCHMARK"]))))
        return
    columns = {f"old, {name}": (arguments.old.resolve(), name) for name in ["blazeface"] if arguments.old}
    columns |= {name: (HERE, name) for name in arguments.detectors}
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        first = next(file for file in sorted(arguments.faces.rglob("*")) if file.suffix.lower() in SUFFIXES)
        Image.open(first).convert("RGB").resize((640, 480)).save(photo, quality=90)
        asked = {"faces": str(arguments.faces.resolve()), "photo": str(photo), "scenes": arguments.scenes}
        asked |= {"heads": [str(Path(path).resolve()) for path in arguments.heads or []]}
        asked |= {"pairs": str(arguments.pairs.resolve()) if arguments.pairs else ""}

        def told(task: str, build: Path, name: str) -> Any:
            roots = [str(build / part) for part in ("", "export", "devices", "runtime")]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots), "EDGEFACE_BENCHMARK": json.dumps(asked)}
            command = [sys.executable, str(Path(__file__).resolve()), str(arguments.faces), "--child", task, name]
            done = subprocess.run(command, env=environment, cwd=build, check=True, stdout=subprocess.PIPE, text=True)
            return json.loads(done.stdout)

        document: dict[str, Any] = {"rounds": arguments.rounds, "scenes": arguments.scenes}
        for task in [task for task in arguments.tasks if task in ("speed", "start")]:
            taken: dict[str, list[dict[str, float]]] = {column: [] for column in columns}
            for _ in range(arguments.rounds):
                for column, (build, name) in columns.items():
                    taken[column].append(told(task, build, name))
            document[task] = {
                figure: {
                    column: round(statistics.median(row[figure] for row in taken[column]), 3) for column in columns
                }
                for figure in next(iter(taken.values()))[0]
            }
        left_out = {"speed", "start"} | {
            task for task, given in (("touching", arguments.heads), ("view 1", arguments.pairs)) if not given
        }
        once = [task for task in arguments.tasks if task not in left_out]
        for task in once:
            document[task] = {column: told(task, build, name) for column, (build, name) in columns.items()}
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
