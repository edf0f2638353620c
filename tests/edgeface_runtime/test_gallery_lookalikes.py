"""What ``check_gallery`` says of people who look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import FaceRecognizer, Gallery, check_gallery, import_gallery
from edgeface_runtime.testing import fake_recognizer


def two_people(path: Path, alike: float, names: tuple[str, str], photos: int = 6, own: float = 0.6) -> None:
    """A gallery of two people whose photos score ``own`` with their own and ``alike`` of it with the other's."""
    rng = np.random.default_rng(0)
    noise, _ = np.linalg.qr(rng.normal(size=(64, 2 * photos + 2)))
    two = alike * noise[:, 0] + np.sqrt(1 - alike**2) * noise[:, 1]
    people = np.repeat([noise[:, 0], two], photos, axis=0)
    rows = np.sqrt(own) * people + np.sqrt(1 - own) * noise[:, 2:].T
    source = path.with_suffix(".npz")
    np.savez(source, names=np.repeat(names, photos), embeddings=rows.astype(np.float32))
    import_gallery(source, path, fake_recognizer().model)


@pytest.mark.parametrize(("share", "found"), [(0.7, []), (0.98, [("two_names", "Ada", "Bea")])])
def test_two_who_are_alike_are_no_person_under_two_names(
    path: Path, fake: FaceRecognizer, share: float, found: list[tuple[str, str, str]]
):
    two_people(path, share, ("Ada", "Bea"))
    with Gallery(path, fake) as gallery:
        faults = check_gallery(gallery, fake).faults
        assert [(fault.kind, fault.name, fault.other) for fault in faults] == found


@pytest.mark.parametrize(("share", "found"), [(0.58, ["two_people"]), (0.7, [])])
def test_brothers_under_one_name_are_two_people_however_alike(
    path: Path, fake: FaceRecognizer, share: float, found: list[str]
):
    assert share * 0.9 > fake.threshold(0.01).value, "what two photos of one person score"
    two_people(path, share, ("Ada", "Ada"), own=0.9)
    with Gallery(path, fake) as gallery:
        assert [fault.kind for fault in check_gallery(gallery, fake).faults] == found


def test_a_photo_as_near_to_a_lookalike_as_to_its_own_is_no_wrong_name(path: Path, fake: FaceRecognizer):
    two_people(path, 0.4, ("Ada", "Bea"))
    with Gallery(path, fake) as gallery:
        photos, rows = gallery.contents()
        ada = [row for row, photo in enumerate(photos) if photo.name == "Ada"]
        between = rows.mean(axis=0) + 0.02 * (rows[len(ada) :].mean(axis=0) - rows[: len(ada)].mean(axis=0))
        between /= np.linalg.norm(between)
        source = path.with_name("one.npz")
        np.savez(source, names=np.array(["Ada"]), embeddings=between[None])
        assert gallery.merge(source, force=True).added == 1
        rows = gallery.contents()[1]
        own, other = between @ rows[: len(ada)].mean(axis=0), between @ rows[len(ada) + 1 :].mean(axis=0)
        assert own < other
        assert check_gallery(gallery, fake).faults == []
