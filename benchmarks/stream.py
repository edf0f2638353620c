"""What a stream costs and how well it follows: one known person, nobody, a face that moves, four cameras on one core.

    python -m benchmarks.stream PHOTO [--old CHECKOUT] [--frames 300] [--rounds 3]

PHOTO shows one face; it is put into a 640 × 480 scene, and enrolled. Default settings, the shipped model, one thread.
Processor time is the thread's, the median over rounds; CHECKOUT is an older build, whose rounds alternate with this
one's. Of the face that moves, which swings at up to 270 pixels a second over a ground of coarse noise: how far its box
is off on average, after the constant distance between the box's middle and the photo's. Memory is what the process
grew by over the frames of the first two scenes, at most; the documentation has it for --frames 20000. Prints Markdown.
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
face = Image.open(photo).convert("RGB")
ground = Image.fromarray(np.full((480, 640, 3), 120, np.uint8))
empty = np.asarray(ground).copy()
ground.paste(face.resize((184, 224)), (200, 100))
standing = np.asarray(ground).copy()
noise = Image.fromarray(np.random.default_rng(0).integers(60, 200, (6, 8, 3)).astype(np.uint8))
noise = np.asarray(noise.resize((640, 480), Image.Resampling.BICUBIC))
small = np.asarray(face.resize((138, 168)))

def moving(fps):
    for index in range(int(8 * fps)):
        x, y = round(240 + 150 * np.sin(1.3 * index / fps)), round(140 + 90 * np.sin(2.1 * index / fps))
        pixels = noise.copy()
        pixels[y : y + 168, x : x + 138] = small
        yield pixels, np.array([x + 69, y + 84])

said = {}
with tempfile.TemporaryDirectory() as folder, Gallery.open(folder + "/g", recognizer) as gallery:
    gallery.enroll("Ada", photo, force=True)
    for name, pixels in (("one known person", standing), ("nobody", empty)):
        for _ in watch(in_turn([pixels] * 60, 30), recognizer, gallery):
            pass
        before, began = resident(), time.thread_time()
        for result in watch(in_turn((pixels for _ in range(count)), 30), recognizer, gallery):
            pass
        said[f"{name}, ms a frame"] = (time.thread_time() - began) / count * 1e3
        said["memory grew by, MB"] = max(said.get("memory grew by, MB", 0), (resident() - before) / 1e6)
    for fps in (10, 15, 30):
        film = list(moving(fps))
        results = list(watch(in_turn([pixels for pixels, _ in film], fps), recognizer, gallery))
        off = np.array([np.reshape(result.people[0].box, (2, 2)).mean(axis=0) - middle
                        for result, (_, middle) in zip(results, film) if result.people])
        off = np.linalg.norm(off - np.median(off, axis=0), axis=1)
        said[f"box off at {fps} frames a second, px"] = float(off.mean())
        said[f"tracks at {fps} frames a second"] = sum(e.kind == "appeared" for r in results for e in r.events)
    streams = [watch(in_turn((standing for _ in range(50)), 5), recognizer, gallery) for _ in range(4)]
    began = time.thread_time()
    for _ in range(50):
        for stream in streams:
            next(stream)
    took = time.thread_time() - began
    said["four streams of 5 frames a second with a known person each, % of a core"] = took / 10 * 100
print(json.dumps(said))
"""


def measured(build: Path, photo: Path, frames: int) -> dict[str, float]:
    roots = [str(build / part) for part in ("", "export", "devices", "runtime")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)}
    command = [sys.executable, "-c", ROUND, str(photo.resolve()), str(frames)]
    done = subprocess.run(command, env=environment, cwd=build, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--old", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    builds = [*([options.old] if options.old else []), HERE]
    rounds = [[measured(build, options.photo, options.frames) for build in builds] for _ in range(options.rounds)]
    heads = ["older build", "this build", "ratio"] if options.old else ["this build"]
    print("| | " + " | ".join(heads) + " |")
    print("| --- |" + " ---: |" * len(heads))
    for name in rounds[0][-1]:
        values = [statistics.median(one[build][name] for one in rounds) for build in range(len(builds))]
        cells = [f"{value:.2f}" for value in values]
        cells += [f"{values[1] / values[0]:.2f}" if values[0] else ""] if options.old else []
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
