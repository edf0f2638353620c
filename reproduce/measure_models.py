r"""Measures recognizers on people that they were not trained on: the table of accuracy in docs/models.md.

    python -m reproduce.measure_models FILE... [--pins prepared/pins] --lfw prepared/lfw --pairs FOLDER \
        [--view2 LFW] [--cfp prepared/cfp] [--state FILE] [--stamp] [--write]

FILE is a model file, a run folder, a shipped model's name, or FILE=CONTRACT for one that carries no contract: a file,
or a name that edgeface knows (``foamliu``).
The same photos, found and aligned in the same way, for all of them; one Markdown row each. FOLDER has LFW's lists of
pairs. Of CFP fold 02 is left out. What stands in --state is not measured again. With --stamp the figures go into the
files' contracts, where ``edgeface models`` reads them; with --write the table goes into docs/models.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData, load_data
from edgeface.data.split import Split, assign
from edgeface.data.table import read_faces
from edgeface.embedder import Embedder
from edgeface.evaluation.identification import identify
from edgeface.evaluation.opening import contract_of, open_embedder
from edgeface.evaluation.protocol import Protocol, verify_cfp, verify_photos
from edgeface_export.formats import FORMATS
from edgeface_export.separation import share_interval
from edgeface_runtime.contract import read_contract, seal
from edgeface_runtime.model import find_model
from reproduce.pins_table import DOCS, table

PAGE = DOCS / "models.md"
MARKS = ("<!-- accuracy: begin -->\n", "<!-- accuracy: end -->\n")
FIGURES = {
    "lfw_view1": "LFW View 1",
    "lfw_view2": "LFW View 2",
    "pins_one": "Pins, one photo",
    "pins_ten": "Pins, ten photos",
    "cfp_frontal": "CFP, frontal and frontal",
    "cfp_profile": "CFP, frontal and profile",
    "cfp_profile_tar": "the same, TAR at FMR 0.01",
}
"""Key in a contract's ``accuracy`` → column, in percent."""
CFP_FOLDS = (1, 3, 4, 5, 6, 7, 8, 9, 10)
DRAWS = 200
"""Of the photos that a person is known by: with one photo each they part by 1.3 points (standard deviation), and their
mean by 0.1 from that of all draws there are."""


def figure(
    right: NDArray[np.bool_], first: NDArray[np.int64], second: NDArray[np.int64] | None = None, **facts: Any
) -> dict[str, Any]:
    """A share with its 95 % interval over people and what it was counted on."""
    low, high = share_interval(right, first, second)
    return {"value": float(right.mean()), "low": low, "high": high, "count": len(right), **facts}


def pins(embeddings: NDArray[np.float32], data: FaceData, rows: list[dict[str, str]], k: int) -> dict[str, Any]:
    """Share of photos named rightly by the nearest centroid of ``k`` photos a person, mean over ``DRAWS`` of them.

    The draws follow the photos' paths, so that rows are compared on one prepared folder.
    """
    right, people = [], []
    for seed in range(DRAWS):
        split = np.array(assign(rows, Split(method="k", k=k, seed=seed)))
        gallery, probes = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
        truth = data.labels[probes]
        given = identify(embeddings[gallery], data.labels[gallery], embeddings[probes], truth, method="centroid")
        right.append(given.named == truth)
        people.append(truth)
    found = figure(
        np.concatenate(right), np.concatenate(people), people=len(data.identities), photos_each=k, draws=DRAWS
    )
    return found | {"count": len(probes)}


def view1(embedder: Embedder, folder: Path, pairs: Path) -> dict[str, Any]:
    """The threshold from pairsDevTrain, the accuracy of pairsDevTest."""
    found = verify_photos(embedder, folder, pairs / "pairsDevTest.txt", train_pairs=pairs / "pairsDevTrain.txt")
    right = (found.pairs.scores >= found.verification.threshold) == found.pairs.same
    facts = {"threshold": found.verification.threshold, "failed": found.verification.failed}
    return figure(right, found.pairs.first, found.pairs.second, **facts)


