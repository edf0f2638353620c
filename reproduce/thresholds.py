"""Measures the thresholds of the shipped models, and writes them into their contracts (docs/thresholds.md).

    python -m reproduce.thresholds gather --people prepared/people --lfw prepared/lfw --pins prepared/pins \\
        --view1 LISTS -o threshold_faces.npz
    python -m reproduce.thresholds stamp runtime/edgeface_runtime/models/*.int8.* --faces threshold_faces.npz

``gather`` takes three sets of people that no shipped model was trained on: those of CelebA and Families in the Wild
that ``reproduce.reference_models`` holds out of training, LFW's outside its View 1, and every other person of Pins, by
name. View 1 and the remaining people of Pins stay for measuring accuracy. LISTS has pairsDevTrain.txt and
pairsDevTest.txt.

The rule: at each rate the threshold is the largest of those that the sets give, each by itself and all of them against
each other, as far as ten false accepts are expected: the rate is kept in each. Two names are one person where two of
their photos reach ``ONE_PERSON`` by the model ``--judge``, or where they are the same but for capitals.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import load_data
from edgeface.evaluation.tails import thresholds
from edgeface_export.formats import FORMATS
from edgeface_runtime import load
from edgeface_runtime.contract import read_contract, seal
from edgeface_runtime.model import find_model
from reproduce.group_rates import ONE_PERSON

SETS = ("CelebA and Families in the Wild, held out", "LFW outside View 1", "every other person of Pins")
PINS_PHOTOS = 60
"""Of a person of Pins at most, the first by name: more weigh that person's look-alikes more."""


def gather(people: Path, lfw: Path, pins: Path, view1: Path, output: Path) -> None:
    """Writes the faces of the three sets, with the name of each and the number of its set."""
    taken = view1_people(view1)
    faces, names, sets = [], [], []
    for number, folder in enumerate((people, lfw, pins)):
        data = load_data(folder)
        called = np.array([data.identities[label] for label in data.labels])
        rows = {0: data.split != "train", 1: ~np.isin(called, sorted(taken)), 2: every_other(called)}[number]
        faces.append(data.faces[rows])
        names.append(called[rows])
        sets.append(np.full(int(rows.sum()), number))
    np.savez(output, faces=np.concatenate(faces), names=np.concatenate(names), sets=np.concatenate(sets))


def view1_people(lists: Path) -> set[str]:
    """The names in pairsDevTrain.txt and pairsDevTest.txt of a folder."""
    files = [lists / f"pairsDev{part}.txt" for part in ("Train", "Test")]
    words = (word for file in files for line in file.read_text().splitlines()[1:] for word in line.split())
    return {word for word in words if not word.isdigit()}


def every_other(names: NDArray[np.str_]) -> NDArray[np.bool_]:
    """(N,) True for the first ``PINS_PHOTOS`` photos of the 1st, 3rd, 5th … person by name."""
    people = np.unique(names)[::2]
    place = np.zeros(len(names), np.int64)
    for person in people:
        mine = np.flatnonzero(names == person)
        place[mine] = 1 + np.arange(len(mine))
    return (place > 0) & (place <= PINS_PHOTOS)


def persons(names: NDArray[np.str_], embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N,) numbers of the people, of whom some have several names."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, numbers = np.unique(np.char.lower(names), return_inverse=True)
    linked = [np.stack([numbers, numbers])]
    for start in range(0, len(names), 500):
        a, b = np.nonzero(embeddings[start : start + 500] @ embeddings.T >= ONE_PERSON)
        linked.append(np.stack([numbers[start + a], numbers[b]]))
    a, b = np.concatenate(linked, axis=1)
    count = int(numbers.max()) + 1
    _, person = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(count, count)), directed=False)
    return np.asarray(person, np.int64)[numbers]


def strictest(
    embeddings: NDArray[np.float32], person: NDArray[np.int64], sets: NDArray[np.int64]
) -> tuple[dict[str, object], dict[str, object]]:
    """The contract's ``thresholds``, each with the set that it is ``from``, and what they were measured on."""
    of = {name: sets == number for number, name in enumerate(SETS)} | {"all together": sets >= 0}
    found = {name: thresholds(embeddings[rows], person[rows]) for name, rows in of.items()}
    chosen: dict[str, object] = {}
    for rate in found["all together"][0]:
        of_sets = ((name, at[rate]) for name, (at, _) in found.items())
        here = [{**at, "from": name} for name, at in of_sets if isinstance(at, dict)]
        chosen[rate] = max(here, key=lambda at: float(at["value"]), default=None)
    facts = dict(found["all together"][1])
    facts["sets"] = {name: known["people"] for name, (_, known) in found.items()}
    return chosen, facts


def stamp(
    file: Path, photos: NDArray[np.uint8], person: NDArray[np.int64], sets: NDArray[np.int64]
) -> dict[str, object]:
    """Measures a file's thresholds, writes them into its contract and seals it again."""
    found, facts = strictest(load(file).embed(photos), person, sets)
    contract = read_contract(file)
    contract = dataclasses.replace(contract, thresholds=found, accuracy=contract.accuracy | {"thresholds": facts})
    FORMATS[file.suffix[1:]].write_contract(file, contract.to_json())
    seal(file)
    return found


def main() -> None:
    """Gathers the faces, or stamps files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("gather")
    for option in ("--people", "--lfw", "--pins", "--view1"):
        making.add_argument(option, type=Path, required=True)
    making.add_argument("-o", "--output", type=Path, required=True)
    writing = verbs.add_parser("stamp")
    writing.add_argument("files", type=Path, nargs="+")
    writing.add_argument("--faces", type=Path, required=True, help="what gather wrote")
    writing.add_argument("--judge", default="mobilefacenet.tflite", help="model that says which names are one person's")
    options = parser.parse_args()
    if options.verb == "gather":
        gather(options.people, options.lfw, options.pins, options.view1, options.output)
        return
    with np.load(options.faces) as gathered:
        photos, names, sets = (gathered[key] for key in ("faces", "names", "sets"))
    person = persons(names, load(find_model(options.judge)).embed(photos))
    for file in options.files:
        print(f"{file.name}: {len(np.unique(person))} people, {len(photos)} photos")
        for rate, at in stamp(file, photos, person, sets).items():
            if isinstance(at, dict):
                interval = f"{at['value']:.3f} ({at['low']:.3f} to {at['high']:.3f})"
                print(f"| {rate} | {interval} | {100 * at['tar']:.1f} % | {at['pairs']:,} | {at['from']} |", flush=True)


if __name__ == "__main__":
    main()
