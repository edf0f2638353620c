"""Frames with names drawn into them, and the video that is made of them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface import drawing
from edgeface_runtime import Frame, Person, open_source


def test_labels_stay_inside_the_frame():
    pixels = np.full((120, 160, 3), 128, np.uint8)
    for box in ((-20.0, -20.0, 40.0, 40.0), (130.0, 90.0, 220.0, 190.0), (50.0, 60.0, 40.0, 50.0)):
        picture = drawing.drawn(pixels, [Person(1, "Ada", 0.9, box, 5)])
        assert (picture.shape, picture.dtype) == (pixels.shape, np.uint8)
        assert (picture > 180).all(axis=2).sum() > 20  # the letters
    assert (drawing.drawn(pixels, []) == pixels).all()
    assert (pixels == 128).all()


def test_a_frame_written_but_not_counted_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where Ctrl-C comes right after OpenCV has written."""
    pytest.importorskip("cv2")
    cv2 = drawing.opencv()
    real, pixels = cv2.VideoWriter, np.zeros((64, 64, 3), np.uint8)
    written = []

    class Interrupted:
        def __init__(self, *args: object) -> None:
            self.inner = real(*args)
            self.release = self.inner.release

        def write(self, picture: np.ndarray) -> None:
            self.inner.write(picture)
            written.append(picture)
            if len(written) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "VideoWriter", Interrupted)
    with drawing.writer(tmp_path / "out.mp4", 10.0, live=False) as write, contextlib.suppress(KeyboardInterrupt):
        for index in range(5):
            write(Frame(index, index / 10, pixels), pixels)
    assert len(list(open_source(tmp_path / "out.mp4").frames)) == 3


def test_a_picture_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def save(_: Image.Image, file: Path | io.BytesIO, **options: object) -> None:
        file.write(b"half") if isinstance(file, io.BytesIO) else file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    frame = Frame(0, 0.0, np.zeros((8, 8, 3), np.uint8))
    with contextlib.suppress(KeyboardInterrupt), drawing.writer(tmp_path / "out", 10.0, live=False) as write:
        write(frame, frame.pixels)
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / ".000000.99999999.edgeface.jpg").touch()  # what a killed run has left
    with drawing.writer(tmp_path / "again", 10.0, live=False):
        assert list((tmp_path / "again").iterdir()) == []
