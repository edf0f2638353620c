"""When adapting pays: the table of docs/training.md, over numbers of people and of photos, and over ways to adapt.

    python -m reproduce.adapt_table PEOPLE --others OTHERS -o WORK
    python -m reproduce.adapt_table PEOPLE --others OTHERS -o WORK --people 20 50 --photos 5 10 --ways 20x10

PEOPLE and OTHERS are folders made by ``edgeface data prepare``, of people whom the shipped model was not trained on:
PEOPLE (Pins) are adapted to, the ``test`` part of OTHERS are the strangers. Of each person ``HELD_OUT`` further photos
judge. What is in WORK is not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.adapting import SHARE, adapt, adapt_config, mean_of
from edgeface.data.dataset import FaceData, load_data
from edgeface.embedder import Embedder
from edgeface.evaluation.opening import open_embedder
from edgeface.evaluation.tails import all_against_all, tar_at_far
from edgeface.training.checkpoints import load_checkpoint
from edgeface.training.loop import train
from edgeface_export.rewrite import torch_embeddings
from edgeface_runtime import UsageError
from edgeface_runtime.model import unit_rows
from reproduce.pins_table import DOCS, table

PAGE = DOCS / "training.md"
MARKS = ("<!-- adapt_table: begin -->\n", "<!-- adapt_table: end -->\n")
MODEL = "mobilefacenet"
FARS = (0.01, 0.001)
FPIR = 0.01
HELD_OUT = 12
COLUMNS = (
    "people × photos", "way", "TAR of these people at FMR 0.01 / 0.001, %", "TAR of others, %",
    "right names at FPIR 0.01, %", "processor seconds",
)  # fmt: skip
WAYS = ("embedding alone", "itself as teacher", "fine-tuned weights alone")
"""Beside ``adapt``'s mean: only the last layer learns; the model's own outputs are a teacher's; no mean is taken."""


def drawn(data: FaceData, people: int, photos: int, seed: int = 0) -> FaceData:
    """So many people with so many training photos each, and ``HELD_OUT`` others of each as test photos."""
    rng = np.random.default_rng(seed)
    enough = [person for person in range(len(data.identities)) if (data.labels == person).sum() >= 20 + HELD_OUT]
    if len(enough) < people:
        raise UsageError(f"{len(enough)} people have {20 + HELD_OUT} photos or more; {people} are asked for")
    chosen = np.sort(rng.choice(enough, people, replace=False))
    rows, labels, split = [], [], []
    for label, person in enumerate(chosen):
        of = rng.permutation(np.flatnonzero(data.labels == person))[: photos + HELD_OUT]
        rows += of.tolist()
        labels += [label] * len(of)
        split += ["train"] * photos + ["test"] * HELD_OUT
    return FaceData(
        faces=np.asarray(data.faces[rows]),
        labels=np.array(labels, np.int64),
        identities=tuple(data.identities[person] for person in chosen),
        paths=tuple(data.paths[row] for row in rows),
        split=np.array(split),
    )


def figures(net: nn.Module | None, data: FaceData, others: FaceData) -> dict[str, object]:
    """TAR of these people and of others, and right names among both; the shipped weights where ``net`` is None."""
    start = load_checkpoint(MODEL)
    strangers = others.rows("test")

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        return torch_embeddings((net or start.net).eval(), start.contract.input, faces)

    def tar(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float]:
        scores = all_against_all(embeddings, labels)
        return [tar_at_far(scores, far).value or float("nan") for far in FARS]

    known, asked, unknown = (embed(faces) for faces in (
        data.faces[data.rows("train")], data.faces[data.rows("test")], np.asarray(others.faces[strangers]),
    ))  # fmt: skip
    labels, truth = data.labels[data.rows("train")], data.labels[data.rows("test")]
    templates = unit_rows(np.stack([known[labels == person].mean(0) for person in range(len(data.identities))]))
    scores = asked @ templates.T
    threshold = np.quantile((unknown @ templates.T).max(1), 1 - FPIR)
    named = (scores.argmax(1) == truth) & (scores.max(1) >= threshold)
    return {"own": tar(asked, truth), "others": tar(unknown, others.labels[strangers]), "named": float(named.mean())}


def adapted(data: FaceData, way: str, folder: Path) -> nn.Module:
    """The net that a way ends with."""
    config = adapt_config(MODEL)
    start = load_checkpoint(MODEL)
    if way in ("adapt", WAYS[2]):
        adapt(data, folder, MODEL, config, resume=folder.exists())
        return load_checkpoint(folder if way == "adapt" else folder / "training").net

    def fill(net: nn.Module) -> None:
        net.load_state_dict(start.net.state_dict())
        if way == WAYS[0]:
            for name, value in net.named_parameters():
                value.requires_grad_(name.startswith(last))

    *_, (last, _) = ((name, module) for name, module in start.net.named_modules() if isinstance(module, nn.Conv2d))
    teachers: list[Embedder] = [open_embedder(MODEL)] if way == WAYS[1] else []
    train(data, folder, config, init=fill, teachers=teachers, resume=folder.exists())
    net = load_checkpoint(folder).net
    net.load_state_dict(mean_of(start.net.state_dict(), net.state_dict(), SHARE))
    return net


def measured(data: FaceData, others: FaceData, way: str, folder: Path) -> dict[str, object]:
    """A row's figures, made unless they are there."""
    known = folder / f"{way.replace(' ', '-')}.json"
    if known.exists():
        found: dict[str, object] = json.loads(known.read_text())
        return found
    begun = time.process_time()
    net = None if way == "as it is" else adapted(data, way, folder / (way if way != WAYS[2] else "adapt"))
    seconds = time.process_time() - begun
    found = figures(net, data, others) | {"seconds": seconds}
    folder.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(found))
    return found


def row(size: str, way: str, found: dict[str, object]) -> list[str]:
    """The cells of a measured row."""
    both = [" / ".join(f"{100 * value:.1f}" for value in found[key]) for key in ("own", "others")]  # type: ignore[attr-defined]
    took = "" if way in ("as it is", WAYS[2]) else f"{found['seconds']:.0f}"
    return [size, way, *both, f"{100 * float(str(found['named'])):.1f}", took]


def main(given: Sequence[str] | None = None) -> None:
    """Makes the rows that are missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--others", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--people", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--photos", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument(
        "--ways", default="50x10", help="the size at which the other ways are tried too; empty: nowhere"
    )
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    everybody, others = load_data(options.data), load_data(options.others)
    rows = []
    for people in options.people:
        for photos in options.photos:
            data = drawn(everybody, people, photos)
            for way in ("as it is", "adapt", *(WAYS if options.ways == f"{people}x{photos}" else ())):
                found = measured(data, others, way, options.output / f"{people}x{photos}")
                rows.append(row(f"{people} × {photos}", way, found))
                print(*rows[-1], sep=" | ", flush=True)
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    PAGE.write_text(before + MARKS[0] + table(COLUMNS, rows) + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")


if __name__ == "__main__":
    main()
