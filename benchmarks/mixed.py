"""What it does to scores where one detector enrolls and another identifies.

    python -m benchmarks.mixed PEOPLE… [--detectors blazeface yunet] [--model NAME] [--most 30] [--photos 5000]

PEOPLE are folders of <person>/<photo>, each a set of its own (in docs/detectors.md those of ``reproduce.thresholds``).
Every photo's main face is found by both detectors. Prints, of each set and of all together, the FMR and the share of
genuine pairs accepted at the contract's thresholds, where both photos were found by the first, both by the second, and
one by each; names of which two photos reach ``ONE_PERSON`` are left out of the impostor pairs. Then how far one pair's
score moves.
"""

import argparse
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from edgeface_runtime import EdgefaceError, load
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces, load_detector, most_central
from edgeface_runtime.images import SUFFIXES, open_photo
from reproduce.group_rates import ONE_PERSON

_ROWS = 400  # of the matrix of scores at once


def embedded(
    files: list[tuple[str, str, Path]], detectors: list[str], model: str | None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Names and sets of the photos in which both find a face, and the embeddings by detector."""
    opened, found = load(model), [load_detector(name, engine="litert") for name in detectors]
    names, sets, rows = [], [], []
    for which, who, file in files:
        try:
            photo = open_photo(file)
        except EdgefaceError:
            continue
        faces = [find_faces(photo, detector)[0] for detector in found]
        if all(faces):
            points = [most_central(seen, *photo.shape[:2]).landmarks for seen in faces]
            rows.append([opened.embed(align(photo, place)[None])[0] for place in points])
            names.append(who)
            sets.append(which)
    stacked = np.array(rows)
    return np.array(names), np.array(sets), {name: stacked[:, place] for place, name in enumerate(detectors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", type=Path, nargs="+")
    parser.add_argument("--detectors", nargs=2, default=["blazeface", "yunet"])
    parser.add_argument("--model")
    parser.add_argument("--most", type=int, default=30, help="photos of a person")
    parser.add_argument("--photos", type=int, default=5000, help="drawn of all")
    given = parser.parse_args()
    files = [
        (str(folder), person.name, file)
        for folder in given.people
        for person in sorted(folder.iterdir())
        for file in sorted(file for file in person.iterdir() if file.suffix.lower() in SUFFIXES)[: given.most]
    ]
    drawn = np.random.default_rng(0).permutation(len(files))[: given.photos]
    names, sets, of = embedded([files[row] for row in drawn], given.detectors, given.model)
    thresholds = {rate: at["value"] for rate, at in load(given.model).contract.thresholds.items() if at}
    first, second = (of[name] for name in given.detectors)
    print("| set | " + " | ".join(("found by", *(f"FMR, genuine at {rate}" for rate in thresholds))) + " |")
    print("| --- |" + " --- |" * (len(thresholds) + 1))
    moved = np.empty(0)
    for which in [*dict.fromkeys(sets), "all"]:
        rows = np.flatnonzero((sets == which) | (which == "all"))
        for title, a, b in (
            (given.detectors[0], first, first),
            (given.detectors[1], second, second),
            ("one by each", first, second),
        ):
            impostors, genuine = [], []
            for start in range(0, len(rows), _ROWS):
                mine, later = rows[start : start + _ROWS], rows[start:]
                scores = a[mine] @ b[later].T
                is_pair = np.triu(np.ones(scores.shape, bool), 1)
                is_same = names[mine][:, None] == names[later]
                impostors.append(scores[is_pair & ~is_same & (first[mine] @ first[later].T < ONE_PERSON)])
                genuine.append(scores[is_pair & is_same])
            alien, own = np.concatenate(impostors), np.concatenate(genuine)
            cells = [f"{np.mean(alien >= at):.1e}, {100 * np.mean(own >= at):.1f} %" for at in thresholds.values()]
            print(f"| {which} ({len(own):,} and {len(alien):,} pairs) | {title} | {' | '.join(cells)} |", flush=True)
            if which == "all":
                moved = own - moved if title == "one by each" else moved if len(moved) else own
    far = np.quantile(np.abs(moved), 0.95)
    print(f"one genuine pair's score moves by {np.abs(moved).mean():.3f}, one in twenty by {far:.3f} and more")
    print(f"two crops of one photo have a cosine of {(first * second).sum(axis=1).mean():.3f}")


if __name__ == "__main__":
    main()
