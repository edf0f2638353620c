"""False matches by age, sex and origin, on photos of strangers whose file names say all three (UTKFace).

    edgeface data prepare UTKFACE prepared/utkface --labels each-its-own.csv --licence "non-commercial research"
    python -m scripts.group_rates mobilefacenet.tflite --photos prepared/utkface

Every face is taken for a person of its own: the set names nobody. The rate of a group is the share of pairs inside it
that reach the threshold of the model's contract. A pair that scores ``ONE_PERSON`` or more is left out as one person
twice, which the set has too.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import load_data
from edgeface_runtime import load
from edgeface_runtime.models import find_model

ONE_PERSON = 0.7
"""No pair of two of the people that the thresholds come from scores so high."""
AGES = ((0, 5), (6, 12), (13, 19), (20, 39), (40, 59), (60, 116))
SEXES = ("men", "women")
ORIGINS = ("White", "Black", "East Asian", "Indian", "other")
"""As the set calls them, in its order."""
RESAMPLED = 200


def groups(names: list[str]) -> dict[str, NDArray[np.bool_]]:
    """Group → (N,) which faces are in it; a name is ``age_sex_origin_…``, a few lack one and are in no group."""
    found = [re.match(r"(\d+)_([01])_([0-4])_", name) for name in names]
    ages, sexes, origins = np.array([[int(part) for part in row.groups()] if row else [-1] * 3 for row in found]).T
    inside = {f"age {low} to {high}": (ages >= low) & (ages <= high) for low, high in AGES}
    adults = ages >= 20
    inside |= {f"{sex} from 20 on": adults & (sexes == number) for number, sex in enumerate(SEXES)}
    inside |= {f"{origin}, from 20 on": adults & (origins == number) for number, origin in enumerate(ORIGINS)}
    return {"all": np.ones(len(names), bool)} | inside


def rate(scores: NDArray[np.float32], threshold: float, seed: int = 0) -> tuple[float, float, float]:
    """The share of pairs that match, and its 95 % interval by resampling the faces.

    Args:
        scores: (n, n) cosines of the faces of one group.
        threshold: that a match reaches.
        seed: of the resampling.
    """
    pairs = (scores < ONE_PERSON).astype(np.float32)
    np.fill_diagonal(pairs, 0)
    matches = pairs * (scores >= threshold)
    rng, count = np.random.default_rng(seed), len(scores)
    weights = rng.multinomial(count, np.full(count, 1 / count), RESAMPLED).astype(np.float32)
    drawn = ((weights @ matches) * weights).sum(1) / ((weights @ pairs) * weights).sum(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(matches.sum() / pairs.sum()), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photos", type=Path, required=True, help="prepared by edgeface data prepare")
    options = parser.parse_args()
    data, model = load_data(options.photos), load(find_model(options.model))
    embeddings = model.embed(data.faces)
    scores = embeddings @ embeddings.T
    asked = [(far, threshold["value"]) for far, threshold in model.contract.thresholds.items()]
    asked = sorted([(far, value) for far, value in asked if value is not None and float(far) >= 1e-4], reverse=True)
    print("| group | faces | " + " | ".join(f"FAR {far}, %" for far, _ in asked) + " |")
    print("| --- " * (2 + len(asked)) + "|")
    for name, inside in groups([Path(path).name for path in data.paths]).items():
        inner = scores[np.ix_(inside, inside)]
        cells = ["{:.3f} ({:.3f} to {:.3f})".format(*(100 * x for x in rate(inner, at))) for _, at in asked]
        print(f"| {name} | {int(inside.sum())} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
