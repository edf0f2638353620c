"""Verification protocols: which two photos are compared, and whether they show the same person."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import read_text
from edgeface_runtime.errors import UsageError

_MOST = 100_000_000
"""Bytes of a list of pairs; LFW's has 200,000."""


@dataclass(frozen=True, eq=False)
class PairList:
    """P pairs of photos."""

    photos: tuple[str, ...]
    """Keys of the photos that are compared, without an ending: LFW ``Name_0001``, CFP ``002/profile/01``."""
    people: tuple[str, ...]
    """Of each photo, whom it shows."""
    index: NDArray[np.int64]
    """(P, 2) positions in ``photos``."""
    same: NDArray[np.bool_]
    """(P,) True where both show one person."""
    fold: NDArray[np.int64]
    """(P,) number of the fold, 0 where there is one."""


def read_pairs(path: str | Path) -> PairList:
    """A pair list in the form of LFW, or in that of CALFW and CPLFW, which has no line in front.

    Raises:
        UsageError: no such file, or another form.
    """
    lines = _lines(path)
    words = lines[0].split() if lines else []
    # LFW's lists begin with one number, or two.
    return _read_two_lines(path, lines) if len(words) == 2 and not words[0].isdecimal() else read_lfw_pairs(path)


def read_lfw_pairs(path: str | Path) -> PairList:
    """LFW's pair files: View 1 (``pairsDevTrain.txt``, ``pairsDevTest.txt``) and View 2 (``pairs.txt``).

    Raises:
        UsageError: no such file, or another form.
    """
    lines = _lines(path)
    words = lines[0].split() if lines else []
    head = [int(word) for word in words] if all(re.fullmatch("[0-9]{1,9}", word) for word in words) else []
    if len(head) not in (1, 2) or 0 in head:
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
            names = (f"{words[first]}_{_number(numbers[0])}", f"{words[second]}_{_number(numbers[1])}")
        except (IndexError, ValueError) as error:
            raise UsageError(f"{path}, line {number}: {reprlib.repr(line)} is no pair") from error
        pairs.append(names)
        same.append(len(words) == 3)
    return _pairs(pairs, same, np.arange(len(pairs)) // (2 * count))


def _read_two_lines(path: str | Path, lines: Sequence[str]) -> PairList:
    """``Ann_Lee_0001.jpg 1`` and on the next line the other photo; 0 where the two are of two people.

    The lists name no folds: ten of equal size are made of each kind of pair in the list's order.
    """
    named = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != 2 or not re.fullmatch("[0-9]{1,9}", words[1]) or not PurePosixPath(words[0]).name:
            raise UsageError(f"{path}, line {number}: {reprlib.repr(line)} is not a photo's name and a number")
        named.append((str(PurePosixPath(words[0]).with_suffix("")), int(words[1])))
    if len(named) % 2:
        raise UsageError(f"{path}: has {len(named)} lines, and each pair takes two")
    pairs, same = [], []
    for number, ((first, kind), (second, other)) in enumerate(zip(named[::2], named[1::2], strict=True)):
        if kind != other:
            raise UsageError(
                f"{path}, line {2 * number + 2}: {other} after {kind}; both photos of a pair have one number"
            )
        pairs.append((first, second))
        same.append(kind > 0)
    kinds, fold = np.array(same), np.zeros(len(pairs), np.int64)
    for kind in (True, False):
        rows = np.flatnonzero(kinds == kind)
        fold[rows] = np.arange(len(rows)) * 10 // max(len(rows), 1)
    return _pairs(pairs, same, fold)


def read_cfp_pairs(protocol: str | Path, kind: str = "FP", folds: Collection[int] | None = None) -> PairList:
    """CFP's protocol folder: ``Pair_list_F.txt``, ``Pair_list_P.txt`` and ``Split/FP/01/same.txt`` … ``diff.txt``.

    S. Sengupta et al., "Frontal to Profile Face Verification in the Wild", WACV 2016.

    Args:
        protocol: the folder ``Protocol`` of the set.
        kind: ``FF``, frontal against frontal, or ``FP``, frontal against profile.
        folds: numbers of the folds to read, from 1; None reads all.

    Raises:
        UsageError: a file is missing or has another form, or there is no such fold.
    """
    protocol = Path(protocol)
    splits = {int(path.name): path for path in (protocol / "Split" / kind).glob("*/") if path.name.isdecimal()}
    if not splits:
        raise UsageError(f"{protocol}: no Split/{kind} in it, as CFP's protocol has")
    if absent := sorted(set(folds or ()) - splits.keys()):
        raise UsageError(f"{protocol}: no fold {absent[0]}; there are {min(splits)} to {max(splits)}")
    lists = [_cfp_list(protocol / f"Pair_list_{side}.txt") for side in kind]
    pairs, same, fold = [], [], []
    for number, split in sorted(splits.items()):
        if folds is not None and number not in folds:
            continue
        for name, is_same in (("same.txt", True), ("diff.txt", False)):
            for line in _lines(split / name):
                try:
                    first, second = (numbered[int(word)] for numbered, word in zip(lists, line.split(","), strict=True))
                except (ValueError, KeyError) as error:
                    raise UsageError(
                        f"{split / name}: {reprlib.repr(line)} is no pair of numbers in the lists"
                    ) from error
                pairs.append((first, second))
                same.append(is_same)
                fold.append(number)
    return _pairs(pairs, same, np.array(fold, np.int64))


def find(pairs: PairList, sources: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where the photos of pairs lie in a list of faces.

    Args:
        pairs: the protocol.
        sources: of N faces, the path of the photo each came from.

    Returns:
        (Q, 2) positions in ``sources``, and (P,) True for the Q pairs both of whose photos are there.
    """
    depth = key_depth(pairs.photos)
    rows = {key_of(source, depth): row for row, source in enumerate(sources)}
    index = np.array([rows.get(key, -1) for key in pairs.photos], np.int64)[pairs.index]
    there: NDArray[np.bool_] = np.all(index >= 0, axis=1)
    return index[there], there


def key_depth(photos: Sequence[str]) -> int:
    """How many parts of a path the keys of a list have: LFW's one, CFP's three."""
    return len(PurePosixPath(photos[0]).parts) if photos else 1


def key_of(path: str, depth: int) -> str:
    """The key of a photo's path: its last ``depth`` parts without an ending."""
    return "/".join(PurePosixPath(path).with_suffix("").parts[-depth:])


def _pairs(pairs: list[tuple[str, str]], same: list[bool], fold: NDArray[np.int64]) -> PairList:
    photos = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    place = {name: position for position, name in enumerate(photos)}
    index = np.array([(place[first], place[second]) for first, second in pairs], np.int64).reshape(-1, 2)
    # CFP has a folder a person; the other sets write the person's name into the photo's.
    people = tuple(name.split("/")[0] if "/" in name else name.rpartition("_")[0] for name in photos)
    return PairList(photos, people, index, np.array(same, bool), fold.astype(np.int64))


def _number(word: str) -> str:
    """A photo's number as it stands in the file's name.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", word):
        raise ValueError(word)
    return f"{int(word):04d}"


def _cfp_list(path: Path) -> dict[int, str]:
    """Number → key; the lists write ``1 ../Data/Images/001/frontal/01.jpg``."""
    try:
        rows = [line.split(maxsplit=1) for line in _lines(path)]
        return {int(number): key_of(name.strip(), 3) for number, name in rows}
    except ValueError as error:
        raise UsageError(f"{path}: not lines of a number and a path") from error


def _lines(path: str | Path) -> list[str]:
    try:
        text = read_text(Path(path), _MOST)
    except OSError as error:
        raise UsageError(f"{path}: the pair list cannot be read: {error.strerror or error}") from error
    if "\0" in text:
        raise UsageError(f"{path}: the pair list cannot be read: zero bytes in it, which no text has")
    return [line for line in text.splitlines() if line.strip()]
