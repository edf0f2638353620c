"""Measures recognisers on strangers: LFW's View 1, and naming Pins' people from ten photos and from one.

    python -m reproduce.measure_models FILE... [--pins prepared/pins] --lfw prepared/lfw --pairs FOLDER [--stamp]

FILE is a model file, a run folder, a shipped model's name, or FILE=CONTRACT.toml for one that carries no contract.
The same photos, found and aligned in the same way, for all of them; one Markdown row each. With --stamp the figures
go into the files' contracts, where ``edgeface models`` reads them; without --pins only those of View 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData, load_data
from edgeface.data.split import Split, assign
from edgeface.data.table import read_faces
from edgeface.evaluation.identification import identify
from edgeface.evaluation.opening import open_embedder, read_contract_file
from edgeface.evaluation.pipeline import Plan, evaluate_model
from edgeface_export.formats import FORMATS
from edgeface_export.separation import share_interval
from edgeface_runtime.contract import read_contract, seal
from edgeface_runtime.model import find_model

FIGURES = {"lfw_view1": "LFW View 1", "pins_ten": "Pins, ten photos", "pins_one": "Pins, one photo"}


DRAWS = 20
"""Of the photos that a person is known by."""


def figure(
    right: NDArray[np.bool_], first: NDArray[np.int64], second: NDArray[np.int64] | None = None, **facts: Any
) -> dict[str, Any]:
    """A share with its 95 % interval over people and what it was counted on."""
    low, high = share_interval(right, first, second)
    return {"value": float(right.mean()), "low": low, "high": high, "count": len(right), **facts}


def pins(embeddings: NDArray[np.float32], data: FaceData, rows: list[dict[str, str]], k: int) -> dict[str, Any]:
    """Share of photos named rightly by the nearest centroid of ``k`` photos a person, mean over ``DRAWS`` of them.

    One draw of one photo a person is 105 photos, and two files of one net part by 0.2 points on them alone.
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


def lfw(model: Path, contract: Path | None, folder: Path, pairs: Path) -> dict[str, Any]:
    """View 1: the threshold from pairsDevTrain, the accuracy of pairsDevTest."""
    plan = Plan(
        lfw=folder, pairs=pairs / "pairsDevTest.txt", train_pairs=pairs / "pairsDevTrain.txt", contract=contract
    )
    found = evaluate_model(model, plan).evaluation
    assert found.pairs is not None
    assert found.verification is not None
    right = (found.pairs.scores >= found.verification.threshold) == found.pairs.same
    facts = {"threshold": found.verification.threshold, "failed": found.verification.failed}
    return figure(right, found.pairs.first, found.pairs.second, **facts)


def stamp(file: Path, accuracy: dict[str, Any]) -> None:
    """Writes the figures into the file's contract and seals it again."""
    contract = read_contract(file)
    contract = dataclasses.replace(contract, accuracy=contract.accuracy | accuracy)
    FORMATS[file.suffix[1:]].write_contract(file, contract.to_json())
    seal(file)


def main() -> None:
    """Prints one row a model, and stamps its file where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--pins", type=Path, help="prepared by edgeface data prepare")
    parser.add_argument("--lfw", type=Path, required=True, help="LFW's photos, or a prepared folder")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of pairsDevTest.txt and pairsDevTrain.txt")
    parser.add_argument("--stamp", action="store_true")
    options = parser.parse_args()
    data, rows = (load_data(options.pins), read_faces(options.pins)) if options.pins else (None, [])
    assert data is None or [row["path"] for row in rows] == list(data.paths)
    titles = [title for name, title in FIGURES.items() if data or name == "lfw_view1"]
    print("| model | " + " | ".join(f"{title}, %" for title in titles) + " |")
    print("| --- |" + " --- |" * len(titles))
    for word in options.models:
        name, _, contract = word.partition("=")
        file, contract = find_model(name), Path(contract) if contract else None
        found = {"lfw_view1": lfw(file, contract, options.lfw, options.pairs)}
        if data:
            embedder = open_embedder(file, contract=read_contract_file(contract) if contract else None)
            embeddings = embedder.embed(data.faces)
            found |= {"pins_ten": pins(embeddings, data, rows, 10), "pins_one": pins(embeddings, data, rows, 1)}
        cells = [f"{100 * at['value']:.2f} ({100 * at['low']:.2f} to {100 * at['high']:.2f})" for at in found.values()]
        print(f"| {file.name} | " + " | ".join(cells) + " |")
        sys.stdout.flush()
        if options.stamp:
            stamp(file, found)


if __name__ == "__main__":
    main()
