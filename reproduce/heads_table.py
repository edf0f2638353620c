"""Heads on wrong labels and on blurred photos, and a head with a share of the classes: tables of docs/results.md.

    python -m reproduce.heads_table spoilt prepared/pins --people 30 --photos 60 -o runs/heads
    python -m reproduce.heads_table sampled CELEBA -o runs/heads

The first photos of the first people are taken. Each run starts from ``mobilefacenet-tiny-0.1`` and sees faces
of 48 pixels. Wrong labels: a fifth of the training photos gets the name of another person, drawn. Blurred photos: half
of them is blurred, many so far that nobody can tell who it is. Validation and test photos stay as they are, and a
person's mean, by which test photos are named, is that of the training photos with their right names and unblurred. Runs
that lie in the folder are not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.metrics import roc_auc_score

from edgeface.backbones.layers import stretch_small_maps
from edgeface.data.dataset import FaceData, batches, load_data, split_photos
from edgeface.evaluation.identification import identify
from edgeface.evaluation.verification import all_pairs, verify
from edgeface.training.augment import normalize
from edgeface.training.checkpoints import load_checkpoint, load_tensors
from edgeface.training.config import TrainConfig, load_config
from edgeface.training.init.start import settings_of, start_from
from edgeface.training.loop import shrink, train

START = "mobilefacenet-tiny-0.1"
SIDE = 48
WRONG, BLURRED = 0.2, 0.5
SIGMAS = (2.0, 8.0)
"""Pixels of a 112 pixel face: at the lower one people are recognized, at the upper one nobody is."""
TEST_SIGMA = 3.0
Row = tuple[str, str, dict[str, float]]
"""Training photos, head, and settings of its own."""
TABLES: dict[str, tuple[Row, ...]] = {
    "spoilt": (
        ("as they are", "arcface", {}),
        ("as they are", "arcface-subcenter", {}),
        ("wrong labels", "arcface", {}),
        ("wrong labels", "arcface-subcenter", {}),
        ("blurred", "arcface", {}),
        ("blurred", "adaface", {}),
        ("blurred", "magface", {}),
    ),
    "sampled": (
        ("as they are", "arcface", {}),
        ("as they are", "arcface", {"class_sampling": 0.1}),
    ),
}
COLUMNS = (
    "training photos",
    "head",
    "top-1, %",
    "TAR at FMR 0.01, %",
    "top-1 of blurred test photos, %",
    "wrong labels ranked below right ones, %",
)
PAGE = Path(__file__).parent.parent / "docs" / "results.md"


def blurred(face: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """(S, S, 3) uint8 → the same, blurred by a Gaussian of ``sigma`` pixels."""
    return np.asarray(Image.fromarray(face).filter(ImageFilter.GaussianBlur(sigma)))


def spoilt(data: FaceData, kind: str, seed: int) -> tuple[FaceData, NDArray[np.bool_]]:
    """The photos with a part of the training photos spoilt, and which."""
    rng, rows = np.random.default_rng(seed), data.rows("train")
    chosen = np.zeros(len(data.faces), bool)
    labels, faces = data.labels.copy(), np.array(data.faces)
    if kind == "wrong labels":
        chosen[rng.choice(rows, round(WRONG * len(rows)), replace=False)] = True
        others = rng.integers(1, len(data.identities), int(chosen.sum()))
        labels[chosen] = (labels[chosen] + others) % len(data.identities)
    if kind == "blurred":
        chosen[rng.choice(rows, round(BLURRED * len(rows)), replace=False)] = True
        for row in np.flatnonzero(chosen):
            faces[row] = blurred(faces[row], rng.uniform(*SIGMAS))
    return replace(data, labels=labels, faces=faces), chosen


def settings(head: str, own: dict[str, float], seed: int, epochs: int) -> TrainConfig:
    """Those of a run."""
    common: dict[str, object] = {
        "batch_size": 24, "lr": 1e-3, "logit_scale": 30.0, "margin": 0.4, "margin_warmup_ratio": 0.5,
        "warmup_ratio": 0.15, "progressive_size": SIDE, "progressive_ratio": 0.99, "imprint_head": True,
    }  # fmt: skip
    return load_config(base=settings_of(START) | common | own, loss=head, seed=seed, epochs=epochs)


def some(data: FaceData, people: int, photos: int) -> FaceData:
    """The first photos of the first people, split anew as a plain folder is."""
    people = min(people, len(data.identities))
    rows = np.concatenate([np.flatnonzero(data.labels == person)[:photos] for person in range(people)])
    labels, paths = data.labels[rows], tuple(data.paths[row] for row in rows)
    split = split_photos(labels)
    return replace(
        data, faces=data.faces[rows], labels=labels, paths=paths, split=split, identities=data.identities[:people]
    )


@torch.no_grad()
def measure(run: Path, data: FaceData, given: FaceData, wrong: NDArray[np.bool_]) -> dict[str, float | None]:
    """Figures of a finished run: on test photos, and how well its head knows wrong labels."""
    checkpoint = load_checkpoint(run)
    net, spec = checkpoint.net, checkpoint.contract.input
    stretch_small_maps(net)
    blurred_test = np.stack([blurred(data.faces[row], TEST_SIGMA) for row in data.rows("test")])

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = [shrink(normalize(torch.from_numpy(part), spec.mean, spec.std), SIDE) for part in parts_of(faces)]
        return F.normalize(torch.cat([net(part) for part in parts])).numpy()

    train_rows, test_rows = data.rows("train"), data.rows("test")
    known, asked = embed(data.faces[train_rows]), embed(data.faces[test_rows])
    people, truth = data.labels[train_rows], data.labels[test_rows]
    found = {
        "top1": identify(known, people, asked, truth).accuracy,
        "tar": verify(all_pairs(asked, truth)).tar_at_far["0.01"].value,
        "top1_blurred": identify(known, people, embed(blurred_test), truth).accuracy,
    }
    if not wrong.any():
        return found | {"ranked": None}
    tensors, _ = load_tensors(run / "last.safetensors")
    centres = F.normalize(tensors["learner.head.weight"].view(len(data.identities), -1, known.shape[1]), dim=2)
    labels = torch.from_numpy(given.labels[train_rows])
    cosines = torch.einsum("nkd,nd->nk", centres[labels], torch.from_numpy(known))
    # The centre of a class at which most of its photos lie: that of the person.
    votes = F.one_hot(cosines.argmax(1), cosines.shape[1])
    main = torch.zeros(centres.shape[:2], dtype=torch.int64).index_add(0, labels, votes).argmax(1)
    own = cosines.gather(1, main[labels][:, None])[:, 0]
    return found | {"ranked": float(roc_auc_score(~wrong[train_rows], own.numpy()))}


def parts_of(faces: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Faces in parts that a net takes at once."""
    return [faces[rows] for rows in batches(np.arange(len(faces)), 128)]


