r"""Adversarial training against plain training, attacked by an independent library: the table of docs/results.md.

    pip install 'edgeface[attack]'
    python -m reproduce.adversarial WORK --photos CELEBA --others prepared/pins --seeds 3

Fine-tunes mobilefacenet-tiny-0.1 on the people of CELEBA plainly, with FGSM and with PGD, with the same seeds;
then other people's photos are identified, as they are and after the attacks of the Adversarial Robustness Toolbox
(white-box: the attacker has the weights and the gallery), by the fp32 model, and by the int8 file that its export
makes, to which the photos come that were made against the fp32 model. What is in WORK is not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.cli import run
from edgeface.data.dataset import FaceData, load_data
from edgeface.deploy import ExportPhotos, export_model
from edgeface.evaluation.tails import all_against_all, tar_at_far
from edgeface.training.checkpoints import load_checkpoint
from edgeface_export.options import ExportOptions
from edgeface_export.rewrite import torch_embeddings
from edgeface_runtime import load
from edgeface_runtime.model import unit_rows
from reproduce.pins_table import PAGE, table

MARKS = ("<!-- adversarial: begin -->\n", "<!-- adversarial: end -->\n")
SETTINGS = (
    "--set lr=1e-3 --set batch_size=20 --set imprint_head=true --set logit_scale=30 --set margin=0.3 "
    "--set margin_warmup_ratio=0"
)
METHODS = {
    "plain": "",
    "FGSM, 2 grey levels": "--set adversarial=fgsm --set adversarial_eps=2",
    "PGD, 2 grey levels, 3 steps": "--set adversarial=pgd --set adversarial_eps=2 --set adversarial_steps=3",
}
"""Row → what ``edgeface train`` is told beside the settings of all."""
GALLERY, SCALE, STEPS, FAR = 5, 30.0, 10, 1e-3
"""Gallery photos a person; scale of the cosines that are attacked; steps of PGD; rate of the TAR of clean photos."""
ATTACKS = {"fgsm": FastGradientMethod, "pgd": ProjectedGradientDescentPyTorch}
EPS = 2.0
"""Grey levels."""
COLUMNS = (
    "training", "processor minutes", "clean, %", "FGSM, %", "PGD, %", f"clean TAR at FMR {FAR:g}, %",
    "int8 cosine", "int8 clean, %", "int8 PGD, %", "int8 gate",
)  # fmt: skip


class Identifier(nn.Module):
    """Pixels → SCALE · cosines to each person's mean gallery embedding, as logits."""

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], means: Tensor) -> None:
        super().__init__()
        self.net, self.means = net, means
        self.mean, self.std = (torch.tensor(each).view(1, 3, 1, 1) for each in (mean, std))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) float pixels, 0 to 255 → (N, people) logits."""
        embeddings = nn.functional.normalize(self.net((pixels - self.mean) / self.std), dim=1)
        return SCALE * embeddings @ self.means.T


def people(data: FaceData, count: int) -> tuple[FaceData, NDArray[np.bool_]]:
    """``GALLERY`` + 1 photos of each of the first ``count`` people, and which of them are the gallery."""
    rng = np.random.default_rng(0)
    rows, known = [], []
    for label in range(count):
        mine = rng.permutation(np.flatnonzero(data.labels == label))[: GALLERY + 1]
        rows.append(mine)
        known.append(np.arange(len(mine)) < GALLERY)
    kept = np.concatenate(rows)
    _, labels = np.unique(data.labels[kept], return_inverse=True)
    paths, split = tuple(data.paths[row] for row in kept), data.split[kept]
    return replace(
        data, faces=data.faces[kept], labels=labels.astype(np.int64), paths=paths, split=split
    ), np.concatenate(known)


def named(embeddings: NDArray[np.float32], means: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Share of (N, D) unit embeddings that are nearest to the right mean."""
    return float(((embeddings @ means.T).argmax(1) == truth).mean())


