from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeface.evaluation.groups import group_rates, read_groups
from edgeface.evaluation.verification import all_pairs
from edgeface_runtime import UsageError

NAMES = ("Ann", "Bo", "Cy", "Di", "Ed")
GROUPS = {"Ann": "old", "Bo": "old", "Cy": "young", "Di": "young"}


def test_rates_are_those_of_counting():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 4)
    rows = rng.normal(size=(5, 6))[labels] + rng.normal(size=(20, 6))
    embeddings = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = group_rates(all_pairs(embeddings, labels), NAMES, GROUPS, 0.4)
    assert [row.group for row in found] == ["old", "young"]
    for row in found:
        genuine, impostor = [], []
        for a in range(20):
            for b in range(a + 1, 20):
                if GROUPS.get(NAMES[labels[a]]) == GROUPS.get(NAMES[labels[b]]) == row.group:
                    (genuine if labels[a] == labels[b] else impostor).append(float(embeddings[a] @ embeddings[b]))
        assert (row.people, row.genuine, row.impostor) == (2, len(genuine), len(impostor)) == (2, 12, 16)
        assert row.fnmr == pytest.approx(sum(score < 0.4 for score in genuine) / 12)
        assert row.fmr == pytest.approx(sum(score >= 0.4 for score in impostor) / 16)
    assert {row.fnmr for row in found} != {0.0}


def test_a_group_of_one_has_no_false_matches():
    embeddings = np.eye(4, dtype=np.float32)
    pairs = all_pairs(embeddings, np.array([0, 0, 1, 1]))
    alone = group_rates(pairs, ("Ann", "Bo"), {"Ann": "a", "Bo": "b"}, 0.5)
    assert [(row.genuine, row.fnmr, row.impostor, row.fmr) for row in alone] == [(1, 1.0, 0, None)] * 2


def test_nobody_in_a_group_is_refused():
    pairs = all_pairs(np.eye(2, dtype=np.float32), np.arange(2))
    with pytest.raises(UsageError, match="none of the 2 people that were compared has a group, such as Ann"):
        group_rates(pairs, ("Ann", "Bo"), {"Zoe": "old"}, 0.5)


def test_a_file_is_read(tmp_path: Path):
    (tmp_path / "groups.csv").write_text(
        "\ufeffgroup,identity,note\nold,Ann Lee,x\nyoung,Bo,y\nold,Ann Lee,again\n", "utf-8"
    )
    assert read_groups(tmp_path / "groups.csv") == {"Ann Lee": "old", "Bo": "young"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("name,sex\nAnn,f\n", "has no column identity; the columns identity and group are needed"),
        ("identity,group\nAnn,old\nAnn,young\n", "line 3: Ann is in two groups, old and young"),
        ("identity,group\n", "names no identity"),
        ("", "has no column identity"),
        ("identity,group\nAnn\n", "line 2: has 1 of 2 cells"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | None, message: str):
    if text is not None:
        (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_groups(tmp_path / "groups.csv")
