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

from edgeface.data.att import att_folder
from edgeface.grouping.cache import SeenFace
from edgeface.grouping.collection import telling
from edgeface.grouping.whispers import FALSE_LINKS, FAR, group_faces, link_threshold
from edgeface_runtime import Face, FaceRecognizer, ImageError
from edgeface_runtime.detection.find import find_faces, most_central
from edgeface_runtime.images import open_rgb
from edgeface_runtime.quality import face_crop, sharpness

Faces = tuple[NDArray[np.float32], NDArray[np.str_], NDArray[np.float32]]
"""(N, D) embeddings, (N,) names and (N,) sharpness."""
RULES: dict[str, tuple[float, float]] = {
    **{f"FMR {rate:g}": (rate, np.inf) for rate in (1e-3, 1e-4, 3e-5)},
    **{f"{links:g} / N": (1e-2, links) for links in (0.05, 0.2, 1.0)},
    **{f"{links:g} / N, at most 0.0001": (1e-4, links) for links in (0.1, 0.2, 0.5)},
}
"""(largest false match rate, most false links a face)"""
ALIKE = {"12 people, 7 photos each, 28 others": (12, 7, 28), "5 people, 10 photos each, 35 others": (5, 10, 35)}
"""Of AT&T: photos of one studio, which are more alike than those that thresholds were measured on."""
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
        rows, names, sharp = [], [], []
        for photo in sorted(folder.glob("*/*.*")):
            try:
                pixels = open_rgb(photo)
            except ImageError:
                continue
            if faces := find_faces(pixels, recognizer.detector)[0]:
                face = most_central(faces, *pixels.shape[:2])
                rows.append(recognizer.embed(pixels, [face], mirror=True)[0])
                names.append(photo.parent.name)
                sharp.append(sharpness(face_crop(pixels, face)))
        np.savez(kept, rows=np.stack(rows), names=np.array(names), sharp=np.array(sharp, np.float32))
    with np.load(kept) as saved:
        return saved["rows"], saved["names"], saved["sharp"]


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


def score_rules(recognizer: FaceRecognizer, columns: dict[str, list[Faces]]) -> None:
    print(f"\n| rate | {' | '.join(columns)} | mean | least |")
    print("| --- |" + " ---: |" * (len(columns) + 2))
    for rule, (rate, links) in RULES.items():
        row = []
        for draws in columns.values():
            limits = [recognizer.threshold(max(min(rate, links / len(rows)), 1e-5)).value for rows, _, _ in draws]
            found = [b_cubed(y, whispered(x, limit))[0] for (x, y, _), limit in zip(draws, limits, strict=True)]
            row.append(float(np.mean(found)))
        print(f"| {rule} | {' | '.join(f'{x:.3f}' for x in row)} | {np.mean(row):.3f} | {min(row):.3f} |", flush=True)


def studio(att: Faces, people: int, each: int, others: int, seed: int) -> Faces:
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(att[1]))
    places = [rng.permutation(np.flatnonzero(att[1] == name)) for name in names]
    kept = np.concatenate(
        [*(place[:each] for place in places[:people]), *(place[:1] for place in places[people:][:others])]
    )
    return att[0][kept], att[1][kept], att[2][kept]


def drawn(pins: Faces, lfw: Faces, half: int, sizes: tuple[int, int, int], seed: int) -> Faces:
    """A collection of one half of the people: the names of which a shuffle with seed 0 puts at even or odd places."""
    rng = np.random.default_rng(seed)
    parts = []
    for faces, people, each in ((pins, sizes[0], sizes[1]), (lfw, sizes[2], None)):
        known = np.random.default_rng(0).permutation(np.unique(faces[1]))[half::2]
        chosen = rng.permutation(known)[:people]
        parts.extend((faces, rng.permutation(np.flatnonzero(faces[1] == name))[:each]) for name in chosen)
    rows, names, sharp = ([source[column][places] for source, places in parts] for column in (0, 1, 2))
    return np.concatenate(rows), np.concatenate(names), np.concatenate(sharp)


def report_rules(pins: Faces, lfw: Faces, att: Faces, recognizer: FaceRecognizer) -> None:
    print(f"\nB-cubed F of Chinese whispers by the FMR at which faces are linked, N faces, means of {DRAWS} draws")
    print("\nAT&T")
    score_rules(
        recognizer, {name: [studio(att, *sizes, seed) for seed in range(DRAWS)] for name, sizes in ALIKE.items()}
    )
    for half, words in enumerate(("half of the people, on which the rule was chosen", "the other half")):
        print(f"\nPins and LFW, {words}")
        columns = {
            name: [drawn(pins, lfw, half, sizes, seed) for seed in range(DRAWS)] for name, sizes in COLLECTIONS.items()
        }
        score_rules(recognizer, columns)


def report_beside_dbscan(collections: dict[str, Faces], recognizer: FaceRecognizer) -> None:
    contract = recognizer.model.contract
    print(f"\nThe rule: FMR {FAR:g}, or {FALSE_LINKS:g} / N where that is less. B-cubed F (precision, recall)\n")
    print(
        "| collection | N | FMR, threshold | Chinese whispers | at FMR 1e-4 | DBSCAN, same threshold | DBSCAN, best |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (rows, names, _) in collections.items():
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


def report_chosen(pins: Faces, score: float = 0.5) -> None:
    """Groups every other photo, enrolls some of each group, and names the photos in between."""
    print(f"\nOf the photos that were not grouped, the right and a wrong name at a score of {score:g}, closed set\n")
    print("| enrolled of each group | telling | at random |\n| ---: | ---: | ---: |")
    (rows, names, sharp), (probes, truth, _) = ([part[start::2] for part in pins] for start in (0, 1))
    groups = whispered(rows, 0.49)
    place = Face(np.zeros(4, np.float32), 1.0, np.zeros((5, 2), np.float32))
    rng = np.random.default_rng(0)
    for count in (1, 3, 10):
        cells = []
        for is_telling in (True, False):
            kept, called = [], []
            for group in np.flatnonzero(np.bincount(groups) >= 5):
                its = np.flatnonzero(groups == group)
                who = Counter(names[its].tolist()).most_common(1)[0][0]
                seen = [SeenFace(i, Path(), None, place, float(sharp[i]), "", rows[i]) for i in its.tolist()]
                chosen = [face.id for face in telling(seen)] if is_telling else rng.permutation(its).tolist()
                kept += chosen[:count]
                called += [who] * len(chosen[:count])
            found = probes @ rows[kept].T
            is_right = np.array(called)[found.argmax(axis=1)] == truth
            is_named = found.max(axis=1) >= score
            cells.append(f"{100 * (is_right & is_named).mean():.1f} %, {100 * (~is_right & is_named).mean():.1f} %")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


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
    pins, lfw, att = (
        embedded(folder, options.embeddings / f"{name}.npz", recognizer)
        for name, folder in (("pins", options.pins), ("lfw", options.lfw), ("att", att_folder()))
    )
    counts = Counter(lfw[1].tolist())
    once = np.array([counts[name] == 1 for name in lfw[1].tolist()])
    singles = lfw[0][once], lfw[1][once], lfw[2][once]
    with_singles, everybody = (
        (np.concatenate([pins[0], more[0]]), np.concatenate([pins[1], more[1]]), np.concatenate([pins[2], more[2]]))
        for more in (singles, lfw)
    )
    report_beside_dbscan({"Pins": pins, "Pins, LFW's single photos": with_singles, "LFW": lfw}, recognizer)
    report_speed(everybody, recognizer)
    report_chosen(pins)
    report_rules(pins, lfw, att, recognizer)


if __name__ == "__main__":
    main()
