r"""What ensembles gain for the time they take: the table of docs/models.md.

    edgeface export PEER.onnx --contract auto --data PHOTOS --int8 -o peers
    python -m reproduce.ensemble_table WORK mobilefacenet.tflite+mobilefacenet-tiny.tflite \
        mobilefacenet.tflite+peers/PEER.int8.onnx … --pins prepared/pins --lfw prepared/lfw --pairs FOLDER

A third of Pins' people make each ensemble (weights and thresholds) that is not in WORK; the others, and LFW's View 1,
measure it beside its members. Milliseconds are processor time of one face, all files in turns, one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData, load_data
from edgeface.data.table import read_faces
from edgeface.embedder import Embedder
from edgeface.ensembling import FMRS, make_ensemble
from edgeface.evaluation.tails import all_against_all, tar_at_far
from edgeface_export.gate import compare_speed
from edgeface_runtime import Model, UsageError, load, read_contract
from edgeface_runtime.model import find_model
from reproduce.measure_models import pins, view1
from reproduce.pins_table import DOCS, table

PAGE = DOCS / "models.md"
MARKS = ("<!-- ensembles: begin -->\n", "<!-- ensembles: end -->\n")
MOST = 20
"""Photos of a person of Pins."""
COLUMNS = ("model", "weights", "MB", "ms", *(f"TAR at {r:g}, %" for r in FMRS), "Pins, one photo, %", "LFW View 1, %")


def few(data: FaceData, people: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of at most ``MOST`` photos of each of these people."""
    rng = np.random.default_rng(0)
    mine = (rng.permutation(np.flatnonzero(data.labels == person))[:MOST] for person in people)
    return np.sort(np.concatenate(list(mine)))


def part(data: FaceData, rows: NDArray[np.int64]) -> FaceData:
    """The data of some rows, the people numbered anew."""
    people, labels = np.unique(data.labels[rows], return_inverse=True)
    return replace(
        data, faces=data.faces[rows], labels=labels.astype(np.int64), split=data.split[rows],
        identities=tuple(data.identities[person] for person in people), paths=tuple(data.paths[row] for row in rows),
    )  # fmt: skip


class Remembered:
    """Embeddings of a model or of an ensemble's members, which several rows ask for: each is computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, bytes], NDArray[np.float32]] = {}

    def embedder(self, model: Model, members: Sequence[Model]) -> Embedder:
        """Embeds by the members where there are any, which the file itself must agree with."""

        def one(model: Model, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
            key = model.path, hashlib.sha256(faces.tobytes()).digest()
            if key not in self._known:
                self._known[key] = model.embed(faces)
            return self._known[key]

        def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
            if not members:
                return one(model, faces)
            roots = [np.float32(math.sqrt(member.weight)) for member in model.contract.members]
            rows = [root * one(member, faces) for root, member in zip(roots, members, strict=True)]
            together = np.concatenate(rows, axis=1)
            np.testing.assert_allclose(model.embed(faces[:4]), together[:4], atol=1e-5)
            return together

        return Embedder(model.contract, embed)


def main() -> None:
    """Makes the ensembles, measures them and their members, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the ensembles")
    parser.add_argument("ensembles", nargs="+", help="files or names, joined by +")
    parser.add_argument("--pins", type=Path, required=True, help="prepared by edgeface data prepare")
    parser.add_argument("--lfw", type=Path, help="prepared, the photos of View 1; left out where it is not named")
    parser.add_argument("--pairs", type=Path, help="folder of pairsDevTest.txt and pairsDevTrain.txt")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    data, listed = load_data(options.pins), read_faces(options.pins)
    turn = np.random.default_rng(0).permutation(len(data.identities))
    making = part(data, few(data, turn[: len(turn) // 3]))
    kept = few(data, turn[len(turn) // 3 :])
    judging, photos = part(data, kept), [listed[row] for row in kept]
    files: dict[Path, tuple[str, list[Path]]] = {}
    for word in options.ensembles:
        members = [find_model(name) for name in word.split("+")]
        path = options.work / f"{'+'.join(member.stem for member in members)}.ensemble"
        if not path.exists():
            make_ensemble(members, making, path)
        files |= {member: ("", []) for member in members if member not in files}
        files[path] = " / ".join(f"{member.weight:g}" for member in read_contract(path).members), members
    models, remembered = {path: load(path) for path in files}, Remembered()
    rows = []
    for (path, model), ms in zip(models.items(), compare_speed([*models.values()]), strict=True):
        weights, members = files[path]
        embedder = remembered.embedder(model, [models[member] for member in members])
        embeddings = embedder.embed(judging.faces)
        scores = all_against_all(embeddings, judging.labels)
        shares = [pins(embeddings, judging, photos, 1)]
        if options.lfw is not None:
            shares.append(view1(embedder, options.lfw, options.pairs))
        tar = [tar_at_far(scores, rate) for rate in FMRS]
        if any(at.value is None for at in tar):
            raise UsageError(f"{options.pins}: too few photos")
        cells = [f"{100 * at['value']:.2f} ({100 * at['low']:.2f} to {100 * at['high']:.2f})" for at in shares]
        measured = [str(at).replace(" %", "") for at in tar]
        rows.append([path.name, weights, f"{path.stat().st_size / 1e6:.2f}", f"{ms:.2f}", *measured, *cells])
        print(*rows[-1], sep=" | ", flush=True)
    said = f"\n{len(kept):,} photos of {len(judging.identities)} people of Pins who had no say in the weights.\n"
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    made = table(COLUMNS[: len(rows[0])], rows) + said
    PAGE.write_text(before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")


if __name__ == "__main__":
    main()
