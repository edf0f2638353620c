from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.data.split import SPLITS, Split, assign, share_out, split
from edgeface.data.table import COLUMNS, read_card, read_faces, write_card, write_table
from edgeface_runtime.errors import UsageError

CARD = {
    "schema": 1,
    "name": "made",
    "licence": "none",
    "layout": "folders",
    "split": None,
    "faces_sha256": "",
    "settings": {"detector": "yunet", "size": 112},
    "counts": {
        "photos": 40,
        "faces": 40,
        "identities": 2,
        "rejected": 0,
        "found_with_margin": 0,
        "duplicates": 0,
        "duplicates_across_identities": 0,
    },
    "rejected": {},
    "versions": {"edgeface": "0"},
}


def make_rows(people: dict[str, int], copies: dict[str, str] | None = None) -> list[dict[str, str]]:
    paths = [(f"faces/{name}/{number}.png", name) for name, count in people.items() for number in range(count)]
    return [
        dict.fromkeys(COLUMNS, "") | {"path": path, "identity": name, "duplicate_of": (copies or {}).get(path, "")}
        for path, name in paths
    ]


def test_paper_protocol() -> None:
    rows = make_rows({"Ann": 100, "Bob": 50, "Cy": 7})
    parts = assign(rows, Split())
    found = Counter((row["identity"], part) for row, part in zip(rows, parts, strict=True))
    # 10 % test; of the rest 12 % validation: 100 → 10, 90 · 0.12 = 10.8 → 11; 50 → 5, 5.4 → 5; 7 → 1, 0.72 → 1.
    assert [found["Ann", part] for part in SPLITS] == [79, 11, 10]
    assert [found["Bob", part] for part in SPLITS] == [40, 5, 5]
    assert [found["Cy", part] for part in SPLITS] == [5, 1, 1]
    assert assign(rows, Split(method="paper")) == parts


@pytest.mark.parametrize(
    ("each", "expected"),
    [(3, [238, 32, 30]), (4, [317, 43, 40]), (5, [396, 54, 50]), (10, [792, 108, 100])],
)
def test_identities_with_few_photos_fill_each_part_together(each: int, expected: list[int]) -> None:
    rows = make_rows({f"person {number}": each for number in range(100)})
    parts = assign(rows, Split())
    # 10 % of all faces test, 12 % of the others validate, whatever a single identity's share is.
    assert [parts.count(part) for part in SPLITS] == expected
    test = Counter(row["identity"] for row, part in zip(rows, parts, strict=True) if part == "test")
    assert max(test.values()) == -(-each // 10)
    assert assign(rows, Split(seed=1)) != parts


@given(counts=st.dictionaries(st.text(max_size=3), st.integers(1, 40)), share=st.floats(0, 0.9))
def test_a_part_gets_its_share_and_takes_nobodys_last_photo(counts: dict[str, int], share: float) -> None:
    given_each = share_out(counts, share)
    assert all(0 <= given_each[name] < count for name, count in counts.items())
    assert all(given_each[name] <= int(share * count + 1e-9) + 1 for name, count in counts.items())
    wanted = int(share * sum(counts.values()) + 0.5 + 1e-6)
    assert sum(given_each.values()) == wanted or any(
        given_each[name] == count - 1 or given_each[name] == int(share * count) for name, count in counts.items()
    )
    assert sum(given_each.values()) <= wanted


def test_identity_disjoint() -> None:
    rows = make_rows({f"person {number}": 10 for number in range(100)})
    parts = assign(rows, Split(method="identities", test=0.2, val=0.25))
    where = {
        row["identity"]: {p for r, p in zip(rows, parts, strict=True) if r["identity"] == row["identity"]}
        for row in rows
    }
    assert all(len(sides) == 1 for sides in where.values())
    assert Counter(parts) == {"train": 600, "val": 200, "test": 200}


def test_identities_that_share_a_photo_stay_together() -> None:
    copies = {f"faces/{name}/0.png": "faces/A/0.png" for name in "BCD"}
    rows = make_rows(dict.fromkeys("ABCDEFGHIJKLMNOP", 5), copies)
    for seed in range(20):
        parts = assign(rows, Split(method="identities", test=0.3, seed=seed))
        assert len({part for row, part in zip(rows, parts, strict=True) if row["identity"] in "ABCD"}) == 1


def test_k_photos_a_person() -> None:
    rows = make_rows({"Ann": 30, "Bob": 4})
    parts = assign(rows, Split(method="k", k=5))
    found = Counter((row["identity"], part) for row, part in zip(rows, parts, strict=True))
    assert found == {("Ann", "train"): 5, ("Ann", "test"): 25, ("Bob", "train"): 4}


@settings(deadline=None)
@given(
    people=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    links=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), max_size=30),
    method=st.sampled_from(["photos", "identities", "k"]),
    seed=st.integers(0, 5),
)
def test_copies_never_part(people: list[int], links: list[tuple[int, int]], method: str, seed: int) -> None:
    rows = make_rows({f"p{number}": count for number, count in enumerate(people)})
    for a, b in links:
        first, copy = sorted((a % len(rows), b % len(rows)))
        if first != copy and not rows[first]["duplicate_of"]:
            rows[copy]["duplicate_of"] = rows[first]["path"]
    firsts = {row["duplicate_of"] for row in rows}
    for row in rows:
        if row["path"] in firsts:
            row["duplicate_of"] = ""
    how = Split(method=method, k=3, seed=seed)
    parts = assign(rows, how)
    assert set(parts) <= set(SPLITS)
    assert parts == assign(rows, how)
    side = {row["path"]: part for row, part in zip(rows, parts, strict=True)}
    assert all(side[row["path"]] == side[row["duplicate_of"]] for row in rows if row["duplicate_of"])


def test_seed_draws_anew() -> None:
    rows = make_rows({"Ann": 100})
    assert assign(rows, Split(seed=1)) != assign(rows, Split(seed=2))


def test_writes_table_and_card(tmp_path: Path) -> None:
    write_table(tmp_path / "faces.csv", COLUMNS, make_rows({"Ann": 20, "Bob": 20}), tmp_path)
    write_card(tmp_path, CARD, tmp_path)
    entry = split(tmp_path, Split(seed=3))
    rows = read_faces(tmp_path)
    assert Counter(row["split"] for row in rows) == entry["faces"] == {"train": 32, "val": 4, "test": 4}
    assert read_card(tmp_path)["split"] == entry
    assert entry["identities"] == {"train": 2, "val": 2, "test": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".prepare", "dataset.json", "faces.csv"]
    assert not list((tmp_path / ".prepare").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "random"}, "--method random"),
        ({"test": 1.0}, "--test"),
        ({"val": -0.1}, "--val"),
        ({"k": 0}, "-k 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Split(**options)  # type: ignore[arg-type]


def test_folder_that_was_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data prepare"):
        split(tmp_path)
    (tmp_path / "faces.csv").write_text("path,identity\na,b\n")
    with pytest.raises(UsageError, match="no column label"):
        split(tmp_path)
