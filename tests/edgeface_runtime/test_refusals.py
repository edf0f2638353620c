"""What is handed over by mistake is refused in one line that names it: never a TypeError or an AttributeError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeface_runtime import (
    FaceRecognizer,
    Gallery,
    ImageError,
    Source,
    TrackingConfig,
    UsageError,
    in_turn,
    load,
    load_detector,
    open_source,
    read_contract,
    watch,
)
from edgeface_runtime.checks import number, path_of, whole
from edgeface_runtime.testing import fake_photo

PHOTO = fake_photo(1)
Call = Callable[[FaceRecognizer, Gallery], Any]

MISTAKES: dict[str, Call] = {
    "far is '0.01' (str); it must be a number": lambda r, g: r.identify(PHOTO, g, "0.01"),
    "far is '0.001' (str); it must be a number": lambda r, g: r.verify(PHOTO, PHOTO, "0.001"),
    "far is None; it must be a number": lambda r, g: r.threshold(None),
    "threshold is '0.5' (str); it must be a number": lambda r, g: r.identify(PHOTO, g, threshold="0.5"),
    "threshold is a list; it must be a number": lambda r, g: r.verify(PHOTO, PHOTO, threshold=[0.5]),
    "the gallery is 'people.gallery' (str); open one with Gallery(": lambda r, g: r.identify(PHOTO, "people.gallery"),
    "the gallery is None; open one with Gallery(": lambda r, g: r.identify(PHOTO, None),
    "the gallery is a Contract; open one with Gallery(": lambda r, g: r.identify(PHOTO, r.model.contract),
    "the gallery is a SimpleNamespace; open one with Gallery(": lambda r, g: r.identify(
        PHOTO, SimpleNamespace(require=lambda model: None)
    ),
    "faces is a Face; it must be a list of Face": lambda r, g: r.embed(PHOTO, r.faces(PHOTO)[0]),
    "faces is a list; it must be a list of Face": lambda r, g: r.identify(PHOTO, g, faces=[(0, 0, 9, 9)]),
    "threads is '2' (str); it must be a whole number": lambda r, g: FaceRecognizer(threads="2"),
    "threads is 1.5 (float); it must be a whole number": lambda r, g: load(threads=1.5),
    "threads is None; it must be a whole number": lambda r, g: load_detector(threads=None),
    "threads is 100000; it must be at most 1024": lambda r, g: load_detector(threads=100_000),
    "threads is 1025; it must be at most": lambda r, g: load(threads=1025),
    "the detector is 3 (int); give yunet or blazeface or mtcnn": lambda r, g: load_detector(3),
    "the detector is None; give yunet or": lambda r, g: load_detector(None),
    "model is 3 (int); it must be a path": lambda r, g: load(3),
    "model is a Contract; it must be a path": lambda r, g: FaceRecognizer(r.model.contract),
    "the model file is None; it must be a path": lambda r, g: read_contract(None),
    "the detector is 3 (int); give a name": lambda r, g: FaceRecognizer(r.model, 3),
    "the gallery is None; it must be a path": lambda r, g: Gallery(None),
    "the recognizer is a PosixPath; make one with": lambda r, g: Gallery("g", Path("net.onnx")),
    "the recognizer is a Model; make one with": lambda r, g: Gallery.open("g", r.model),
    "a person's name is text, not None": lambda r, g: g.enroll(None, PHOTO),
    "a person's name is text, not a PosixPath": lambda r, g: g.remove(Path("Ada")),
    "a person's name is text, not 7 (int)": lambda r, g: g.rename("Ada", 7),
    "photo is '1' (str); it must be a whole number": lambda r, g: g.remove("Ada", "1"),
    "k is '1' (str); it must be a whole number": lambda r, g: g.search(r.embed(PHOTO), "1"),
    "embeddings is a list; it must be an array (N, 64)": lambda r, g: g.search(r.embed(PHOTO).tolist()),
    "embeddings are float32 (64,)": lambda r, g: g.search(r.embed(PHOTO)[0]),
    "embeddings are <U32 (1, 64)": lambda r, g: g.search(r.embed(PHOTO).astype(str)),
    "the file to write is None; it must be a path": lambda r, g: g.export(None),
    "the source is None; it must be a path": lambda r, g: open_source(None),
    "fps is '25' (str); it must be a number": lambda r, g: in_turn([PHOTO], "25"),
    "fps is 0; it must be above 0": lambda r, g: in_turn([PHOTO], 0),
    "images is None; it must be a series of arrays": lambda r, g: in_turn(None),
    "frames is None; give the frames of open_source or in_turn": lambda r, g: list(watch(None, r, g)),
    "frames is a Source; give the frames of": lambda r, g: list(watch(Source("video", iter(()), 25), r, g)),
    "every is '3' (str); it must be a whole number": lambda r, g: TrackingConfig(every="3"),
    "hits is 2.5 (float); it must be a whole number": lambda r, g: TrackingConfig(hits=2.5),
    "overlap is '0.3' (str); it must be a number": lambda r, g: TrackingConfig(overlap="0.3"),
    "patience is None; it must be a number": lambda r, g: TrackingConfig(patience=None),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_named(message: str, fake: FaceRecognizer, gallery: Gallery) -> None:
    gallery.enroll("Ada", PHOTO)
    with pytest.raises(UsageError) as caught:
        MISTAKES[message](fake, gallery)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("picture", [None, [PHOTO], 7, PHOTO / 255, PHOTO.tolist(), object()])
@pytest.mark.parametrize(
    "call",
    [
        lambda r, g, picture: r.faces(picture),
        lambda r, g, picture: r.embed(picture),
        lambda r, g, picture: r.model.embed(picture),
        lambda r, g, picture: r.verify(PHOTO, picture),
        lambda r, g, picture: r.identify(picture, g),
        lambda r, g, picture: g.enroll("Bea", picture),
        lambda r, g, picture: list(watch(in_turn([picture]), r, g)),
    ],
    ids=["faces", "embed", "Model.embed", "verify", "identify", "enroll", "watch"],
)
def test_what_is_no_picture_is_one_error_everywhere(
    call: Callable[..., Any], picture: Any, fake: FaceRecognizer, gallery: Gallery
) -> None:
    with pytest.raises(ImageError):
        call(fake, gallery, picture)


def test_numbers_of_numpy_are_numbers(fake: FaceRecognizer, gallery: Gallery) -> None:
    gallery.enroll("Ada", PHOTO)
    assert fake.identify(PHOTO, gallery, np.float32(0.01))[0].name == "Ada"
    assert len(gallery.search(fake.embed(PHOTO), np.int64(1))[0]) == 1
    assert (number("far", np.float16(0.5)), whole("k", np.uint8(3)), path_of("a", "b")) == (0.5, 3, Path("b"))


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000, b"x" * 10_000, 10**400, np.zeros(10_000), list(range(10_000))],
    ids=["text", "bytes", "a large number", "an array", "a list"],
)
def test_a_refusal_is_short(value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        number("it", value)
    assert len(str(caught.value)) < 120