def run_of(
    data: FaceData, kind: str, head: str, own: dict[str, float], seed: int, epochs: int, folder: Path
) -> dict[str, float | None]:
    """Trains one run, unless its figures are there, and measures it."""
    run = folder / "-".join([*kind.split(), head, *(f"{key}{value:g}" for key, value in own.items()), str(seed)])
    if (run / "figures.json").exists():
        found: dict[str, float | None] = json.loads((run / "figures.json").read_text())
        return found
    given, chosen = spoilt(data, kind, seed)
    config = settings(head, own, seed, epochs)
    train(given, run, config, init=lambda net: print(start_from(net, START, config, faces=given.faces)), resume=True)
    found = measure(run, data, given, chosen if kind == "wrong labels" else np.zeros_like(chosen))
    (run / "figures.json").write_text(json.dumps(found))
    return found


def cell(values: list[float | None]) -> str:
    """Mean over the seeds and, of several, half their range, in percent."""
    numbers = [100 * value for value in values if value is not None]
    if not numbers:
        return ""
    range_of = f" ± {(max(numbers) - min(numbers)) / 2:.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{range_of}"


def main() -> None:
    """Makes the runs that are missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("data", type=Path, help="prepared photos")
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--photos", type=int, default=1000, help="of a person, at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/heads"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = some(load_data(options.data), options.people, options.photos)
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    for kind, head, own in TABLES[options.table]:
        found = [run_of(data, kind, head, own, seed, options.epochs, options.output) for seed in range(options.seeds)]
        cells = [cell([row[key] for row in found]) for key in ("top1", "tar", "top1_blurred", "ranked")]
        words = " ".join([head, *(f"{key}={value:g}" for key, value in own.items())])
        lines.append(f"| {kind} | `{words}` | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    seeds = "one seed" if options.seeds == 1 else f"{options.seeds} seeds, ± half their range"
    counted = f"{len(data.rows('train')):,} training and {len(data.rows('test')):,} test photos"
    lines.append(f"\n{len(data.identities)} people, {counted}, {options.epochs} epochs, {seeds}.")
    begin, end = (f"<!-- heads_table {options.table}: {edge} -->\n" for edge in ("begin", "end"))
    before, rest = PAGE.read_text("utf-8").split(begin)
    PAGE.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1], "utf-8")


if __name__ == "__main__":
    main()
