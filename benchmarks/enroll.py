"""Enrollment into a gallery of many photos, and the search after it, against an older build in the same run.

    python -m benchmarks.enroll [--old CHECKOUT] [--photos 100000] [--length 512] [--rounds 7]

Each build has a process and a gallery of its own, with synthetic people of two photos each; the processes take turns.
A round is two whole ``Gallery.enroll`` of new people without ``force``, whose embeddings are given in place of being
computed, and of which the second is timed; the search that follows it; and a search after that. Prints one JSON
document: medians of thread CPU time in milliseconds, and how many times the search after an enrollment takes what a
search takes.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

STEPS = ("enroll", "search_after_enroll", "search")
HERE = Path(__file__).resolve().parent.parent


def work(path: Path, photos: int, length: int) -> None:
    """Fills a gallery, then does a round for each line of stdin."""
    from benchmarks.people import directions
    from benchmarks.search import filled, unit
    from edgeface_runtime import Contract, EmbeddingSpec, FaceRecognizer, Gallery, InputSpec, Model
    from edgeface_runtime.testing import fake_photo, fake_recognizer

    class Anybody(FaceRecognizer):
        def embed(self, *_: object) -> np.ndarray:
            return self.row

    fake = fake_recognizer()
    contract = Contract(
        name="bench",
        backbone="none",
        input=InputSpec(size=112, dtype="uint8"),
        embedding=EmbeddingSpec(length=length),
        file_sha256="1" * 64,
    )
    anybody = Anybody(Model(path, contract, fake.model.engine), fake.detector)
    filled(path, directions(photos, length), "float32")
    rng, photo = np.random.default_rng(1), fake_photo(1)
    with Gallery.open(path, anybody) as gallery:
        gallery.search(unit(rng.standard_normal((1, length))))
        print("ready", flush=True)
        for number, _ in enumerate(sys.stdin):
            anybody.row = unit(rng.standard_normal((1, length)))
            gallery.enroll(f"other {number}", photo)
            anybody.row = unit(rng.standard_normal((1, length)))
            times = [time.thread_time()]
            gallery.enroll(f"new {number}", photo)
            times.append(time.thread_time())
            (found,) = gallery.search(anybody.row)
            times.append(time.thread_time())
            gallery.search(anybody.row)
            times.append(time.thread_time())
            assert found[0].name == f"new {number}"
            print(json.dumps([1e3 * (b - a) for a, b in itertools.pairwise(times)]), flush=True)


def started(root: Path, path: Path, photos: int, length: int) -> subprocess.Popen[str]:
    """A process of the build in ``root``, which takes this file from here."""
    roots = [root, *(root / part for part in ("export", "devices", "runtime"))]
    return subprocess.Popen(
        [sys.executable, __file__, "--work", str(path), "--photos", str(photos), "--length", str(length)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="checkout of an older build; this one alone without it")
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.photos, arguments.length)
        return
    builds = {"new": HERE, **({"old": arguments.old} if arguments.old else {})}
    with tempfile.TemporaryDirectory() as folder:
        processes = {
            name: started(root, Path(folder, name), arguments.photos, arguments.length) for name, root in builds.items()
        }
        times: dict[str, list[list[float]]] = {name: [] for name in builds}
        for process in processes.values():
            assert process.stdout.readline() == "ready\n"
        for _ in range(arguments.rounds):
            for name, process in processes.items():
                process.stdin.write("\n")
                process.stdin.flush()
                times[name].append(json.loads(process.stdout.readline()))
        for process in processes.values():
            process.communicate()
    rows = []
    for name, found in times.items():
        medians = [statistics.median(column) for column in zip(*found[1:], strict=True)]
        rows.append(
            {"build": name, **{f"{step}_ms": round(ms, 2) for step, ms in zip(STEPS, medians, strict=True)}}
            | {"after_enroll_times_a_search": round(medians[1] / medians[2], 2)}
        )
    print(json.dumps({"photos": arguments.photos, "length": arguments.length, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
