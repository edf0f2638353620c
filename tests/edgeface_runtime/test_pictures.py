"""The pictures that people have: phones' files, uploads, open files, cameras' frames; and what is no picture."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import (
    FaceRecognizer,
    Frame,
    Gallery,
    ImageError,
    UsageError,
    in_turn,
    open_rgb,
    open_source,
    watch,
)
from edgeface_runtime.images import SUFFIXES
from edgeface_runtime.testing import fake_photo

PHOTO = fake_photo(3)
BGR = PHOTO[..., ::-1]
# As a phone's file begins (ISO/IEC 14496-12, ftyp), without anything after it.
HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_large_photo_holds_the_memory_of_its_pixels(tmp_path: Path):
    look = (
        "import os, sys; from pathlib import Path; from edgeface_runtime import open_photo; from PIL import Image\n"
        "held = lambda: int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')\n"
        "Image.preinit(); before = held(); photo = open_photo(sys.argv[1]); print(held() - before)"
    )
    for kind in ("png", "webp"):
        Image.new("RGB", (3000, 3000)).save(path := tmp_path / f"large.{kind}")
        said = subprocess.run([sys.executable, "-c", look, path], capture_output=True, text=True, check=True).stdout
        assert int(said) < 1.6 * 4 * 3000 * 3000


def encoded(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PHOTO).save(out, kind, **options)
    return out.getvalue()


PNG = encoded("PNG")
# Without fine detail, which lossy files change.
SMOOTH = Image.fromarray(PHOTO).resize((8, 12)).resize((60, 90), Image.Resampling.BICUBIC)


class Pipe(io.RawIOBase):
    """Bytes that come once, as from a socket."""

    def __init__(self) -> None:
        self.rest = io.BytesIO(PNG)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.rest.readinto(buffer)


@contextlib.contextmanager
def opened(tmp_path: Path, mode: str = "rb") -> Iterator[Any]:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    with path.open(mode) as file:
        yield file


def test_bytes_of_every_kind() -> None:
    for source in (PNG, bytearray(PNG), memoryview(PNG), memoryview(PNG)[:], io.BytesIO(PNG)):
        np.testing.assert_array_equal(open_rgb(source), PHOTO)


def test_files_that_are_open(tmp_path: Path) -> None:
    at_its_end = io.BytesIO()
    Image.fromarray(PHOTO).save(at_its_end, "PNG")
    with opened(tmp_path) as file, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(PNG)
        for source in (file, at_its_end, spooled, Pipe(), io.BufferedReader(Pipe())):
            np.testing.assert_array_equal(open_rgb(source), PHOTO)
        np.testing.assert_array_equal(open_rgb(file), PHOTO)  # again: it was left open


def test_any_path(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(PNG)
    (entry,) = os.scandir(tmp_path)
    for path in (tmp_path / "photo.png", str(tmp_path / "photo.png"), entry):
        np.testing.assert_array_equal(open_rgb(path), PHOTO)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "None is no photo.*OpenCV"),
        ([PHOTO, PHOTO], "a list is no photo: give a path, a file's bytes, an open file, a Pillow image or an array"),
        (PHOTO.tolist(), "a list is no photo"),
        (7, r"7 \(int\) is no photo"),
        (SimpleNamespace(), "a SimpleNamespace is no photo"),
        (np.array(None), r"object \(\) is no photo"),
        (np.array("photo.jpg"), "is no photo"),
        (PHOTO / np.float32(255), r"float32 \(64, 64, 3\) is no photo: uint8 or uint16"),
        (PHOTO.astype(np.int64), "int64"),
        (PHOTO > 9, "bool"),
        (PHOTO.transpose(2, 0, 1), r"uint8 \(3, 64, 64\) is no photo.*channels come last: image.transpose\(1, 2, 0\)"),
        (PHOTO[None], r"\(1, 64, 64, 3\)"),
        (b"", "the file is empty"),
        (bytearray(b"?"), "not an image"),
        (io.BytesIO(), "the file is empty"),
        (io.BytesIO(b"?" * 99), "not an image"),
        (io.StringIO("?"), "opened as text; open it with mode 'rb'"),
        (SimpleNamespace(read=lambda *_: "text"), "the image: "),
        ("\0", "null"),
        ("", "no such file"),
        ("x" * 5000, "too long"),
    ],
)
def test_what_is_no_picture(source: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        open_rgb(source)
    assert "\n" not in str(caught.value)


def test_an_open_file_is_called_by_its_name(tmp_path: Path) -> None:
    with opened(tmp_path, "r") as file, pytest.raises(ImageError, match=r"photo\.png: opened as text"):
        open_rgb(file)
    with opened(tmp_path) as file:
        pass
    with pytest.raises(ImageError, match=r"photo\.png: .*closed"):
        open_rgb(file)
    with opened(tmp_path, "rb+") as file:
        file.truncate(len(PNG) - 60)
        with pytest.raises(ImageError, match=r"photo\.png: .*(truncated|broken)"):
            open_rgb(file)


def test_a_pillow_image_whose_file_is_cut() -> None:
    with pytest.raises(ImageError, match="truncated"):
        open_rgb(Image.open(io.BytesIO(encoded("JPEG")[:-300])))


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (PHOTO[..., 0], np.repeat(PHOTO[..., :1], 3, axis=2)),
        (PHOTO[..., :1], np.repeat(PHOTO[..., :1], 3, axis=2)),
        (np.dstack([PHOTO, np.full((64, 64), 255, np.uint8)]), PHOTO),
        (np.dstack([PHOTO, np.zeros((64, 64), np.uint8)]), PHOTO),  # XRGB8888: the fourth byte is padding
        *((PHOTO.astype(np.uint16) << shift, PHOTO) for shift in (0, 2, 4, 6, 8)),  # 8 to 16 bits in 16
        (np.zeros((4, 4), np.uint16), np.zeros((4, 4, 3), np.uint8)),
        (PHOTO[::2, ::-1], PHOTO[::2, ::-1]),
    ],
)
def test_frames_as_cameras_give_them(frame: np.ndarray, expected: np.ndarray) -> None:
    found = open_rgb(frame)
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous


def test_bgr_of_any_array() -> None:
    padding = np.zeros((64, 64), np.uint8)
    opacity = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    np.testing.assert_array_equal(open_rgb(BGR, color="bgr"), PHOTO)
    np.testing.assert_array_equal(open_rgb(BGR.astype(np.uint16) << 8, color="bgr"), PHOTO)
    np.testing.assert_array_equal(open_rgb(np.dstack([BGR, padding]), color="bgr"), PHOTO)
    np.testing.assert_array_equal(
        open_rgb(np.dstack([BGR, opacity]), color="bgr"), open_rgb(np.dstack([PHOTO, opacity]))
    )
    np.testing.assert_array_equal(open_rgb(PHOTO[..., 0], color="bgr"), open_rgb(PHOTO[..., 0]))
    for knows_its_own in (PNG, Image.fromarray(PHOTO), io.BytesIO(PNG)):
        np.testing.assert_array_equal(open_rgb(knows_its_own, color="bgr"), PHOTO)


@pytest.mark.parametrize("color", ["BGR", "grb", "", None, 1, ["bgr"]])
def test_a_color_order_that_is_none(color: Any) -> None:
    with pytest.raises(UsageError, match='must be "rgb" or "bgr"'):
        open_rgb(PHOTO, color=color)
    with pytest.raises(UsageError, match='must be "rgb" or "bgr"'):
        in_turn([PHOTO], color=color)


def test_bgr_on_every_call_that_takes_arrays(fake: FaceRecognizer, gallery: Gallery) -> None:
    gallery.enroll("Ada", BGR, color="bgr")
    assert [face.box.tolist() for face in fake.faces(BGR, color="bgr")] == [
        face.box.tolist() for face in fake.faces(PHOTO)
    ]
    expected = fake.embed(PHOTO)
    np.testing.assert_array_equal(fake.embed(BGR, color="bgr"), expected)
    np.testing.assert_array_equal(fake.embed(BGR, fake.faces(PHOTO), color="bgr"), expected)
    aligned = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3)).astype(np.uint8)
    np.testing.assert_array_equal(fake.embed(aligned[..., ::-1], color="bgr"), fake.embed(aligned))
    np.testing.assert_array_equal(fake.model.embed(aligned[..., ::-1], color="bgr"), fake.model.embed(aligned))
    assert fake.verify(BGR, PNG, color="bgr").score == pytest.approx(1)
    assert fake.identify(BGR, gallery, color="bgr")[0].name == "Ada"
    assert fake.identify(BGR, gallery)[0].name is None
    *_, last = watch(in_turn([BGR] * 12, color="bgr"), fake, gallery)
    assert last.people[0].name == "Ada"
    np.testing.assert_array_equal(last.frame.pixels, PHOTO)
    np.testing.assert_array_equal(Frame(0, 0.0, BGR, color="bgr").pixels, PHOTO)


@pytest.mark.parametrize(
    "kind",
    [
        lambda photo: photo[..., 0],
        lambda photo: photo[..., :1],
        lambda photo: np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)]),
        lambda photo: photo.astype(np.uint16) << 8,
        Image.fromarray,
    ],
    ids=["grey", "one channel", "RGBA", "16 bits", "Pillow"],
)
def test_watch_takes_what_identify_takes(
    kind: Callable[[np.ndarray], Any], fake: FaceRecognizer, gallery: Gallery
) -> None:
    gallery.enroll("Ada", kind(fake_photo(3)))
    (who,) = fake.identify(kind(fake_photo(3, take=1)), gallery)
    *_, last = watch(in_turn([kind(fake_photo(3, take=1))] * 12), fake, gallery)
    assert who.name == last.people[0].name == "Ada"
    assert (last.frame.pixels.shape, last.frame.pixels.dtype) == ((64, 64, 3), np.uint8)


def test_a_frame_that_is_no_picture_is_counted(fake: FaceRecognizer, gallery: Gallery) -> None:
    with pytest.raises(ImageError, match="frame 2: None is no photo"):
        list(watch(in_turn([PHOTO, PHOTO, None]), fake, gallery))  # type: ignore[list-item]
    with pytest.raises(ImageError, match=r"frame 5: an array of float64"):
        Frame(5, 0.2, PHOTO / 255)
    with pytest.raises(UsageError, match=r"frames gives a ndarray; make frames of arrays with in_turn"):
        list(watch([PHOTO], fake, gallery))  # type: ignore[list-item]


def test_avif(tmp_path: Path) -> None:
    from PIL import features

    if not features.check("avif"):
        with pytest.raises(ImageError, match=r"AVIF, which needs: pip install 'pillow>=11\.3'"):
            open_rgb(b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf" + bytes(64))
        return
    SMOOTH.save(tmp_path / "a.avif", quality=95)
    (frame,) = open_source(tmp_path).frames
    assert np.abs(frame.pixels.astype(int) - np.asarray(SMOOTH)).mean() < 4


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_heic_as_a_phone_writes_it(turn: int, tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "IMG_1.HEIC"
    SMOOTH.save(path, "HEIF", quality=95, exif=exif.tobytes())
    degrees = {1: 0, 3: 180, 6: -90, 8: 90}[turn]
    expected = np.asarray(SMOOTH.rotate(degrees, expand=True)).astype(int)
    with path.open("rb") as file:
        for source in (path, path.read_bytes(), file):
            found = open_rgb(source)
            assert found.shape == expected.shape
            assert np.abs(found - expected).mean() < 4
    (frame,) = open_source(tmp_path).frames
    assert frame.name == "IMG_1.HEIC"
    for length in (30, 200, len(path.read_bytes()) - 40):
        with pytest.raises(ImageError, match="the image: "):
            open_rgb(path.read_bytes()[:length])


def test_heic_is_learnt_when_one_comes() -> None:
    pytest.importorskip("pillow_heif")
    import pillow_heif

    out = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PHOTO)).save(out)
    code = (
        "import sys; from edgeface_runtime import open_rgb; was = 'pillow_heif' in sys.modules\n"
        "print(was, *open_rgb(sys.stdin.buffer).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=out.getvalue(), capture_output=True, check=True)
    assert done.stdout.split() == [b"False", b"64", b"64", b"3"]


def test_heic_without_the_extra_names_it(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.heic").write_bytes(HEIC_HEAD)
    Image.fromarray(PHOTO).save(tmp_path / "other.png")
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from edgeface_runtime import ImageError, open_rgb, open_source\n"
        "try:\n    open_rgb(sys.argv[1] + '/IMG_1.heic')\n"
        "except ImageError as error:\n    print(error)\n"
        "print([frame.name for frame in open_source(sys.argv[1], print).frames])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    refused = f"{tmp_path}/IMG_1.heic: HEIC, which needs: pip install 'edgeface[heic]'"
    assert done.stdout.splitlines() == [refused, refused, "['other.png']"]


def test_the_endings_of_what_can_be_opened() -> None:
    assert {ending.lower() for ending in SUFFIXES} == SUFFIXES
    Image.init()
    known = Image.registered_extensions()
    unknown = {ending for ending in SUFFIXES if known.get(ending) not in Image.OPEN}
    assert unknown <= {".heic", ".heif", ".hif", ".avif", ".mpo"}
