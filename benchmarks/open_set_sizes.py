"""FPIR and right names over gallery size and photos a person, against what was asked: open-set identification.

    python -m benchmarks.open_set_sizes MODEL --pins prepared/pins --lfw prepared/lfw --congress prepared/congress \\
        --view1 LISTS

Each is a prepared folder, or an .npz file of ``faces`` (N, 112, 112, 3) uint8 and ``names`` (N,). Everything as in an
app: the score is that of the nearest photo, the threshold the contract's for the rate and the number of photos.

Unenrolled people are those on whom no threshold was measured (``reproduce.thresholds``): every other person of Pins,
the people of LFW's View 1, members of the US Congress (without those who are in LFW). Enrolled are people of Pins,
then of View 1, then of ``--more``, drawn anew three times: where Pins' are the unenrolled ones, the other half of Pins.
A cell is one draw of one gallery against one set at one rate. Its 95 % interval is over unenrolled and enrolled people,
as both are drawn; the cell keeps its rate unless the whole interval is above it. "Right" is the share of the enrolled
people's other photos, at most 20 each, that get their own name.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import load_data
from edgeface_export.separation import mean_variance, wilson
from edgeface_runtime import Model, load
from edgeface_runtime.model import both_ways, find_model
from edgeface_runtime.thresholds import threshold_for
from reproduce.thresholds import every_other, view1_people

FARS = (1e-2, 1e-3)
DRAWS = 3
ASKED = 20


@dataclass(frozen=True, eq=False)
class People:
    """Embeddings and whose they are."""

    rows: NDArray[np.float32]
    kept: NDArray[np.float32]
    """As a gallery keeps them, with the mirror image."""
    names: NDArray[np.str_]

    def only(self, wanted: NDArray[np.bool_] | NDArray[np.int64]) -> People:
        return People(self.rows[wanted], self.kept[wanted], self.names[wanted])

    def with_photos(self, least: int) -> list[str]:
        names, counts = np.unique(self.names, return_counts=True)
        return [str(name) for name in names[counts >= least]]


def opened(path: Path, model: Model) -> People:
    """The embeddings of a prepared folder or of an .npz file."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            faces, names = file["faces"], file["names"].astype(str)
    else:
        data = load_data(path)
        faces, names = data.faces, np.array([data.identities[label] for label in data.labels])
    names = np.char.replace(names, " ", "_")  # Pins' folders have either, and LFW's people must be known by it
    return People(model.embed(faces), both_ways(model.embed, faces), names)


def gallery(
    pools: list[People], people: int, photos: int, rng: np.random.Generator
) -> tuple[People, People, frozenset[str]] | None:
    """(enrolled photos, other photos of the same people, who they are); None where there are too few people."""
    enrolled: list[People] = []
    others: list[People] = []
    chosen: list[str] = []
    for pool in pools:
        names = [name for name in pool.with_photos(photos + 1) if name not in chosen]
        for name in rng.permutation(names)[: people - len(chosen)]:
            mine = rng.permutation(np.flatnonzero(pool.names == name))
            enrolled.append(pool.only(mine[:photos]))
            others.append(pool.only(mine[photos : photos + ASKED]))
            chosen.append(str(name))
    return None if len(chosen) < people else (joined(enrolled), joined(others), frozenset(chosen))


def joined(parts: list[People]) -> People:
    rows, kept, names = zip(*((part.rows, part.kept, part.names) for part in parts), strict=True)
    return People(np.concatenate(rows), np.concatenate(kept), np.concatenate(names))


def nearest(known: People, probes: People) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """(M,) the best score of each probe, and whose photo it is."""
    scores = probes.rows @ known.kept.T
    best = scores.argmax(axis=1)
    return scores[np.arange(len(best)), best], known.names[best]


