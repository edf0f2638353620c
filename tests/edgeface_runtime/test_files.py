from __future__ import annotations

from pathlib import Path

import pytest

from edgeface_runtime.files import replacing


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_file_is_replaced_whole_when_the_block_ends_well(tmp_path: Path, elsewhere: bool):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = tmp_path / "text.csv"
    path.write_text("old")
    with replacing(path, scratch if elsewhere else None) as part:
        assert part.suffix == ".csv"
        assert part.parent == (scratch if elsewhere else tmp_path)
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert not part.exists()


def test_a_block_that_fails_leaves_the_file_before_it_and_nothing_beside(tmp_path: Path):
    path = tmp_path / "text"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [item.name for item in tmp_path.iterdir()] == ["text"]
    assert path.read_text() == "old"