def folds(found: Protocol) -> dict[str, Any]:
    """The mean over the folds, each judged with the threshold of the others, and its interval from their spread."""
    of = found.verification
    assert of.standard_error is not None
    margin = 1.96 * of.standard_error
    ends = {"low": max(0.0, of.accuracy - margin), "high": min(1.0, of.accuracy + margin)}
    return {"value": of.accuracy, **ends, "count": of.pairs, "failed": of.failed, "folds": len(of.folds)}


def cfp(embedder: Embedder, folder: Path) -> dict[str, dict[str, Any]]:
    """Both protocols, and what is accepted of the genuine frontal-profile pairs at an FMR of 0.01."""
    found = verify_cfp(embedder, folder, folds=CFP_FOLDS)
    profile = found["frontal-profile"]
    tar = profile.verification.tar_at_far["0.01"]
    figures = {"cfp_frontal": folds(found["frontal-frontal"]), "cfp_profile": folds(profile)}
    genuine = int(profile.pairs.same.sum())
    return figures | {"cfp_profile_tar": {"value": tar.value, "low": tar.low, "high": tar.high, "count": genuine}}


def stamp(file: Path, accuracy: dict[str, Any]) -> None:
    """Writes the figures into the file's contract and seals it again."""
    contract = read_contract(file)
    contract = dataclasses.replace(contract, accuracy=contract.accuracy | accuracy)
    FORMATS[file.suffix[1:]].write_contract(file, contract.to_json())
    seal(file)


def measure(file: Path, contract: Path | None, options: argparse.Namespace, faces: FaceData | None) -> dict[str, Any]:
    """The figures of a model for which photos were named."""
    embedder = open_embedder(file, contract=contract_of(file, contract) if contract else None)
    found = {"lfw_view1": view1(embedder, options.lfw, options.pairs)}
    if options.view2:
        found["lfw_view2"] = folds(verify_photos(embedder, options.view2, options.pairs / "pairs.txt"))
    if faces is not None:
        rows, embeddings = read_faces(options.pins), embedder.embed(faces.faces)
        found |= {"pins_one": pins(embeddings, faces, rows, 1), "pins_ten": pins(embeddings, faces, rows, 10)}
    return found | (cfp(embedder, options.cfp) if options.cfp else {})


def cells(file: Path, found: dict[str, Any]) -> list[str]:
    """A model's row."""
    figures = [found.get(key) for key in FIGURES]
    shown = [
        f"{100 * at['value']:.2f} ({100 * at['low']:.2f} to {100 * at['high']:.2f})" if at else "" for at in figures
    ]
    return [file.name, f"{file.stat().st_size / 1e6:.2f}" if file.is_file() else "", *shown]


def write(rows: Sequence[Sequence[str]]) -> None:
    """Puts the table between the marks of docs/models.md, without columns that nothing was measured for."""
    columns = ["model", "MB", *(f"{title}, %" for title in FIGURES.values())]
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    made = table([columns[index] for index in kept], [[row[index] for index in kept] for row in rows])
    PAGE.write_text(before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")


def main() -> None:
    """Prints one row a model, stamps its file and writes the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--pins", type=Path, help="prepared by edgeface data prepare")
    parser.add_argument("--lfw", type=Path, required=True, help="photos of View 1, or a prepared folder")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of LFW's lists")
    parser.add_argument("--view2", type=Path, help="all photos of LFW, or a prepared folder")
    parser.add_argument("--cfp", type=Path, help="CFP's folder, or a prepared one with its folder Protocol copied in")
    parser.add_argument("--state", type=Path, help="JSON file of what was measured; made where there is none")
    parser.add_argument("--stamp", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    data = load_data(options.pins) if options.pins else None
    assert data is None or [row["path"] for row in read_faces(options.pins)] == list(data.paths)
    known = json.loads(options.state.read_text()) if options.state and options.state.exists() else {}
    rows = []
    for word in options.models:
        name, _, contract = word.partition("=")
        file = find_model(name)
        if file.name not in known:
            known[file.name] = measure(file, Path(contract) if contract else None, options, data)
            if options.state:
                options.state.write_text(json.dumps(known, indent=1))
        rows.append(cells(file, known[file.name]))
        print(*rows[-1], sep=" | ", flush=True)
        if options.stamp:
            stamp(file, known[file.name])
    if options.write:
        write(rows)


if __name__ == "__main__":
    main()
