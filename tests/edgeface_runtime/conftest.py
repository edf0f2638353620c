"""A gallery and a recognizer that needs no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeface_runtime import FaceRecognizer, Gallery
from edgeface_runtime.testing import fake_recognizer


@pytest.fixture
def fake() -> FaceRecognizer:
    return fake_recognizer()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@pytest.fixture
def gallery(path: Path, fake: FaceRecognizer) -> Iterator[Gallery]:
    with Gallery.open(path, fake) as opened:
        yield opened