def measure(
    folder: Path, photos: FaceData, others: FaceData, known: NDArray[np.bool_], *, int8: bool
) -> dict[str, Any]:
    """The figures of a run folder; those of its int8 file where it is asked for."""
    checkpoint = load_checkpoint(folder)
    spec, labels = checkpoint.contract.input, others.labels
    embeddings = torch_embeddings(checkpoint.net, spec, others.faces)
    means = means_of(embeddings[known], labels[known])
    truth = labels[~known]
    at = tar_at_far(all_against_all(embeddings, labels), FAR)
    found: dict[str, Any] = {"clean": named(embeddings[~known], means, truth), "tar": at.value}
    judge = Identifier(checkpoint.net.eval(), spec.mean, spec.std, torch.from_numpy(means))
    classifier = PyTorchClassifier(
        judge, nn.CrossEntropyLoss(), (3, spec.size, spec.size), len(means), clip_values=(0, 255), device_type="cpu"
    )
    pixels = others.faces[~known].transpose(0, 3, 1, 2).astype(np.float32)
    attacked: dict[str, NDArray[np.uint8]] = {}
    for name, kind in ATTACKS.items():
        more = {"eps_step": EPS / 4, "max_iter": STEPS, "num_random_init": 1, "verbose": False} if name == "pgd" else {}
        moved = kind(classifier, eps=EPS, batch_size=35, **more).generate(pixels, truth)
        # Whole grey levels, as a photo has them: with whole eps they stay within it.
        attacked[name] = np.rint(moved).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
        found[name] = named(torch_embeddings(checkpoint.net, spec, attacked[name]), means, truth)
    if int8:
        options = ExportOptions(formats=["tflite"], precisions=["int8"], max_drop=100.0)
        made = export_model(folder, ExportPhotos(data=photos), folder / "models", options)
        file, model = made.files[0], load(made.files[0].path)
        means = means_of(model.embed(others.faces[known]), labels[known])
        found["int8"] = {
            "cosine": file.cosine_mean,
            "drop": file.drop.points,
            "clean": named(model.embed(others.faces[~known]), means, truth),
            "pgd": named(model.embed(attacked["pgd"]), means, truth),
        }
    return found


def means_of(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """(people, D) unit mean embeddings."""
    return unit_rows(np.stack([embeddings[labels == label].mean(0) for label in np.unique(labels)]))


def rows(found: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """The cells of the table: means over the seeds, with the least and the largest."""

    def cell(values: list[float]) -> str:
        low, middle, high = 100 * min(values), 100 * float(np.mean(values)), 100 * max(values)
        return f"{middle:.1f}" if len(values) == 1 else f"{middle:.1f} ({low:.1f} to {high:.1f})"

    made = []
    for name, seeds in found.items():
        plain = [cell([row[key] for row in seeds]) for key in ("clean", *ATTACKS, "tar")]
        int8 = [row["int8"] for row in seeds if "int8" in row]
        drop = max(row["drop"] for row in int8)
        quantized = [
            f"{np.mean([row['cosine'] for row in int8]):.4f}",
            cell([row["clean"] for row in int8]),
            cell([row["pgd"] for row in int8]),
            f"{'passes' if drop <= ExportOptions.max_drop else 'refuses'} ({drop:+.2f} points lost)",
        ]
        made.append([name, f"{np.mean([row['minutes'] for row in seeds]):.1f}", *plain, *quantized])
    return made


def main() -> None:
    """Trains what is not there, measures what was not measured, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="aligned faces to train on")
    parser.add_argument("--others", type=Path, required=True, help="prepared photos of other people")
    parser.add_argument("--people", type=int, default=60, help="of the others, one photo each is attacked")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    photos = load_data(options.photos)
    others, known = people(load_data(options.others), options.people)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for seed in range(options.seeds):
        for place, (name, words) in enumerate(METHODS.items()):
            folder = options.work / f"{place}-{seed}"
            figures = options.work / f"{place}-{seed}.json"
            if not figures.exists():
                told = f"--init mobilefacenet-tiny-0.1 --epochs {options.epochs} {SETTINGS}"
                asked = f"{told} --set seed={seed} {words} --licence research-use --resume -o".split()
                started = time.process_time()
                if failed := run(["train", str(options.photos), *asked, str(folder)]):
                    raise SystemExit(failed)
                minutes = (time.process_time() - started) / 60
                row = measure(folder, photos, others, known, int8=seed == 0)
                figures.write_text(json.dumps(row | {"minutes": minutes}))
            found[name].append(json.loads(figures.read_text()))
            print(name, seed, found[name][-1], flush=True)
    made, seeds = table(COLUMNS, rows(found)), "seed" if options.seeds == 1 else "seeds"
    made += f"\n{(~known).sum()} photos of {len(np.unique(others.labels))} people; {options.seeds} {seeds}; "
    made += f"{options.epochs} epochs of {len(photos.rows('train'))} photos of {len(photos.identities)} people.\n"
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    PAGE.write_text(before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")


if __name__ == "__main__":
    main()
