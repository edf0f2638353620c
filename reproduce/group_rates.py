"""False matches by age, sex and origin, on photos of strangers whose file names say all three (UTKFace).

    edgeface data prepare UTKFACE prepared/utkface --labels names.csv --licence "non-commercial research"
    python -m reproduce.group_rates mobilefacenet.tflite --photos prepared/utkface -o docs/images/groups.png

names.csv has the columns path and identity, and each photo's own name as its identity: the set names nobody. The rate
of a group is the share of pairs inside it that reach the threshold of the model's contract. A pair that scores
``ONE_PERSON`` or more is left out as one person twice, which the set has too.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edgeface.data.dataset import load_data
from edgeface_export.separation import share_interval
from edgeface_runtime import load
from edgeface_runtime.model import find_model

ONE_PERSON = 0.7
"""Of 1.3 million pairs of 131 held-out people of CelebA and Families in the Wild 6 score so high."""
AGES = ((0, 5), (6, 12), (13, 19), (20, 39), (40, 59), (60, 116))
SEXES = ("men", "women")
ORIGINS = ("White", "Black", "Asian", "Indian", "other")
"""As the set calls them, in its order."""


def groups(names: list[str]) -> dict[str, NDArray[np.bool_]]:
    """Group → (N,) which faces are in it; a name is ``age_sex_origin_…``, a few lack one and are in no group."""
    found = [re.match(r"(\d+)_([01])_([0-4])_", name) for name in names]
    ages, sexes, origins = np.array([[int(part) for part in row.groups()] if row else [-1] * 3 for row in found]).T
    inside = {f"age {low} to {high}": (ages >= low) & (ages <= high) for low, high in AGES}
    adults = ages >= 20
    inside |= {f"{sex} from 20 on": adults & (sexes == number) for number, sex in enumerate(SEXES)}
    inside |= {f"{origin}, from 20 on": adults & (origins == number) for number, origin in enumerate(ORIGINS)}
    return {"all": np.ones(len(names), bool)} | inside


def rate(scores: NDArray[np.float32], threshold: float) -> tuple[float, float, float]:
    """The share of pairs that match, and its 95 % interval over faces.

    Args:
        scores: (n, n) cosines of the faces of one group.
        threshold: that a match reaches.
    """
    first, second = np.triu_indices(len(scores), 1)
    of = scores[first, second]
    two = of < ONE_PERSON
    matches = of[two] >= threshold
    return float(matches.mean()), *share_interval(matches, first[two], second[two])


def draw(rows: dict[str, tuple[float, float, float]], far: float) -> Figure:
    """The rates of the groups with their intervals, beside the rate that was promised."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    value, low, high = 100 * np.array(list(rows.values())).T
    axes.errorbar(value, list(rows), xerr=(value - low, high - value), fmt="o", color="#2f7ed8")
    axes.axvline(100 * far, color="#c23b5a", label=f"promised: {100 * far:g} %")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("pairs of two people taken for one, %")
    axes.invert_yaxis()
    axes.grid(alpha=0.12)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Prints the rates, and draws them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photos", type=Path, required=True, help="prepared by edgeface data prepare")
    parser.add_argument("-o", "--output", type=Path, help="picture of the rates at a FAR of 0.001")
    options = parser.parse_args()
    data, model = load_data(options.photos), load(find_model(options.model))
    embeddings = model.embed(data.faces)
    scores = embeddings @ embeddings.T
    asked = [(far, threshold["value"]) for far, threshold in model.contract.thresholds.items()]
    asked = sorted([(far, value) for far, value in asked if value is not None and float(far) >= 1e-4], reverse=True)
    print("| group | faces | " + " | ".join(f"FAR {far}, %" for far, _ in asked) + " |")
    print("| --- " * (2 + len(asked)) + "|")
    drawn = {}
    for name, inside in groups([Path(path).name for path in data.paths]).items():
        inner = scores[np.ix_(inside, inside)]
        rates = {far: rate(inner, at) for far, at in asked}
        cells = ["{:.3f} ({:.3f} to {:.3f})".format(*(100 * x for x in found)) for found in rates.values()]
        drawn[name] = rates["0.001"]
        print(f"| {name} | {int(inside.sum())} | " + " | ".join(cells) + " |", flush=True)
    if options.output:
        draw(drawn, 0.001).savefig(options.output, dpi=100)


if __name__ == "__main__":
    main()
