"""Cold start: from a fresh process to the first identity of a 640 × 480 photo, with 100 people enrolled.

    python -m benchmarks.start MODEL PHOTO [--rounds 10] [--engine auto litert]

MODEL is an exported file, best int8 TFLite; PHOTO is cut to 4 : 3 and saved as JPEG of 640 × 480. A fresh process
imports edgeface_runtime, opens the model, the default detector and the gallery, and identifies the photo; another only
imports. --engine says which engines run the detector, in turn; auto is what FaceRecognizer takes. Prints one JSON
document: medians of CPU time (all threads) and wall time in milliseconds since the interpreter was ready, and the
largest peak of resident memory in MB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

from benchmarks.people import fill

SIZE = (640, 480)
PEOPLE = 100
TELL = """
import json
status = open("/proc/self/status").read()  # ru_maxrss would count the process that this one was forked from
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps([(time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3, peak]))
"""
IMPORT = "import time\nwall, cpu = time.perf_counter(), time.process_time()\nimport edgeface_runtime\n" + TELL
IDENTIFY = (
    """
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
import edgeface_runtime
model, photo, people, engine = sys.argv[1:]
detector = "yunet"
if engine != "auto":
    from edgeface_runtime.detection.find import load_detector
    detector = load_detector(detector, engine=engine)
recognizer = edgeface_runtime.FaceRecognizer(model, detector)
with edgeface_runtime.Gallery.open(people, recognizer) as gallery:
    assert recognizer.identify(photo, gallery, threshold=0.3), "no face in the photo"
"""
    + TELL
)


def child(code: str, *arguments: str) -> list[float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: list[float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("photo")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--engine", nargs="+", default=["auto", "litert"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo, people = Path(folder) / "photo.jpg", Path(folder) / "people.gallery"
        ImageOps.fit(Image.open(arguments.photo).convert("RGB"), SIZE).save(photo, quality=90)
        fill(people, arguments.model, PEOPLE)
        runs = {"import": (IMPORT,)} | {
            f"first identity, detector in {engine}": (IDENTIFY, arguments.model, str(photo), str(people), engine)
            for engine in arguments.engine
        }
        taken: dict[str, list[list[float]]] = {name: [] for name in runs}
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                taken[name].append(child(*run))
    rows = []
    for name, times in taken.items():
        cpu, wall, peak = zip(*times, strict=True)
        medians = {"cpu_ms": round(statistics.median(cpu), 1), "wall_ms": round(statistics.median(wall), 1)}
        rows.append({"step": name, **medians, "fastest_wall_ms": round(min(wall), 1), "peak_mb": round(max(peak), 1)})
    print(json.dumps({"photo": SIZE, "people": PEOPLE, "rounds": arguments.rounds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
