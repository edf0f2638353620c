"""``edgeface data prepare`` against the obvious loop: facenet-pytorch detects, crops and saves, photo by photo.

    python -m benchmarks.prepare PHOTOS [--count 1000] [--whole]
    python -m benchmarks.prepare PHOTOS --count 100 --on-the-way

PHOTOS holds a folder per identity. Both get the same photos and a fresh process; start-up counts.
The loop runs with one torch thread unless told otherwise: on small photos more threads make it slower.
``--whole`` prepares all of PHOTOS too, to see whether memory grows with their number. ``--on-the-way`` compares what
``edgeface train`` does with whole photos (looks, prepares, opens) with preparing and opening them, in turns in one
process. Prints one JSON document.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil

from edgeface.data.dataset import load_data, open_faces
from edgeface.data.prepare import prepare
from edgeface.data.readers import read

PREPARE = "from edgeface.cli import main; main()"
LOOP = """
import sys
from pathlib import Path
import torch
from PIL import Image
from edgeface_export.torchvision_repair import repair
repair()
from facenet_pytorch import MTCNN
src, dst = map(Path, sys.argv[1:3])
torch.set_num_threads(int(sys.argv[3]))
mtcnn = MTCNN(image_size=112, margin=0, post_process=False)
for photo in sorted(src.glob("*/*")):
    mtcnn(Image.open(photo).convert("RGB"), save_path=str(dst / photo.parent.name / (photo.stem + ".png")))
"""


def run(code: str, *arguments: str) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak memory of the process and its children together."""
    began = time.monotonic()
    process = psutil.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, cpu = 0, {}
    while process.poll() is None:
        family = [process]
        try:
            family += process.children(recursive=True)
            peak = max(peak, sum(member.memory_full_info().pss for member in family))
            cpu |= {member.pid: sum(member.cpu_times()[:2]) for member in family}
        except psutil.Error:
            pass
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.stderr.read().decode())
    return {"seconds": time.monotonic() - began, "cpu_seconds": sum(cpu.values()), "peak_mb": peak / 1e6}


def crops(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.png"))


def on_the_way(photos: Path, scratch: Path, rounds: int = 6) -> dict[str, float]:
    """Median CPU seconds of both ways, and their ratio; the first round warms up."""
    seconds: dict[str, list[float]] = {"train": [], "data prepare": []}
    for number in range(rounds + 1):
        (folder := scratch / str(number)).mkdir()
        copies = [Path(shutil.copytree(photos, folder / name)) for name in ("one", "other")]

        def prepared(copied: Path = copies[1], made: Path = folder / "made") -> None:
            prepare(copied, made)
            load_data(made)

        ways = {"train": partial(open_faces, copies[0]), "data prepare": prepared}
        for name in sorted(ways, reverse=bool(number % 2)):
            start = time.process_time()
            ways[name]()
            if number:
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return medians | {"ratio": medians["train"] / medians["data prepare"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--loop-threads", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--on-the-way", action="store_true")
    options = parser.parse_args()
    photos = random.Random(0).sample(read(options.photos).photos, options.count)
    rows = []
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        for photo in photos:
            link = scratch / "photos" / photo.source
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(photo.path.resolve())
        if options.on_the_way:
            print(json.dumps({"photos": options.count, "cpu_s": on_the_way(scratch / "photos", scratch)}, indent=2))
            return
        sources = [(options.count, scratch / "photos")]
        if options.whole:
            sources.append((len(read(options.photos).photos), options.photos))
        workers = str(os.cpu_count())
        for detector in ("mtcnn", "blazeface"):
            for count, source in sources:
                out = scratch / f"{detector}-{count}"
                found = run(
                    PREPARE, "data", "prepare", str(source), str(out), "--detector", detector, "--workers", workers
                )
                rows.append(
                    {"what": f"edgeface data prepare, {detector}", "photos": count, "crops": crops(out), **found}
                )
        found = run(LOOP, str(scratch / "photos"), str(scratch / "loop"), str(options.loop_threads))
        rows.append(
            {"what": "facenet-pytorch loop", "photos": options.count, "crops": crops(scratch / "loop"), **found}
        )
    for row in rows:
        row["photos_per_second"] = row["photos"] / row["seconds"]
    ratios = {row["what"]: row["photos_per_second"] / rows[-1]["photos_per_second"] for row in rows[:-1]}
    print(json.dumps({"cores": os.cpu_count(), "rows": rows, "times_the_loop": ratios}, indent=2))


if __name__ == "__main__":
    main()
