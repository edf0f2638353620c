"""Search among many embeddings against faiss-cpu's flat index: one thread, one face at a time, rounds interleaved.

    python -m benchmarks.search [--photos 100000] [--length 512] [--rounds 30]

Synthetic people with two photos each, whose cosine is about 0.55; half of the faces that are looked for are other
photos of theirs, half are strangers. Ours are whole calls of ``Gallery.search``, SQLite file and people's names
included; faiss gives row numbers. Building the index takes minutes. Prints one JSON document: median thread CPU time
and wall time in milliseconds, how much faster than faiss, how often the first answer is that of the exact search over
32 bits (recall), and by how much its score differs at most.
"""

import argparse
import contextlib
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import faiss
import numpy as np

from edgeface_runtime import Candidate, Contract, EmbeddingSpec, FaceRecognizer, Gallery, InputSpec, Model
from edgeface_runtime.gallery.search import Precision, pack
from edgeface_runtime.testing import fake_recognizer

PEER = "faiss-cpu IndexFlatIP"
PROBES = 200  # of each kind, for the recall
NOISE = np.float32(0.9)  # of a photo, against its person's direction


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def filled(path: Path, rows: np.ndarray, precision: Precision) -> None:
    """A gallery of such embeddings, two photos a person, written past ``enroll``."""
    fake = fake_recognizer()
    contract = Contract(
        name="bench",
        backbone="none",
        input=InputSpec(size=112, dtype="uint8"),
        embedding=EmbeddingSpec(length=rows.shape[1]),
        file_sha256="1" * 64,
    )
    Gallery.open(
        path, FaceRecognizer(Model(path, contract, fake.model.engine), fake.detector), precision=precision
    ).close()
    db = sqlite3.connect(path)
    with db:
        db.executemany("INSERT INTO person (name) VALUES (?)", ((f"P{person}",) for person in range(len(rows) // 2)))
        db.executemany(
            "INSERT INTO photo (person, source, added, sharpness, size, yaw, pitch, embedding) "
            "VALUES (?, '', '', 0, 0, 0, 0, ?)",
            ((number // 2 + 1, pack(row, precision)) for number, row in enumerate(rows)),
        )
    db.close()


def timed(
    runs: dict[str, Callable[[np.ndarray], object]], faces: np.ndarray, rounds: int
) -> dict[str, tuple[float, float]]:
    """Median thread CPU time and wall time in ms of a search for one face; the first round warms up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        query = faces[number * 37 % len(faces)][None]
        for name, run in runs.items():
            began, began_cpu = time.perf_counter(), time.thread_time()
            run(query)
            times[name].append((time.thread_time() - began_cpu, time.perf_counter() - began))
    return {
        name: tuple(1e3 * statistics.median(column) for column in zip(*pairs[1:], strict=True))
        for name, pairs in times.items()
    }


def compared(found: list[Candidate], exact: list[Candidate]) -> dict[str, float]:
    """How often the first answer is the exact one, and the largest difference of its score."""
    same = [abs(a.score - b.score) for a, b in zip(found, exact, strict=True) if a.name == b.name]
    return {"recall": round(len(same) / len(exact), 3), "score_off": round(max(same, default=0.0), 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    shape = (arguments.photos // 2, 2, arguments.length)
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    people = rng.standard_normal((shape[0], 1, shape[2]), np.float32)
    rows = unit(people + NOISE * rng.standard_normal(shape, np.float32)).reshape(-1, shape[2])
    probes = {
        "known": unit(people[:PROBES, 0] + NOISE * rng.standard_normal((PROBES, shape[2]), np.float32)),
        "strangers": unit(rng.standard_normal((PROBES, shape[2]), np.float32)),
    }
    flat = faiss.IndexFlatIP(shape[2])
    flat.add(rows)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for precision in ("float32", "int8"):
            filled(Path(folder, precision), rows, precision)
        galleries = {
            name: stack.enter_context(Gallery.open(Path(folder, file), index=name == "index"))
            for name, file in (("float32", "float32"), ("int8", "int8"), ("index", "float32"))
        }
        began = time.process_time()
        len(galleries["index"])
        built = time.process_time() - began
        runs = {PEER: lambda query: flat.search(query, 1), **{name: each.search for name, each in galleries.items()}}
        times = timed(runs, np.concatenate([*probes.values()]), arguments.rounds)
        answers = {
            name: {kind: [found[0] for found in each.search(faces)] for kind, faces in probes.items()}
            for name, each in galleries.items()
        }
    lines = [
        {
            "search": name,
            "cpu_ms": round(cpu, 2),
            "wall_ms": round(wall, 2),
            "speedup": round(times[PEER][0] / cpu, 2),
            **{kind: compared(found, answers["float32"][kind]) for kind, found in answers.get(name, {}).items()},
        }
        for name, (cpu, wall) in times.items()
    ]
    print(
        json.dumps(
            {"photos": len(rows), "length": shape[2], "index_built_in_cpu_s": round(built, 1), "rows": lines}, indent=1
        )
    )


if __name__ == "__main__":
    main()
