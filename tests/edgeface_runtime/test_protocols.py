"""An app's own classes serve where a Gallery or a FaceRecognizer does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface_runtime import (
    Candidate,
    Color,
    Detector,
    Face,
    FaceEncoder,
    FaceRecognizer,
    Gallery,
    GalleryError,
    ImageLike,
    Model,
    Searchable,
    Threshold,
    in_turn,
    watch,
)
from edgeface_runtime.testing import fake_photo, fake_recognizer

PEOPLE = {"Ada": (1, 0), "Bea": (2, 0), "Cyd": (3, 0)}


class Table:
    """Embeddings in memory, and nothing of Gallery."""

    def __init__(self, model: Model, rows: dict[str, NDArray[np.float32]]) -> None:
        self.digest, self.names, self.rows = model.contract.file_sha256, list(rows), np.stack(list(rows.values()))

    def __len__(self) -> int:
        return len(self.names)

    def require(self, model: Model) -> None:
        if model.contract.file_sha256 != self.digest:
            raise GalleryError("another model's")

    def search(self, embeddings: NDArray[np.float32], k: int = 1) -> list[list[Candidate]]:
        scores = embeddings @ self.rows.T
        return [
            [Candidate(self.names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:k]] for row in scores
        ]


class Encoder:
    """Hands on what a recognizer does, and is none."""

    def __init__(self, inner: FaceRecognizer) -> None:
        self.model: Model = inner.model
        self.detector: Detector = inner.detector
        self._inner = inner

    def embed(
        self, image_or_faces: ImageLike, faces: Sequence[Face] | None = None, *, color: Color = "rgb"
    ) -> NDArray[np.float32]:
        return self._inner.embed(image_or_faces, faces, color=color)

    def threshold(self, far: float, comparisons: int = 1) -> Threshold:
        return self._inner.threshold(far, comparisons)


@pytest.fixture
def table(fake: FaceRecognizer) -> Table:
    return Table(fake.model, {name: fake.embed(fake_photo(*who), mirror=True)[0] for name, who in PEOPLE.items()})


@pytest.fixture
def filled(gallery: Gallery) -> Gallery:
    for name, who in PEOPLE.items():
        gallery.enroll(name, fake_photo(*who))
    return gallery


def test_a_store_of_ones_own_identifies_as_a_gallery_does(fake: FaceRecognizer, filled: Gallery, table: Table):
    assert isinstance(table, Searchable)
    photo = np.hstack([fake_photo(2, 1), fake_photo(9), fake_photo(1, 3)])
    mine, its = fake.identify(photo, table), fake.identify(photo, filled)
    assert sorted(str(who.name) for who in mine) == ["Ada", "Bea", "None"]
    assert [(who.name, who.box, who.threshold) for who in mine] == [(who.name, who.box, who.threshold) for who in its]
    np.testing.assert_allclose([who.score for who in mine], [who.score for who in its], atol=1e-5)


def test_a_stream_is_watched_with_it(fake: FaceRecognizer, filled: Gallery, table: Table):
    frames = [fake_photo(3, take) for take in range(20)]
    told = [
        [(event.kind, event.person.name) for result in watch(in_turn(frames), fake, store) for event in result.events]
        for store in (table, filled)
    ]
    assert told[0] == told[1] == [("appeared", None), ("named", "Cyd")]


def test_it_may_refuse_another_model(table: Table):
    with pytest.raises(GalleryError, match="another model's"):
        fake_recognizer("other").identify(fake_photo(1), table)


def test_a_gallery_enrols_with_whatever_embeds(fake: FaceRecognizer, filled: Gallery, tmp_path: Path):
    encoder = Encoder(fake)
    assert isinstance(encoder, FaceEncoder)
    with Gallery(tmp_path / "mine.gallery", encoder) as mine:
        for name, who in PEOPLE.items():
            mine.enroll(name, fake_photo(*who))
        queries = fake.embed(np.hstack([fake_photo(2, 1), fake_photo(9)]))
        assert mine.search(queries, 3) == filled.search(queries, 3)
