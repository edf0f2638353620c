"""``data split``: which faces train, which choose, which are measured on. Copies never lie on both sides."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeface.data.dataset import SPLITS, share_out
from edgeface.data.table import COLUMNS, SplitCard, SplitRule, read_card, read_faces, write_card, write_table
from edgeface_runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Split:
    """How to split."""

    method: str = "photos"
    """``photos`` or ``paper``: every identity in every part, the paper's protocol. ``identities``: each identity
    in one part. ``k``: ``k`` photos of each identity train, the others test."""
    test: float = 0.1
    """Part of all faces that tests, 0 to 1."""
    val: float = 0.12
    """Part of the other faces that validates, 0 to 1."""
    k: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise UsageError(f"--method {self.method}: choose from {', '.join(_METHODS)}")
        for name, value in (("--test", self.test), ("--val", self.val)):
            if not 0 <= value < 1:
                raise UsageError(f"{name} {value}: not a part from 0 to 1")
        if self.k < 1:
            raise UsageError(f"-k {self.k}: at least one photo of each identity must train")


def split(folder: str | Path, how: Split | None = None) -> SplitCard:
    """Writes the column ``split`` of a prepared folder, and the rule and its counts into the card.

    Returns:
        The card's entry: rule, faces and identities in each part.

    Raises:
        UsageError: the folder was not prepared, or cannot be written.
    """
    folder, how = Path(folder), how or Split()
    rows, card = read_faces(folder), read_card(folder)
    parts = assign(rows, how)
    for row, part in zip(rows, parts, strict=True):
        row["split"] = part
    faces = {part: parts.count(part) for part in SPLITS}
    identities = {part: len({row["identity"] for row in rows if row["split"] == part}) for part in SPLITS}
    rule: SplitRule = {"method": how.method, "seed": how.seed}
    rule |= {"k": how.k} if how.method == "k" else {"test": how.test, "val": how.val}
    entry: SplitCard = {**rule, "faces": faces, "identities": identities}
    try:
        scratch = folder / ".prepare"
        scratch.mkdir(exist_ok=True)
        card |= {"split": entry, "faces_sha256": write_table(folder / "faces.csv", COLUMNS, rows, scratch)}
        write_card(folder, card, scratch)
    except OSError as error:
        raise UsageError(f"{folder}: cannot write: {error.strerror}; mend it and run the same command again") from error
    return entry


def assign(rows: Sequence[Mapping[str, str]], how: Split) -> list[str]:
    """``train``, ``val`` or ``test`` for each row of ``faces.csv``; depends on nothing but its arguments.

    Rows that are copies of one another (``duplicate_of``) go to one part together, even where they
    bear two names.
    """
    # The order is drawn from each unit's first path, so that photos added later move no other photo much.
    units = sorted(_units(rows).items(), key=lambda unit: (random.Random(f"{how.seed}:{unit[0]}").random(), unit[0]))
    parts = [""] * len(rows)
    for members, part in _METHODS[how.method]([members for _, members in units], rows, how):
        for row in members:
            parts[row] = part
    return parts


def _units(rows: Sequence[Mapping[str, str]]) -> dict[str, list[int]]:
    """Path of the first copy → rows that must stay together."""
    units: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        units.setdefault(row["duplicate_of"] or row["path"], []).append(number)
    return units


_Parts = Iterable[tuple[Sequence[int], str]]


def _by_photos(units: list[list[int]], rows: Sequence[Mapping[str, str]], how: Split) -> _Parts:
    counts = Counter(row["identity"] for row in rows)
    test = share_out(counts, how.test, how.seed)
    val = share_out({identity: count - test[identity] for identity, count in counts.items()}, how.val, how.seed)
    return _fill(units, rows, (("test", test), ("val", val)), "train")


def _by_k(units: list[list[int]], rows: Sequence[Mapping[str, str]], how: Split) -> _Parts:
    train = {row["identity"]: how.k for row in rows}
    return _fill(units, rows, (("train", train),), "test")


def _by_identities(units: list[list[int]], rows: Sequence[Mapping[str, str]], how: Split) -> _Parts:
    """Identities that share a copied photo are one person as far as a split can tell."""
    leader: dict[str, str] = {}

    def lead(identity: str) -> str:
        while leader.setdefault(identity, identity) != identity:
            identity = leader[identity]
        return identity

    for members in units:
        names = [lead(rows[member]["identity"]) for member in members]
        for name in names:
            leader[lead(name)] = lead(names[0])
    people: dict[str, list[int]] = {}
    for members in units:
        people.setdefault(lead(rows[members[0]]["identity"]), []).extend(members)
    limits = {"test": how.test * len(rows), "val": how.val * (1 - how.test) * len(rows)}
    filled = Counter[str]()
    for name in sorted(people, key=lambda name: (random.Random(f"{how.seed}:{name}").random(), name)):
        size = len(people[name])
        part = next((part for part, limit in limits.items() if filled[part] + size / 2 <= limit), "train")
        filled[part] += size
        yield people[name], part


_METHODS = {"photos": _by_photos, "paper": _by_photos, "identities": _by_identities, "k": _by_k}


def _fill(
    units: list[list[int]],
    rows: Sequence[Mapping[str, str]],
    wanted: tuple[tuple[str, dict[str, int]], ...],
    rest: str,
) -> _Parts:
    """Each unit goes to the first part that still wants that many faces of all its identities."""
    for members in units:
        need = Counter(rows[member]["identity"] for member in members)
        for part, open_places in wanted:
            if all(open_places[identity] >= count for identity, count in need.items()):
                for identity, count in need.items():
                    open_places[identity] -= count
                yield members, part
                break
        else:
            yield members, rest
