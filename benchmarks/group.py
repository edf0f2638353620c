"""Groups photos of people whose names are known, and says how well: B-cubed F, beside DBSCAN, and how fast.

    python -m benchmarks.group --pins pins/ --lfw lfw/ --embeddings embeddings/

Both folders are ``<name>/<photo>``. The largest central face of each photo counts. Embedding takes most of the time and
is done once: the rows are kept in ``--embeddings``. DBSCAN (scikit-learn) is given the threshold that Chinese whispers
has, and then its best one and its best least number of neighbors for each collection, which needs the names.
B-cubed: A. Bagga and B. Baldwin, "Entity-based cross-document coreferencing using the vector space model", ACL 1998.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN
from sklearn.neighbors import NearestNeighbors, sort_graph_by_row_values

from edgeface.grouping.whispers import FALSE_LINKS, FAR, group_faces, link_threshold
from edgeface_runtime import FaceRecognizer, ImageError
from edgeface_runtime.detection.find import find_faces, most_central
from edgeface_runtime.images import open_rgb

Faces = tuple[NDArray[np.float32], NDArray[np.str_]]
"""(N, D) embeddings, and (N,) names."""
RULES: dict[str, tuple[float, float]] = {
    **{f"FMR {rate:g}": (rate, np.inf) for rate in (1e-3, 3e-4, 1e-4, 3e-5)},
    **{f"{links:g} / N": (1e-2, links) for links in (0.05, 0.2, 0.5, 1.0)},
    **{f"{links:g} / N, at most {rate:g}": (rate, links) for rate in (3e-4, 1e-4) for links in (0.1, 0.2, 0.5)},
}
"""(largest false match rate, most false links a face)"""
COLLECTIONS = {  # people of Pins, photos of each, people of LFW with all their photos
    "5 people": (5, 20, 0),
    "5 people, 60 others": (5, 20, 60),
    "20 people": (20, 25, 0),
    "20 people, 300 others": (20, 25, 300),
    "52 people": (52, 60, 0),
    "52 people, 2,500 others": (52, 60, 2500),
    "2,800 others": (0, 0, 2800),
}
DRAWS = 3
TRIED = np.arange(0.44, 0.801, 0.02).tolist()


def embedded(folder: Path, kept: Path, recognizer: FaceRecognizer) -> Faces:
    if not kept.exists():
        rows, names = [], []
        for photo in sorted(folder.glob("*/*.*")):
            try:
                pixels = open_rgb(photo)
            except ImageError:
                continue
            if faces := find_faces(pixels, recognizer.detector)[0]:
                rows.append(recognizer.embed(pixels, [most_central(faces, *pixels.shape[:2])])[0])
                names.append(photo.parent.name)
        np.savez(kept, rows=np.stack(rows), names=np.array(names))
    with np.load(kept) as saved:
        return saved["rows"], saved["names"]


def b_cubed(names: NDArray[np.str_], groups: NDArray[np.intp]) -> tuple[float, float, float]:
    """F, precision and recall, means over faces."""
    one, other = (np.unique(labels, return_inverse=True)[1] for labels in (names, groups))
    _, place, both = np.unique(np.stack([one, other]), axis=1, return_inverse=True, return_counts=True)
    shared = both[place]
    precision = float((shared / np.bincount(other)[other]).mean())
    recall = float((shared / np.bincount(one)[one]).mean())
    return 2 * precision * recall / (precision + recall), precision, recall


def whispered(rows: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    return group_faces(rows, np.arange(len(rows)), threshold)


def distances(rows: NDArray[np.float32]) -> csr_matrix:
    """1 − cosine of pairs that are nearer than at the lowest threshold that is tried."""
    graph = NearestNeighbors(radius=1 - min(TRIED), metric="cosine").fit(rows).radius_neighbors_graph(mode="distance")
    return sort_graph_by_row_values(graph, warn_when_not_sorted=False)


def dbscan(graph: csr_matrix, threshold: float, least: int) -> NDArray[np.intp]:
    labels = DBSCAN(eps=1 - threshold, min_samples=least, metric="precomputed").fit(graph).labels_
    return np.where(labels < 0, labels.max() + 1 + np.arange(len(labels)), labels)


def drawn(pins: Faces, lfw: Faces, half: int, sizes: tuple[int, int, int], seed: int) -> Faces:
    """A collection of one half of the people: the names of which a shuffle with seed 0 puts at even or odd places."""
    rng = np.random.default_rng(seed)
    parts = []
    for faces, people, each in ((pins, sizes[0], sizes[1]), (lfw, sizes[2], None)):
        known = np.random.default_rng(0).permutation(np.unique(faces[1]))[half::2]
        chosen = rng.permutation(known)[:people]
        parts.extend((faces, rng.permutation(np.flatnonzero(faces[1] == name))[:each]) for name in chosen)
    picked = [[source[column][places] for source, places in parts] for column in (0, 1)]
    return np.concatenate(picked[0]), np.concatenate(picked[1])


def report_rules(pins: Faces, lfw: Faces, recognizer: FaceRecognizer) -> None:
    print(f"\nB-cubed F of Chinese whispers by the rate at which faces are linked, N faces, means of {DRAWS} draws")
    for half, words in enumerate(("half of the people: the rule is chosen here", "other half")):
        print(f"\n{words}\n\n| rate | {' | '.join(COLLECTIONS)} | mean | least |")
        print("| --- |" + " ---: |" * (len(COLLECTIONS) + 2))
        scores: dict[str, list[float]] = {rule: [] for rule in RULES}
        for sizes in COLLECTIONS.values():
            draws = [drawn(pins, lfw, half, sizes, seed) for seed in range(DRAWS)]
            for rule, (rate, links) in RULES.items():
                limits = [recognizer.threshold(max(min(rate, links / len(rows)), 1e-5)).value for rows, _ in draws]
                found = [b_cubed(y, whispered(x, limit))[0] for (x, y), limit in zip(draws, limits, strict=True)]
                scores[rule].append(float(np.mean(found)))
        for rule, row in scores.items():
            print(
                f"| {rule} | {' | '.join(f'{x:.3f}' for x in row)} | {np.mean(row):.3f} | {min(row):.3f} |", flush=True
            )


def report_beside_dbscan(collections: dict[str, Faces], recognizer: FaceRecognizer) -> None:
    contract = recognizer.model.contract
    print(f"\nThe rule: FMR {FAR:g}, or {FALSE_LINKS:g} / N where that is less. B-cubed F (precision, recall)\n")
    print(
        "| collection | N | FMR, threshold | Chinese whispers | at FMR 1e-4 | DBSCAN, same threshold | DBSCAN, best |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (rows, names) in collections.items():
        limit, fixed = link_threshold(contract, len(rows)), recognizer.threshold(1e-4).value
        cells = [b_cubed(names, whispered(rows, value)) for value in (limit.value, fixed)]
        graph = distances(rows)
        cells.append(b_cubed(names, dbscan(graph, limit.value, 2)))
        tried = {
            (value, least): b_cubed(names, dbscan(graph, value, least)) for value in TRIED for least in (1, 2, 3, 5)
        }
        value, least = max(tried, key=lambda pair: tried[pair][0])
        text = [f"{f:.3f} ({p:.3f}, {r:.3f})" for f, p, r in [*cells, tried[value, least]]]
        text[-1] += f" at {value:.2f}, {least}"
        print(f"| {name} | {len(rows)} | {limit.far:.1e}, {limit.value:.3f} | {' | '.join(text)} |", flush=True)


def report_speed(everybody: Faces, recognizer: FaceRecognizer) -> None:
    print("\n| faces | seconds of one core, after embedding |\n| ---: | ---: |")
    order = np.random.default_rng(0).permutation(len(everybody[0]))
    for count in (1_000, 10_000, len(order)):
        rows = everybody[0][order[:count]]
        before = time.thread_time()
        whispered(rows, link_threshold(recognizer.model.contract, count).value)
        print(f"| {count} | {time.thread_time() - before:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--pins", type=Path, required=True)
    parser.add_argument("--lfw", type=Path, required=True)
    parser.add_argument("--embeddings", type=Path, required=True, help="folder to keep them in")
    options = parser.parse_args()
    recognizer = FaceRecognizer(options.model)
    options.embeddings.mkdir(parents=True, exist_ok=True)
    pins, lfw = (
        embedded(folder, options.embeddings / f"{name}.npz", recognizer)
        for name, folder in (("pins", options.pins), ("lfw", options.lfw))
    )
    counts = Counter(lfw[1].tolist())
    once = np.array([counts[name] == 1 for name in lfw[1].tolist()])
    with_singles = np.concatenate([pins[0], lfw[0][once]]), np.concatenate([pins[1], lfw[1][once]])
    everybody = np.concatenate([pins[0], lfw[0]]), np.concatenate([pins[1], lfw[1]])
    report_beside_dbscan({"Pins": pins, "Pins, LFW's single photos": with_singles, "LFW": lfw}, recognizer)
    report_rules(pins, lfw, recognizer)
    report_speed(everybody, recognizer)


if __name__ == "__main__":
    main()
