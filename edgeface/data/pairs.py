"""Verification protocols: which two photos are compared, and whether they show the same person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.errors import UsageError


@dataclass(frozen=True, eq=False)
class PairList:
    """P pairs of photos."""

    photos: tuple[str, ...]
    """Keys of the photos that are compared: LFW ``Name_0001``, CFP the path in its list."""
    index: NDArray[np.int64]
    """(P, 2) positions in ``photos``."""
    same: NDArray[np.bool_]
    """(P,) True where both show one person."""
    fold: NDArray[np.int64]
    """(P,) number of the fold, 0 where there is one."""


def read_lfw_pairs(path: str | Path) -> PairList:
    """LFW's pair files: View 1 (``pairsDevTrain.txt``, ``pairsDevTest.txt``) and View 2 (``pairs.txt``).

    Raises:
        UsageError: no such file, or another form.
    """
    lines = _lines(path)
    head = (
        [int(word) for word in lines[0].split()]
        if lines and lines[0].replace("\t", " ").strip("0123456789 ") == ""
        else []
    )
    if len(head) not in (1, 2):
        raise UsageError(f"{path}: line 1 is no count of pairs, as LFW's pair files have it")
    folds, count = (1, head[0]) if len(head) == 1 else (head[0], head[1])
    if len(lines) - 1 != 2 * folds * count:
        raise UsageError(f"{path}: has {len(lines) - 1} pairs, its first line says {2 * folds * count}")
    pairs, same = [], []
    for number, line in enumerate(lines[1:], 2):
        words = line.split("\t") if "\t" in line else line.split()
        try:
            first, second = (0, 0) if len(words) == 3 else (0, 2)
            numbers = (words[1], words[2]) if len(words) == 3 else (words[1], words[3])
            names = (f"{words[first]}_{int(numbers[0]):04d}", f"{words[second]}_{int(numbers[1]):04d}")
        except (IndexError, ValueError) as error:
            raise UsageError(f"{path}, line {number}: {line!r} is no pair") from error
        pairs.append(names)
        same.append(len(words) == 3)
    return _pairs(pairs, same, np.arange(len(pairs)) // (2 * count))


def read_cfp_pairs(protocol: str | Path, kind: str = "FP") -> PairList:
    """CFP's protocol folder: ``Pair_list_F.txt``, ``Pair_list_P.txt`` and ``Split/FP/01/same.txt`` … ``diff.txt``.

    Args:
        protocol: the folder ``Protocol`` of the set.
        kind: ``FF``, frontal against frontal, or ``FP``, frontal against profile.

    Raises:
        UsageError: a file is missing or has another form.
    """
    protocol = Path(protocol)
    lists = [_cfp_list(protocol / f"Pair_list_{side}.txt") for side in kind]
    pairs, same, fold = [], [], []
    for number, split in enumerate(sorted((protocol / "Split" / kind).glob("*/"))):
        for name, is_same in (("same.txt", True), ("diff.txt", False)):
            for line in _lines(split / name):
                try:
                    first, second = (numbered[int(word)] for numbered, word in zip(lists, line.split(","), strict=True))
                except (ValueError, KeyError) as error:
                    raise UsageError(f"{split / name}: {line!r} is no pair of numbers in the lists") from error
                pairs.append((first, second))
                same.append(is_same)
                fold.append(number)
    if not pairs:
        raise UsageError(f"{protocol}: no Split/{kind} in it, as CFP's protocol has")
    return _pairs(pairs, same, np.array(fold))


def find(pairs: PairList, sources: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where the photos of pairs lie in a list of faces.

    Args:
        pairs: the protocol.
        sources: of N faces, the path of the photo each came from.

    Returns:
        (Q, 2) positions in ``sources``, and (P,) True for the Q pairs both of whose photos are there.
    """
    by_path = {str(PurePosixPath(source)): row for row, source in enumerate(sources)}
    by_stem = {PurePosixPath(source).stem: row for row, source in enumerate(sources)}
    places = np.array([by_path.get(key, by_stem.get(key, -1)) for key in pairs.photos], np.int64)
    index = places[pairs.index]
    there: NDArray[np.bool_] = np.all(index >= 0, axis=1)
    return index[there], there


def _pairs(pairs: list[tuple[str, str]], same: list[bool], fold: NDArray[np.int64]) -> PairList:
    photos = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    place = {name: position for position, name in enumerate(photos)}
    index = np.array([(place[first], place[second]) for first, second in pairs], np.int64).reshape(-1, 2)
    return PairList(photos, index, np.array(same, bool), fold.astype(np.int64))


def _cfp_list(path: Path) -> dict[int, str]:
    """Number → path below the set's folder; the lists write ``../Data/Images/001/frontal/01.jpg``."""
    try:
        rows = [line.split(maxsplit=1) for line in _lines(path)]
        return {int(number): name.strip().removeprefix("../") for number, name in rows}
    except ValueError as error:
        raise UsageError(f"{path}: not lines of a number and a path") from error


def _lines(path: str | Path) -> list[str]:
    try:
        return [line for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the pair list cannot be read: {error}") from error
