"""From a photo to a name on one thread, against what people use today; photos and pipelines take turns.

    python -m benchmarks.photo MODEL PHOTOS... [--peer MOBILEFACENET.onnx] [--detector yunet] [--rounds 3]

MODEL is an exported file, best int8 TFLite. PHOTOS are files or folders. Each pipeline gets the decoded photo, finds
all faces, embeds each and compares it with 100 people. The others: facenet-pytorch's MTCNN, our alignment and the
MobileFaceNet named by --peer (input as foamliu's: 3×112×112, ImageNet mean and deviation) in onnxruntime; and dlib's
face_recognition (HOG detector, five points, ResNet), where dlib and face_recognition_models are installed. Prints one
JSON document: for each pipeline the medians over photos of its fastest round, in milliseconds of thread CPU time and
wall time, faces found in all photos, photos without a face, and how many times its CPU time ours takes less.
"""

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.people import directions, fill
from edgeface_runtime import FaceRecognizer, Gallery
from edgeface_runtime.align import align
from edgeface_runtime.images import SUFFIXES, open_rgb

PEOPLE = 100
OURS = "edgeface"
IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))
Pipeline = Callable[[np.ndarray], int]


def ours(model: str, folder: Path, detector: str) -> Pipeline:
    fill(folder / "people.gallery", model, PEOPLE)
    recognizer = FaceRecognizer(model, detector)
    gallery = Gallery.open(folder / "people.gallery", recognizer)
    return lambda photo: len(recognizer.identify(photo, gallery, threshold=0.3))


def facenet(peer: str) -> Pipeline:
    import torch

    from edgeface_export.torchvision_repair import repair
    from edgeface_runtime.engines import onnxruntime

    repair()
    from facenet_pytorch import MTCNN

    torch.set_num_threads(1)
    mtcnn = MTCNN(keep_all=True)
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(peer, options, providers=["CPUExecutionProvider"])
    name, people = session.get_inputs()[0].name, directions(PEOPLE, session.get_outputs()[0].shape[1])
    mean, deviation = IMAGENET

    def run(photo: np.ndarray) -> int:
        _, _, landmarks = mtcnn.detect(photo, landmarks=True)
        for points in [] if landmarks is None else landmarks:
            face = (align(photo, points) / np.float32(255) - mean) / deviation
            row = session.run(None, {name: face.transpose(2, 0, 1)[None]})[0][0]
            np.argmax(people @ row)
        return 0 if landmarks is None else len(landmarks)

    return run


def dlib_pipeline() -> Pipeline:
    import dlib

    spec = importlib.util.find_spec("face_recognition_models")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    models = Path(spec.submodule_search_locations[0]) / "models"
    detector = dlib.get_frontal_face_detector()
    points = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    net = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))
    people = directions(PEOPLE, 128)

    def run(photo: np.ndarray) -> int:
        boxes = detector(photo, 1)  # face_recognition looks in the photo at twice its size
        for box in boxes:
            row = np.array(net.compute_face_descriptor(photo, points(photo, box)))
            np.argmin(np.linalg.norm(people - row, axis=1))
        return len(boxes)

    return run


def measure(pipelines: dict[str, Pipeline], photos: list[Path], rounds: int) -> list[dict[str, object]]:
    cpu: dict[str, list[float]] = {name: [] for name in pipelines}
    wall: dict[str, list[float]] = {name: [] for name in pipelines}
    found: dict[str, list[int]] = {name: [] for name in pipelines}
    for path in photos:
        photo = open_rgb(path)
        took = {name: [(np.inf, np.inf)] for name in pipelines}
        for _ in range(rounds):
            for name, run in pipelines.items():
                began, began_cpu = time.perf_counter(), time.thread_time()
                faces = run(photo)
                took[name].append((time.thread_time() - began_cpu, time.perf_counter() - began))
                if len(took[name]) == 2:
                    found[name].append(faces)
        for name, times in took.items():
            cpu[name].append(min(spent for spent, _ in times) * 1e3)
            wall[name].append(min(spent for _, spent in times) * 1e3)
    base = statistics.median(cpu[OURS])
    return [
        {
            "pipeline": name,
            "cpu_ms": round(statistics.median(cpu[name]), 2),
            "wall_ms": round(statistics.median(wall[name]), 2),
            "times_ours": round(statistics.median(cpu[name]) / base, 2),
            "faces": sum(found[name]),
            "without": sum(count == 0 for count in found[name]),
        }
        for name in pipelines
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument(
        "--peer", help="MobileFaceNet for facenet-pytorch's pipeline, ONNX; that is left out without one"
    )
    parser.add_argument("--detector", default="yunet", help="ours")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = [file for path in arguments.photos for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    photos = [file for file in files if file.suffix.lower() in SUFFIXES]
    with tempfile.TemporaryDirectory() as folder:
        pipelines = {OURS: ours(arguments.model, Path(folder), arguments.detector)}
        if arguments.peer:
            pipelines["facenet-pytorch MTCNN + MobileFaceNet"] = facenet(arguments.peer)
        if importlib.util.find_spec("dlib"):
            pipelines["dlib face_recognition"] = dlib_pipeline()
        for run in pipelines.values():
            run(open_rgb(photos[0]))
        rows = measure(pipelines, photos, arguments.rounds)
    print(json.dumps({"photos": len(photos), "rounds": arguments.rounds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
