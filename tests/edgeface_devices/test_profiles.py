from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from edgeface_devices.boards.profiles import DEFAULT, find_profile, profiles
from edgeface_devices.estimate.evidence import ncnn_times
from edgeface_runtime import UsageError

BOARDS = ["rpi-3b-plus", "rpi-4b", "rpi-4b-1500", "rpi-5", "rpi-zero-2w"]


def test_the_boards_are_there_and_every_value_has_a_source():
    assert sorted(profiles()) == BOARDS
    values = {field.name for field in fields(profiles()[DEFAULT])} - {"name", "sources"}
    for board in profiles().values():
        assert set(board.sources) == values
        assert all(len(source) > 10 for source in board.sources.values())
        assert 0 < board.threads <= board.cores
        document = json.loads(json.dumps(board.as_json()))
        assert document["memory_mib"] == list(board.memory_mib)
        assert set(document) == values | {"name", "sources"}


def test_every_board_has_rows_and_its_threads_are_the_faster_ones():
    for board in profiles().values():
        for kind in ("float", "int8"):
            _, one = ncnn_times(board.board, board.clock_mhz, kind, 1)
            _, many = ncnn_times(board.board, board.clock_mhz, kind, board.threads)
            assert len(one) >= 7
            assert one.keys() == many.keys()
            assert all(many[net] < one[net] for net in one)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0\0", "rpi-5"),
        ("Raspberry Pi 4 Model B Rev 1.5\0", "rpi-4b"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3\0", "rpi-3b-plus"),
        ("Raspberry Pi 3 Model B Rev 1.2\0", DEFAULT),
        ("Raspberry Pi Zero 2 W Rev 1.0\0", "rpi-zero-2w"),
        ("Some other board", DEFAULT),
    ],
)
def test_rpi_is_the_host_where_it_is_known(model: str, name: str, tmp_path: Path):
    (tmp_path / "model").write_text(model)
    assert find_profile("rpi", model=tmp_path / "model").name == name


def test_rpi_elsewhere_is_the_4b(tmp_path: Path):
    assert find_profile("rpi", model=tmp_path / "absent").name == DEFAULT


def test_a_name_is_never_replaced_by_the_host(tmp_path: Path):
    (tmp_path / "model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    assert find_profile("rpi-zero-2w", model=tmp_path / "model").name == "rpi-zero-2w"


@pytest.mark.parametrize(
    ("name", "board"), [("rpi4b", "rpi-4b"), ("rpi-zero2w", "rpi-zero-2w"), ("rpi-4b1500", "rpi-4b-1500")]
)
def test_hyphens_do_not_matter(name: str, board: str):
    assert find_profile(name).name == board


@pytest.mark.parametrize(("name", "near"), [("rpi4c", "rpi-4b"), ("RPI-5", "rpi-5"), ("zero-2w", "rpi-zero-2w")])
def test_an_unknown_name_shows_the_nearest(name: str, near: str):
    with pytest.raises(UsageError, match=rf"no board is called '{name}'; near it: .*\b{near}\b"):
        find_profile(name)


def test_a_name_near_nothing_shows_all():
    with pytest.raises(UsageError, match="rpi, " + ", ".join(BOARDS)):
        find_profile("§§§")
