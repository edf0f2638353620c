"""A photo without a face against one with a face, at four sizes, and against an older build in the same run.

    python -m benchmarks.empty MODEL FACE [--old WORKTREE] [--rounds 3] [--sizes 640x480 3264x2448 ...]

MODEL is an exported file, best int8 TFLite. FACE is a photo with one face; it is put at half the height into a photo of
soft shapes, which without it is the photo without a face. Both are JPEG files. Every figure is of a fresh process that
opens the file, finds all faces and embeds each: thread CPU time without the decoding, and by how much the peak of
resident memory grows, decoding included. Then ``edgeface identify`` as a whole process. WORKTREE is a checkout of the
older build; builds and photos take turns. Prints one JSON document, medians over rounds.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parents[1]
LOOK = """
import json, sys, time
import numpy as np
from edgeface_runtime import FaceRecognizer
from edgeface_runtime import images

open_photo = getattr(images, "open_photo", images.open_rgb)

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024

model, face, path = sys.argv[1:]
recognizer = FaceRecognizer(model)
recognizer.embed(face, recognizer.faces(face))
recognizer.faces(np.zeros((64, 64, 3), np.uint8))  # every net has run once
open("/proc/self/clear_refs", "w").write("5")
before = peak()
photo = open_photo(path)
began = time.thread_time()
faces = recognizer.faces(photo)
recognizer.embed(photo, faces)
print(json.dumps([(time.thread_time() - began) * 1e3, peak() - before, len(faces)]))
"""


def environment(build: Path) -> dict[str, str]:
    roots = [str(build / part) for part in ("", "export", "devices", "runtime")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)}


def looked(build: Path, *arguments: object) -> list[float]:
    command = [sys.executable, "-c", LOOK, *map(str, arguments)]
    done = subprocess.run(command, env=environment(build), cwd=build, check=True, stdout=subprocess.PIPE, text=True)
    found: list[float] = json.loads(done.stdout)
    return found


def edgeface(build: Path, *words: object) -> float:
    """CPU milliseconds of the whole process, all threads."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import sys; from edgeface.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, words)]
    subprocess.run(command, env=environment(build), cwd=build, check=True, stdout=subprocess.DEVNULL)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime) * 1e3


def scene(size: tuple[int, int], face: Image.Image | None) -> Image.Image:
    shapes = np.random.default_rng(3).integers(60, 200, (6, 8, 3)).astype(np.uint8)
    image = Image.fromarray(shapes).resize(size, Image.Resampling.BICUBIC)
    if face:
        scale = size[1] / 2 / face.height
        image.paste(face.resize((round(face.width * scale), size[1] // 2)), (size[0] // 3, size[1] // 4))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("face")
    parser.add_argument("--old", type=Path, help="checkout of an older build; this one alone without it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=["640x480", "3264x2448", "4000x3000", "8000x6000"])
    arguments = parser.parse_args()
    builds = {"this": HERE} | ({"old": arguments.old.resolve()} if arguments.old else {})
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in arguments.sizes:
            width, height = map(int, size.split("x"))
            taken: dict[tuple[str, str], list[list[float]]] = {}
            for kind in ("face", "empty"):
                face = Image.open(arguments.face).convert("RGB") if kind == "face" else None
                scene((width, height), face).save(folder / f"{kind}.jpg", quality=90)
            for _, (build, root), kind in itertools.product(range(arguments.rounds), builds.items(), ("face", "empty")):
                found = looked(root, arguments.model, Path(arguments.face).resolve(), folder / f"{kind}.jpg")
                taken.setdefault((build, kind), []).append(found)
            for build in builds:
                face, empty = (
                    [statistics.median(values) for values in zip(*taken[build, kind], strict=True)]
                    for kind in ("face", "empty")
                )
                rows.append(
                    {"size": size, "build": build, "face_ms": round(face[0], 1), "empty_ms": round(empty[0], 1)}
                    | {"empty_to_face": round(empty[0] / face[0], 2), "faces": [face[2], empty[2]]}
                    | {"face_mb": round(face[1]), "empty_mb": round(empty[1]), "pixels_mb": width * height * 3 >> 20}
                )
        people, whole = folder / "people.gallery", {build: [] for build in builds}
        photo = folder / "photo.jpg"
        scene((640, 480), Image.open(arguments.face).convert("RGB")).save(photo, quality=90)
        for build, root in builds.items():
            edgeface(root, "enroll", photo, "--name", "Ada", "-g", f"{people}.{build}", "-m", arguments.model)
        for _, (build, root) in itertools.product(range(3 * arguments.rounds), builds.items()):
            whole[build].append(edgeface(root, "identify", photo, "-g", f"{people}.{build}", "-m", arguments.model))
    process = {build: round(statistics.median(times), 1) for build, times in whole.items()}
    print(json.dumps({"rounds": arguments.rounds, "rows": rows, "identify_process_cpu_ms": process}, indent=1))


if __name__ == "__main__":
    main()
