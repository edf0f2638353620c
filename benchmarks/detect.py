"""Both detectors against facenet-pytorch's MTCNN: one thread, one 640 × 480 photo, rounds interleaved.

    python -m benchmarks.detect PHOTO [--rounds 40]

PHOTO is cut to 4 : 3 and resized to 640 × 480. Ours include the alignment of the largest face; facenet-pytorch only
detects. Same settings for each MTCNN: faces from 20 pixels, thresholds 0.6, 0.7, 0.7, factor 0.709. Prints one JSON
document: medians of thread CPU time and wall time in milliseconds, faces found, and each one's speed-up.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image, ImageOps

from edgeface_export.torchvision_repair import repair
from edgeface_runtime import Detector
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import DETECTORS, load_detector

SIZE = (640, 480)
PEER = "facenet-pytorch MTCNN"


def ours(detector: Detector) -> Callable[[np.ndarray], int]:
    def run(image: np.ndarray) -> int:
        faces = detector.detect(image)
        if faces:
            align(image, max(faces, key=lambda face: float(face.box[2] - face.box[0])).landmarks)
        return len(faces)

    return run


def theirs() -> Callable[[np.ndarray], int]:
    repair()
    from facenet_pytorch import MTCNN

    torch.set_num_threads(1)
    mtcnn = MTCNN(keep_all=True)

    def run(image: np.ndarray) -> int:
        boxes, _, _ = mtcnn.detect(image, landmarks=True)
        return 0 if boxes is None else len(boxes)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    image = np.asarray(ImageOps.fit(Image.open(arguments.photo).convert("RGB"), SIZE))
    runs = {PEER: theirs()}
    for name in DETECTORS:
        for engine in ("onnxruntime", "litert"):
            runs[f"{name}, {engine}"] = ours(load_detector(name, engine=engine))
    found = {name: run(image) for name, run in runs.items()}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            began, began_cpu = time.perf_counter(), time.thread_time()
            run(image)
            cpu[name].append((time.thread_time() - began_cpu) * 1e3)
            wall[name].append((time.perf_counter() - began) * 1e3)
    medians = {name: statistics.median(times) for name, times in cpu.items()}
    rows = [
        {
            "detector": name,
            "faces": found[name],
            "cpu_ms": round(medians[name], 2),
            "wall_ms": round(statistics.median(wall[name]), 2),
            "speedup": round(medians[PEER] / medians[name], 2),
        }
        for name in runs
    ]
    print(json.dumps({"photo": arguments.photo, "size": SIZE, "rounds": arguments.rounds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
