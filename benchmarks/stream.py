"""What a frame of a stream costs: with one known person who stands there, and with nobody.

    python -m benchmarks.stream PHOTO [--old CHECKOUT] [--frames 300] [--rounds 3]

PHOTO shows one face; it is put into a 640 × 480 scene, and enrolled. Frames come at 30 a second, with the default
settings and the shipped model. Prints milliseconds of processor time a frame, medians over rounds, and by how much the
process's memory grows over the frames; CHECKOUT is an older build, whose rounds alternate with this one's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
ROUND = """
import json, os, sys, tempfile, time
from pathlib import Path
import numpy as np
from PIL import Image
from edgeface_runtime import FaceRecognizer, Gallery, in_turn, watch

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

photo, count = sys.argv[1], int(sys.argv[2])
recognizer = FaceRecognizer()
ground = Image.fromarray(np.full((480, 640, 3), 120, np.uint8))
empty = np.asarray(ground).copy()
ground.paste(Image.open(photo).convert("RGB").resize((184, 224)), (200, 100))
with tempfile.TemporaryDirectory() as folder, Gallery(folder + "/g", recognizer) as gallery:
    gallery.enroll("Ada", photo, force=True)
    said = []
    for pixels in (np.asarray(ground).copy(), empty):
        for _ in watch(in_turn([pixels] * 60, 30), recognizer, gallery):
            pass
        before, began = resident(), time.thread_time()
        for result in watch(in_turn((pixels for _ in range(count)), 30), recognizer, gallery):
            pass
        said.append([(time.thread_time() - began) / count * 1e3, resident() - before, len(result.people)])
print(json.dumps(said))
"""


def measured(build: Path, photo: Path, frames: int) -> list[list[float]]:
    roots = [str(build / part) for part in ("", "export", "devices", "runtime")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)}
    command = [sys.executable, "-c", ROUND, str(photo.resolve()), str(frames)]
    done = subprocess.run(command, env=environment, cwd=build, check=True, stdout=subprocess.PIPE, text=True)
    found: list[list[float]] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--old", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    builds = [HERE, *([options.old] if options.old else [])]
    rounds = [[measured(build, options.photo, options.frames) for build in builds] for _ in range(options.rounds)]
    for scene, name in enumerate(("one known person", "nobody")):
        times = [statistics.median(one[build][scene][0] for one in rounds) for build in range(len(builds))]
        grown = max(one[0][scene][1] for one in rounds)
        before = f" ({times[0] / times[1]:.2f} of {times[1]:.2f})" if options.old else ""
        print(f"{name}: {times[0]:.2f} ms a frame{before}; memory grew by {grown / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
