"""``edgeface data prepare`` against the obvious loop: facenet-pytorch detects, crops and saves, photo by photo.

    python -m benchmarks.prepare PHOTOS [--count 1000] [--whole]
    python -m benchmarks.prepare PHOTOS --count 100 --on-the-way
    python -m benchmarks.prepare PREPARED --count 3000 --finishing [--old CHECKOUT]

PHOTOS holds a folder per identity. Both get the same photos and a fresh process; start-up counts.
The loop runs with one torch thread unless told otherwise: on small photos more threads make it slower.
``--whole`` prepares all of PHOTOS too, to see whether memory grows with their number. ``--on-the-way`` compares what
``edgeface train`` does with whole photos (looks, prepares, opens) with preparing and opening them, in turns in one
process. ``--finishing`` takes the faces of a prepared folder and measures what comes after the last photo: the records
read, copies found, tables written; CHECKOUT is an older build, which takes turns and must write the same bytes. Prints
one JSON document.
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
from edgeface.data.duplicates import fingerprint
from edgeface.data.prepare import PHOTOS_PER_TASK, prepare
from edgeface.data.readers import read
from edgeface.data.table import read_faces
from edgeface_runtime.images import open_rgb

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
FINISH = """
import hashlib, inspect, json, sys, time
from pathlib import Path
from edgeface.data.finish import finish
from edgeface.data.readers import SourceListing

def memory(what):
    return int(open("/proc/self/status").read().split(what + ":")[1].split()[0]) / 1024

journal, folder = map(Path, sys.argv[1:])
(folder / ".prepare").mkdir(parents=True)
head = {"name": "", "licence": "", "settings": {"detector": "", "size": 112}}
told = [lambda *_: None] if "progress" in inspect.signature(finish).parameters else []
before = memory("VmRSS")
began = time.thread_time()
finish(folder, sorted(journal.iterdir()), SourceListing((), (), ""), (), head, *told)
seconds = time.thread_time() - began
written = b"".join((folder / name).read_bytes() for name in ("faces.csv", "rejected.csv", "dataset.json"))
print(json.dumps([seconds, memory("VmHWM") - before, hashlib.sha256(written).hexdigest()]))
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


def write_records(prepared: Path, count: int, journal: Path) -> int:
    """The journal of a prepared folder's faces, as it was before ``prepare`` finished; their number."""
    crops = []
    for row in random.Random(0).sample(faces := read_faces(prepared), min(count, len(faces))):
        bits, details = fingerprint(open_rgb(prepared / row["path"]))
        numbers = {name: float(row[name]) for name in ("score", "sharpness", "size", "yaw", "pitch", "roll", "margin")}
        points = {name: [float(value) for value in row[name].split()] for name in ("box", "landmarks")}
        texts = {name: row[name] for name in ("path", "identity", "source", "sha256")}
        crops.append({**texts, **points, **numbers, "hash": bits, "details": details.hex(), "png": None})
    journal.mkdir()
    for start in range(0, len(crops), PHOTOS_PER_TASK):
        record = {"crops": crops[start : start + PHOTOS_PER_TASK], "skipped": []}
        (journal / f"{start:09}.json").write_text(json.dumps(record))
    return len(crops)


def finishing(journal: Path, old: Path | None, rounds: int) -> dict[str, object]:
    """Median thread CPU seconds and growth of memory of both builds, and the ratio of the seconds."""
    builds = {"this": Path(__file__).parents[1]} | ({"old": old.resolve()} if old else {})
    taken: dict[str, list[tuple[float, float]]] = {build: [] for build in builds}
    digests = set()
    for number in range(rounds):
        for build, root in builds.items():
            roots = os.pathsep.join(str(root / part) for part in ("", "export", "devices", "runtime"))
            where = {"cwd": root, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": roots}}
            command = [sys.executable, "-c", FINISH, str(journal), str(journal.with_name(f"{build}-{number}"))]
            said = subprocess.run(command, **where, check=True, stdout=subprocess.PIPE).stdout
            *figures, digest = json.loads(said)
            taken[build].append(tuple(figures))
            digests.add(digest)
    if len(digests) > 1:
        raise SystemExit("the builds write different bytes")
    medians = {
        build: [statistics.median(column) for column in zip(*rows, strict=True)] for build, rows in taken.items()
    }
    found: dict[str, object] = {
        build: {"cpu_s": round(seconds, 2), "memory_mb": round(grown)} for build, (seconds, grown) in medians.items()
    }
    return found | ({"old_to_this": round(medians["old"][0] / medians["this"][0], 2)} if old else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--loop-threads", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--on-the-way", action="store_true")
    parser.add_argument("--finishing", action="store_true")
    parser.add_argument("--old", type=Path, help="checkout of an older build, with --finishing")
    parser.add_argument("--rounds", type=int, default=5, help="of --finishing")
    options = parser.parse_args()
    if options.finishing:
        with tempfile.TemporaryDirectory() as scratch_name:
            journal = Path(scratch_name) / "journal"
            count = write_records(options.photos, options.count, journal)
            print(json.dumps({"faces": count, **finishing(journal, options.old, options.rounds)}, indent=2))
        return
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
