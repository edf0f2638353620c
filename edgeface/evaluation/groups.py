"""Error rates of groups of people: a net that is right on average may fail some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeface.evaluation.verification import Pairs
from edgeface_runtime import UsageError
from edgeface_runtime.tables import anything, read_table

_REMEDY = "the columns identity and group are needed"


@dataclass(frozen=True)
class GroupRates:
    """One group at the threshold of all; a rate is None where there is no such pair."""

    group: str
    people: int
    genuine: int
    """Pairs of one person."""
    fnmr: float | None
    """False-non-match rate: the share of them that is refused."""
    impostor: int
    """Pairs of two people of the group."""
    fmr: float | None
    """False-match rate: the share of them that is accepted."""


def read_groups(path: Path) -> dict[str, str]:
    """Identity → group, from a CSV file with the columns ``identity`` and ``group``.

    Raises:
        UsageError: no such file, no such columns, or an identity in two groups.
    """
    rows = read_table(path, {"identity": anything, "group": anything}, remedy=_REMEDY)
    groups: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        identity, group = row["identity"], row["group"]
        if groups.setdefault(identity, group) != group:
            raise UsageError(f"{path}, line {number}: {identity} is in two groups, {groups[identity]} and {group}")
    if not groups:
        raise UsageError(f"{path}: names no identity; the columns identity and group are needed")
    return groups


def group_rates(
    pairs: Pairs, people: Sequence[str], groups: dict[str, str], threshold: float
) -> tuple[GroupRates, ...]:
    """The rates of each group, over the pairs both of whose people are in it.

    Args:
        pairs: scored pairs.
        people: names by number in ``pairs``.
        groups: identity → group; people without one are left out.
        threshold: scores that reach it are accepted.

    Raises:
        UsageError: none of the people has a group.
    """
    names = sorted({groups[person] for person in people if person in groups})
    if not names:
        raise UsageError(f"none of the {len(people)} people that were compared has a group, such as {people[0]}")
    numbers = np.array([names.index(groups[person]) if person in groups else -1 for person in people])
    accepted = pairs.scores >= threshold
    rows = []
    for number, name in enumerate(names):
        inside = (numbers[pairs.first] == number) & (numbers[pairs.second] == number)
        genuine, impostor = accepted[inside & pairs.same], accepted[inside & ~pairs.same]
        rows.append(
            GroupRates(
                group=name,
                people=int((numbers == number).sum()),
                genuine=len(genuine),
                fnmr=float((~genuine).mean()) if len(genuine) else None,
                impostor=len(impostor),
                fmr=float(impostor.mean()) if len(impostor) else None,
            )
        )
    return tuple(rows)
