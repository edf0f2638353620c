import os
from pathlib import Path

import pytest
from PIL import Image

from edgeface.data.readers import read, read_labels
from edgeface_runtime.errors import UsageError


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def listed(folder: Path, **options: object) -> dict[str, str]:
    return {photo.source: photo.identity for photo in read(folder, **options).photos}  # type: ignore[arg-type]


def test_folder_per_identity(tmp_path: Path) -> None:
    for name in ("Ann/2.jpg", "Ann/1.PNG", "Bob/old/3.jpg"):
        photo(tmp_path / name)
    assert listed(tmp_path) == {"Ann/1.PNG": "Ann", "Ann/2.jpg": "Ann", "Bob/old/3.jpg": "Bob"}


def test_two_levels_name_the_identity(tmp_path: Path) -> None:
    photo(tmp_path / "F0002/MID1/1.jpg")
    photo(tmp_path / "F0002/MID2/1.jpg")
    photo(tmp_path / "F0003/stray.jpg")
    listing = read(tmp_path, depth=2)
    assert [photo.identity for photo in listing.photos] == ["F0002/MID1", "F0002/MID2"]
    assert [(skip.source, skip.reason) for skip in listing.skipped] == [("F0003/stray.jpg", "no identity")]


def test_lfw_nested_and_flat_agree(tmp_path: Path) -> None:
    for name in ("Al_Gore_0001", "Al_Gore_0002", "Bo_0001"):
        photo(tmp_path / "nested" / name[:-5] / f"{name}.jpg")
        photo(tmp_path / "flat" / f"{name}.jpg")
    nested, flat = listed(tmp_path / "nested"), listed(tmp_path / "flat")
    assert {Path(source).name: identity for source, identity in nested.items()} == flat
    assert flat == {"Al_Gore_0001.jpg": "Al_Gore", "Al_Gore_0002.jpg": "Al_Gore", "Bo_0001.jpg": "Bo"}


def test_flat_folder_with_csv_names_what_is_missing(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(tmp_path / "photos" / name)
    labels = tmp_path / "labels.csv"
    labels.write_text("Path,Identity,age\na.jpg,Ann,3\nb.jpg,Bob,4\ngone.jpg,Ann,5\n")
    listing = read(tmp_path / "photos", labels=labels)
    assert {photo.source: photo.identity for photo in listing.photos} == {"a.jpg": "Ann", "b.jpg": "Bob"}
    assert [(skip.source, skip.reason) for skip in listing.skipped] == [
        ("c.jpg", "no identity"),
        ("gone.jpg", "absent"),
    ]


def test_celeba_identity_file(tmp_path: Path) -> None:
    photo(tmp_path / "000001.jpg")
    labels = tmp_path / "identity_CelebA.txt"
    labels.write_text("000001.jpg 2880\n000002.jpg 2937\n")
    assert listed(tmp_path, labels=labels) == {"000001.jpg": "2880"}
    assert read_labels(labels)["000002.jpg"] == "2937"


@pytest.mark.parametrize("content", ["", "one\n", "a,b\n1,2\n", "x.jpg 1 2\n"])
def test_labels_of_another_form(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(UsageError, match="neither a CSV"):
        read_labels(tmp_path / "labels.txt")


def test_labels_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"path,identity\n\xff,x\n")
    for path in (tmp_path / "labels.csv", tmp_path / "absent.csv"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_labels(path)


def test_identities_cannot_leave_the_folder(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("path,identity\na.jpg,../../etc/\x07x\n")
    assert listed(tmp_path, labels=labels) == {"a.jpg": "_/_/etc/_x"}


def test_other_files_are_named(tmp_path: Path) -> None:
    photo(tmp_path / "Ann/1.jpg")
    (tmp_path / "Ann/notes.txt").write_text("x")
    (tmp_path / "Ann/.DS_Store").write_text("x")
    os.mkfifo(tmp_path / "Ann/pipe.jpg")
    listing = read(tmp_path)
    assert {skip.source: skip.reason for skip in listing.skipped} == {
        "Ann/notes.txt": "not a photo",
        "Ann/.DS_Store": "not a photo",
        "Ann/pipe.jpg": "not a photo",
    }


def test_link_loops_end_and_are_named(tmp_path: Path) -> None:
    photo(tmp_path / "Ann/1.jpg")
    (tmp_path / "Ann/up").symlink_to(tmp_path)
    (tmp_path / "Ann/self.jpg").symlink_to(tmp_path / "Ann/self.jpg")
    (tmp_path / "Ann/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    listing = read(tmp_path)
    assert [photo.source for photo in listing.photos] == ["Ann/1.jpg"]
    assert {skip.source: skip.reason for skip in listing.skipped} == {
        "Ann/up": "link loop",
        "Ann/self.jpg": "link loop",
        "Ann/gone.jpg": "unreadable",
    }


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    photo(tmp_path / "elsewhere/1.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/Ann").symlink_to(tmp_path / "elsewhere")
    assert listed(tmp_path / "set") == {"Ann/1.jpg": "Ann"}


def test_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "Ann/1.jpg")
    photo(tmp_path / "Bob/1.jpg")
    (tmp_path / "Bob").chmod(0)
    if os.geteuid() == 0:  # root may read everything, so the refusal is acted
        real = os.scandir

        def refuse(path: str) -> object:
            if Path(path).name == "Bob":
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", refuse)
    listing = read(tmp_path)
    (tmp_path / "Bob").chmod(0o755)
    assert [photo.source for photo in listing.photos] == ["Ann/1.jpg"]
    assert [(skip.source, skip.reason, skip.detail) for skip in listing.skipped] == [
        ("Bob", "unreadable folder", "Permission denied")
    ]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/Ren\xe9"
    Path(os.fsdecode(folder)).mkdir()
    photo(Path(os.fsdecode(folder + b"/caf\xe9.png")))
    (found,) = read(tmp_path).photos
    assert (found.source, found.identity) == ("Ren\\xe9/caf\\xe9.png", "Ren\\xe9")
    assert found.path.is_file()


@pytest.mark.parametrize("make", ["nothing", "empty", "no photo", "flat"])
def test_folders_without_people(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "set"
    if make != "nothing":
        folder.mkdir()
    if make == "no photo":
        (folder / "a.txt").write_text("x")
    if make == "flat":
        photo(folder / "holiday.jpg")
    expected = {
        "nothing": "no such folder",
        "empty": "no photo in it",
        "no photo": "no photo in it",
        "flat": "--labels",
    }
    with pytest.raises(UsageError, match=expected[make]):
        read(folder)


def test_lfw_view_1(shared: Path) -> None:
    listing = read(shared / "data/lfw/images")
    assert len(listing.photos) == 4992
    assert len({photo.identity for photo in listing.photos}) == 3095