def fpir(
    scores: NDArray[np.float32], named: NDArray[np.str_], unknown: People, limit: float, enrolled: int
) -> tuple[float, float]:
    """The share of probes that get a name, and the lower end of its 95 % interval over people of both kinds."""
    _, probe, photos = np.unique(unknown.names, return_inverse=True, return_counts=True)
    _, owner = np.unique(named, return_inverse=True)
    hits = scores >= limit
    share = float(hits.mean())
    if not hits.any():
        return 0.0, 0.0
    counts = np.zeros((len(photos), enrolled))
    np.add.at(counts, (probe[hits], owner[hits]), 1)
    residuals = counts - share * photos[:, None] / enrolled
    first, second = np.divmod(np.arange(counts.size), enrolled)
    variance = mean_variance(residuals.ravel(), first, len(photos) + second) * (counts.size / len(hits)) ** 2
    return share, wilson(share, share * (1 - share) / variance)[0]


Cell = tuple[str, int, int, float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Set, people, photos a person, asked, threshold; of each draw the FPIR, its lower end and the share of right names."""


def cells(
    model: Model, sets: dict[str, tuple[People, list[People]]], sizes: list[int], each: list[int]
) -> Iterator[Cell]:
    """Each gallery size and number of photos a person, against each set, at each rate."""
    for title, (unknown, pools) in sets.items():
        for people in sizes:
            for photos in each:
                rows: dict[float, list[tuple[float, float, float]]] = {far: [] for far in FARS}
                limits = {far: threshold_for(model.contract, far, people * photos).value for far in FARS}
                for draw in range(DRAWS):
                    made = gallery(pools, people, photos, np.random.default_rng((draw, people, photos)))
                    if made is None:
                        continue
                    known, others, chosen = made
                    rest = unknown.only(~np.isin(unknown.names, sorted(chosen)))
                    best, named = nearest(known, rest)
                    found, given = nearest(known, others)
                    for far, limit in limits.items():
                        right = float(((found >= limit) & (given == others.names)).mean())
                        rows[far].append((*fpir(best, named, rest, limit, people), right))
                for far in FARS:
                    if rows[far]:
                        yield title, people, photos, far, limits[far], *np.array(rows[far]).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for option in ("--pins", "--lfw", "--congress", "--view1"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--more", type=Path, help="more people to enroll, such as prepared/celeba")
    parser.add_argument("--people", type=int, nargs="+", default=[5, 50, 105, 200])
    parser.add_argument("--photos", type=int, nargs="+", default=[1, 3, 10])
    options = parser.parse_args()
    model = load(find_model(options.model))
    pins, lfw, congress = (opened(path, model) for path in (options.pins, options.lfw, options.congress))
    lfw = lfw.only(np.isin(lfw.names, sorted(view1_people(options.view1))))
    seen = np.isin(pins.names, np.unique(pins.names[every_other(pins.names)]))
    apart = lfw.only(~np.isin(np.char.lower(lfw.names), np.char.lower(np.unique(pins.names))))
    more = [apart] + ([opened(options.more, model)] if options.more else [])
    sets = {
        "Pins": (pins.only(~seen), [pins.only(seen), *more]),
        "LFW View 1": (apart, [pins, *more]),
        "US Congress": (congress, [pins, *more]),
    }
    print("| unenrolled | people | photos each | asked, % | threshold | FPIR of three draws, % | right, % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    kept, total = 0, 0
    for title, people, photos, far, limit, shares, lows, right in cells(model, sets, options.people, options.photos):
        total += len(shares)
        kept += int((lows <= far).sum())
        said = ", ".join(
            f"{100 * share:.2f}{'' if low <= far else ' above'}" for share, low in zip(shares, lows, strict=True)
        )
        print(
            f"| {title} | {people} | {photos} | {100 * far:g} | {limit:.3f} | {said} | {100 * right.mean():.1f} |",
            flush=True,
        )
    print(f"{kept} of {total} cells keep the rate ({100 * kept / total:.1f} %)")


if __name__ == "__main__":
    main()
