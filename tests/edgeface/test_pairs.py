from pathlib import Path

import numpy as np
import pytest

from edgeface.data.pairs import find, read_cfp_pairs, read_lfw_pairs, read_pairs
from edgeface_runtime.errors import UsageError


def test_view_1(tmp_path: Path) -> None:
    file = tmp_path / "pairsDevTest.txt"
    file.write_text("2\nAnn\t1\t3\nBo_Li\t2\t4\nAnn\t1\tCy\t1\nCy\t12\tBo_Li\t2\n")
    pairs = read_lfw_pairs(file)
    named = [(pairs.photos[a], pairs.photos[b]) for a, b in pairs.index]
    assert named == [
        ("Ann_0001", "Ann_0003"),
        ("Bo_Li_0002", "Bo_Li_0004"),
        ("Ann_0001", "Cy_0001"),
        ("Cy_0012", "Bo_Li_0002"),
    ]
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.fold.tolist() == [0, 0, 0, 0]
    assert len(set(pairs.photos)) == len(pairs.photos)


def test_view_2_has_folds(tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text("2\t1\nA\t1\t2\nA\t1\tB\t1\nC\t1\t2\nC\t1\tD\t1\n")
    pairs = read_lfw_pairs(file)
    assert pairs.fold.tolist() == [0, 0, 1, 1]
    assert pairs.same.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1"),
        ("people\nA\t1\t2\n", "line 1"),
        ("2\nA\t1\t2\n", "has 1 pairs, its first line says 4"),
        ("1\nA\t1\t2\nA\tone\tB\t1\n", "line 3"),
        ("1\nA\t1\nA\t1\tB\t1\n", "line 2"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_lfw_pairs(tmp_path / "pairs.txt")


def test_absent_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_lfw_pairs(tmp_path / "pairs.txt")


def test_two_lines_a_pair(tmp_path: Path) -> None:
    """CALFW and CPLFW: the number is 0 where the two photos are of two people."""
    file = tmp_path / "pairs_CALFW.txt"
    genuine = [f"Ann_Lee_{number:04d}.jpg 1" for number in range(1, 41)]
    impostor = [f"{name}_0001.jpg 0" for number in range(20) for name in ("J.J._Abe", f"Bo{number}")]
    file.write_text("\n".join(genuine + impostor) + "\n")
    pairs = read_pairs(file)
    assert pairs.same.tolist() == [True] * 20 + [False] * 20
    assert pairs.photos[pairs.index[1, 1]] == "Ann_Lee_0004"
    assert [pairs.people[row] for row in pairs.index[21]] == ["J.J._Abe", "Bo1"]
    assert pairs.fold.tolist() == [fold for _ in range(2) for fold in range(10) for _ in range(2)]
    index, there = find(pairs, ["J.J._Abe_0001.jpg", "deep/Bo1_0001.png"])
    assert index.tolist() == [[0, 1]]
    assert np.flatnonzero(there).tolist() == [21]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A_1.jpg 1\n", "has 1 lines, and each pair takes two"),
        ("A_1.jpg 1\nB_1.jpg 0\n", "line 2: 0 after 1"),
        ("A_1.jpg 1\nA_2.jpg one\n", "line 2: 'A_2.jpg one' is not a photo's name"),
        ("A_1.jpg 1\nA_2.jpg 1 1\n", "line 2"),
    ],
)
def test_broken_lists_of_two_lines_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_pairs(tmp_path / "pairs.txt")


def test_lfw_s_form_is_told_from_the_other(tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text("2\t1\nA\t1\t2\nA\t1\tB\t1\nC\t1\t2\nC\t1\tD\t1\n")
    assert read_pairs(file).photos == read_lfw_pairs(file).photos


def test_cfp(tmp_path: Path) -> None:
    (tmp_path / "Pair_list_F.txt").write_text(
        "1 ../Data/Images/001/frontal/01.jpg\n2 ../Data/Images/002/frontal/01.jpg\n"
    )
    (tmp_path / "Pair_list_P.txt").write_text(
        "1 ../Data/Images/001/profile/01.jpg\n2 ../Data/Images/002/profile/01.jpg\n"
    )
    for number in ("01", "02"):
        split = tmp_path / "Split/FP" / number
        split.mkdir(parents=True)
        (split / "same.txt").write_text("1,1\n")
        (split / "diff.txt").write_text("2,1\n")
    pairs = read_cfp_pairs(tmp_path, "FP")
    assert pairs.fold.tolist() == [1, 1, 2, 2]
    assert pairs.same.tolist() == [True, False, True, False]
    assert [pairs.photos[row] for row in pairs.index[1]] == ["002/frontal/01", "001/profile/01"]
    assert [pairs.people[row] for row in pairs.index[1]] == ["002", "001"]
    # Where the photos lie below the set's folder differs from copy to copy.
    index, there = find(pairs, ["Images/test/001/profile/01.jpg", "002/frontal/01.png", "train/001/frontal/01.jpg"])
    assert there.tolist() == [True, True, True, True]
    assert index.tolist() == [[2, 0], [1, 0], [2, 0], [1, 0]]
    assert read_cfp_pairs(tmp_path, "FP", folds=[2]).fold.tolist() == [2, 2]
    with pytest.raises(UsageError, match="no fold 3; there are 1 to 2"):
        read_cfp_pairs(tmp_path, "FP", folds=[1, 3])
    with pytest.raises(UsageError, match="Split/FF"):
        read_cfp_pairs(tmp_path, "FF")
    (tmp_path / "Split/FP/01/same.txt").write_text("1,9\n")
    with pytest.raises(UsageError, match="'1,9' is no pair"):
        read_cfp_pairs(tmp_path, "FP")


def test_find_leaves_out_pairs_with_a_missing_photo(tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text("1\nA\t1\t2\nA\t1\tB\t1\n")
    index, there = find(read_lfw_pairs(file), ["B/B_0001.jpg", "A/A_0001.jpg"])
    assert index.tolist() == [[1, 0]]
    assert there.tolist() == [False, True]


@pytest.mark.parametrize(("name", "count"), [("pairsDevTrain", 2200), ("pairsDevTest", 1000), ("pairs", 6000)])
def test_lfw_lists(shared: Path, name: str, count: int) -> None:
    pairs = read_lfw_pairs(shared / f"data/lfw/{name}.txt")
    assert len(pairs.index) == count
    assert pairs.same.sum() == count // 2
    assert np.array_equal(np.bincount(pairs.fold), [600] * 10 if name == "pairs" else [count])
    if name != "pairs":
        sources = [path.name for path in (shared / "data/lfw/images").iterdir()]
        assert find(pairs, sources)[1].all()
