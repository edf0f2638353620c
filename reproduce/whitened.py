r"""Whitens a model's embedding within people: what sets photos of one person apart counts less (docs/models.md).

    python -m reproduce.whitened choose weights/mobilefacenet-tiny.safetensors --photos prepared/people
    python -m reproduce.whitened write runs/tiny --photos prepared/people -o whitened.safetensors
    python -m reproduce.whitened write runs/turned --photos prepared/people --share 0 --length 128 -o short.safetensors

The photos of one person differ by light, age and pose, along some directions of the embedding more than along others.
Dividing each direction by the spread that it has within people (within-class covariance normalization: Hatch,
Kajarekar, Stolcke, Interspeech 2006) is a linear map, and goes into the weights of the last layer: the model takes the
time that it took. With --length the embedding keeps as many of its principal axes alone (--share 0: as they are, not
whitened). ``SHARE`` of the covariance is measured, the rest is the same in all directions, since few people's photos
say little of each; ``choose`` shows what each share is worth, fitted on half of the training people and judged on the
others, and the reverse.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeface.data.dataset import FaceData, load_data
from edgeface.evaluation.tails import all_against_all
from edgeface.training.augment import normalize
from edgeface.training.checkpoints import load_checkpoint, save_tensors
from edgeface_runtime import InputSpec
from edgeface_runtime.model import unit_rows

SHARE = 0.5
"""Chosen on the training people: the best of ``SHARES`` at an FMR of 0.001 for both shipped models."""
SHARES = (0.2, 0.5, 0.7, 0.8, 0.9, 0.98)
FARS = (0.01, 0.001, 0.0001)
_BATCH = 64


def whitening(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], share: float, length: int | None = None
) -> NDArray[np.float64]:
    """(D, D) symmetric map, after which all directions spread alike within people, as far as ``share`` says.

    Args:
        embeddings: (N, D) unit rows.
        labels: (N,) whose they are; people with one photo say nothing.
        share: of the covariance within people; the rest is its mean variance in every direction.
        length: (length, D) instead: the principal axes of what the map gives.
    """
    _, numbers, photos = np.unique(labels, return_inverse=True, return_counts=True)
    exact = embeddings.astype(np.float64)
    means = np.zeros((len(photos), exact.shape[1]))
    np.add.at(means, numbers, exact)
    apart = exact - (means / photos[:, None])[numbers]
    within = apart.T @ apart / (len(exact) - len(photos))
    within = share * within + (1 - share) * np.trace(within) / len(within) * np.eye(len(within))
    variances, directions = np.linalg.eigh(within)
    spread = np.sqrt(variances)
    found: NDArray[np.float64] = (directions * np.sqrt(len(within) / (spread**-2).sum()) / spread) @ directions.T
    if length is None:
        return found
    axes = np.linalg.eigh(np.cov(unit_rows((exact @ found).astype(np.float32)).T))[1][:, ::-1][:, :length]
    return axes.T @ found


@torch.no_grad()
def outputs(net: nn.Module, spec: InputSpec, data: FaceData, rows: NDArray[np.int64]) -> torch.Tensor:
    """(len(rows), D) embeddings of faces as the net gives them, of any length."""
    parts = [data.faces[rows[start : start + _BATCH]] for start in range(0, len(rows), _BATCH)]
    return torch.cat([net(normalize(torch.from_numpy(part), spec.mean, spec.std)) for part in parts])


@torch.no_grad()
def follow(net: nn.Module, linear_map: NDArray[np.float64], given: torch.Tensor) -> None:
    """Puts a linear map of the embedding into the last convolution of a MobileFaceNet and the batch norm behind it.

    Args:
        net: changed in place.
        linear_map: (E, D), from the left; the net then gives E numbers.
        given: (N, D) embeddings of some faces before, which give the batch norm the statistics of what it gets now.
    """
    layers: list[Any] = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    conv, norm = layers[-2:]
    turn, fused = torch.from_numpy(linear_map), fuse_conv_bn_eval(conv, norm)
    bias = fused.bias.double()
    seen = (given.double() - bias) @ turn.T
    conv.weight = nn.Parameter((turn @ fused.weight.flatten(1).double()).float()[:, :, None, None])
    if conv.bias is not None:
        conv.bias = nn.Parameter(torch.zeros(len(turn)))
    mean, variance = seen.mean(0), seen.var(0)
    norm.running_mean, norm.running_var = mean.float(), variance.float()
    norm.weight = nn.Parameter((variance + norm.eps).sqrt().float())
    norm.bias = nn.Parameter((mean + turn @ bias).float())


def choose(source: Path, photos: Path) -> list[str]:
    """A line for each share: genuine pairs accepted in the half of the training people that was not fitted on."""
    checkpoint, data = load_checkpoint(source), load_data(photos)
    rows = data.rows("train")
    given, labels = outputs(checkpoint.net, checkpoint.contract.input, data, rows), data.labels[rows]
    embeddings = unit_rows(given.numpy())
    people = np.random.default_rng(0).permutation(np.unique(labels))
    halves = [np.isin(labels, people[start::2]) for start in (0, 1)]
    lines = ["share  " + "  ".join(f"FMR {far}" for far in FARS for _ in halves)]
    for share in (0.0, *SHARES):
        judged = []
        for fitted in halves:
            turned = embeddings[~fitted] @ whitening(embeddings[fitted], labels[fitted], share).T
            judged.append(all_against_all(unit_rows(turned.astype(np.float32)), labels[~fitted]))
        shown = [float((half.genuine >= half.threshold(far)).mean()) for far in FARS for half in judged]
        lines.append(f"{share:5}  " + "  ".join(f"{100 * value:6.2f} %" for value in shown))
    return lines


def write(source: Path, photos: Path, output: Path, share: float = SHARE, length: int | None = None) -> Path:
    """The checkpoint with its embedding whitened within the training people of ``photos``, ``length`` numbers long."""
    checkpoint, data = load_checkpoint(source), load_data(photos)
    rows = data.rows("train")
    given = outputs(checkpoint.net, checkpoint.contract.input, data, rows)
    linear_map = whitening(unit_rows(given.numpy()), data.labels[rows], share, length)
    follow(checkpoint.net, linear_map, given)
    embedding = dataclasses.replace(checkpoint.contract.embedding, length=len(linear_map))
    contract = dataclasses.replace(checkpoint.contract, embedding=embedding)
    save_tensors(output, checkpoint.net.state_dict(), {"contract": json.loads(contract.to_json())})
    return output


def main() -> None:
    """Shows what each share is worth, or writes the whitened model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("choose", "write"):
        command = verbs.add_parser(verb)
        command.add_argument("source", type=Path, help="run folder or checkpoint")
        command.add_argument("--photos", type=Path, required=True, help="prepared, split by identities")
        if verb == "write":
            command.add_argument("-o", "--output", type=Path, required=True)
            command.add_argument("--share", type=float, default=SHARE, help="of the covariance; 0 whitens nothing")
            command.add_argument("--length", type=int, help="numbers of the embedding; as many as before if not given")
    options = parser.parse_args()
    if options.verb == "choose":
        print("\n".join(choose(options.source, options.photos)))
    else:
        print(write(options.source, options.photos, options.output, options.share, options.length))


if __name__ == "__main__":
    main()
