import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgeface_runtime.errors import ImageError
from edgeface_runtime.images import MAX_PIXELS, SUFFIXES, open_rgb, shown

PHOTO = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def huge_png(side: int) -> bytes:
    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_as_pillow_undoes_it(turn: int) -> None:
    image = Image.fromarray(PHOTO)
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(image, exif=exif)
    with Image.open(io.BytesIO(data)) as reopened:
        expected = np.asarray(ImageOps.exif_transpose(reopened))
    np.testing.assert_array_equal(open_rgb(data), expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("turn", [1, 4, 6, 7])
def test_a_large_photo_is_converted_as_a_small_one(turn: int, mode: str) -> None:
    image = Image.fromarray(PHOTO).resize((1300, 1700), Image.Resampling.NEAREST).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.getexif()[0x0112] = turn
    layer = image.convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    white.getexif()[0x0112] = turn
    np.testing.assert_array_equal(open_rgb(image), np.asarray(ImageOps.exif_transpose(white)))


PEAK = """
import sys
from edgeface_runtime.images import open_rgb

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

open_rgb(sys.argv[1])
before = peak()
photo = open_rgb(sys.argv[2])
print((peak() - before) * 2**20 / (photo.shape[0] * photo.shape[1]))
"""


@pytest.mark.parametrize("turn", [1, 6])
def test_decoding_holds_pillow_s_pixels_and_ours_and_no_more(turn: int, tmp_path: Path) -> None:
    """Four bytes a pixel and three; a copy more would be ten or eleven."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's peak of memory")
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (64, 64)).save(tmp_path / "small.jpg")
    Image.new("RGB", (6000, 4000), "teal").save(tmp_path / "large.jpg", exif=exif)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small.jpg"), str(tmp_path / "large.jpg")]
    assert float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 8.5


def test_path_bytes_pillow_and_array_agree(tmp_path: Path) -> None:
    image = Image.fromarray(PHOTO)
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), image, PHOTO):
        np.testing.assert_array_equal(open_rgb(source), PHOTO)


def test_wrong_extension_is_read_by_content(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(Image.fromarray(PHOTO)))
    np.testing.assert_array_equal(open_rgb(path), PHOTO)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_the_high_byte(kind: str) -> None:
    grey = np.random.default_rng(1).integers(0, 65536, (5, 7), np.uint16)
    found = open_rgb(encoded(Image.fromarray(grey), kind))
    np.testing.assert_array_equal(found, np.repeat((grey // 256).astype(np.uint8)[..., None], 3, axis=2))


def test_sixteen_bit_array() -> None:
    grey = np.random.default_rng(1).integers(0, 65536, (5, 7), np.uint16)
    np.testing.assert_array_equal(open_rgb(grey)[..., 1], grey // 256)


def test_alpha_shows_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (255, 0, 102)
    for source in (encoded(Image.fromarray(pixels)), pixels):
        np.testing.assert_array_equal(open_rgb(source)[0], np.repeat([[0], [255], [153]], 3, axis=1))


def test_palette_with_and_without_transparency() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putdata([0, 1])
    np.testing.assert_array_equal(open_rgb(encoded(palette)), [[[10, 20, 30], [200, 100, 0]]])
    transparent = encoded(palette, transparency=0)
    np.testing.assert_array_equal(open_rgb(transparent), [[[255, 255, 255], [200, 100, 0]]])


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "LA"])
def test_other_modes_as_pillow_converts_them(mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    np.testing.assert_array_equal(open_rgb(image), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    found = open_rgb(encoded(red, "JPEG"))
    assert np.abs(found.astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(open_rgb(data).astype(int) - [255, 0, 0]).max() < 4


def test_one_by_one() -> None:
    assert open_rgb(encoded(Image.new("RGB", (1, 1), "blue"))).tolist() == [[[0, 0, 255]]]


def test_damaged_exif_leaves_the_pixels(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(PHOTO), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(open_rgb(data), PHOTO)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the image: the file is empty"),
        (b"GIF89a", "not an image"),
        (b"not a photo at all", "not an image"),
        (encoded(Image.fromarray(PHOTO).resize((64, 64)))[:-600], "truncated|Truncated|cut|broken|incomplete"),
        (encoded(Image.fromarray(PHOTO).resize((64, 64)), "JPEG")[:-400], "truncated"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "float"),
        (huge_png(20_000), "more than 89 megapixels"),
        (huge_png(10_000), "more than 89 megapixels"),
    ],
)
def test_unreadable_is_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=message) as raised:
        open_rgb(data)
    assert "\n" not in str(raised.value)
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"photo\.png: "):
        open_rgb(path)


def test_a_bomb_is_refused_without_warnings_as_errors(recwarn: pytest.WarningsRecorder) -> None:
    import warnings

    assert MAX_PIXELS < 10_000**2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match="10000 x 10000"):
            open_rgb(huge_png(10_000))


def test_a_bomb_in_a_text_chunk() -> None:
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 70_000_000, zip=True)
    with pytest.raises(ImageError, match="too large"):
        open_rgb(encoded(Image.fromarray(PHOTO), pnginfo=info))


def test_absent_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        open_rgb(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="directory"):
        open_rgb(tmp_path)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros(3, np.uint8)]
)
def test_arrays_that_are_no_photo(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="no photo"):
        open_rgb(pixels)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(path)).write_bytes(b"x")
    with pytest.raises(ImageError, match=r"caf\\xe9\.png") as raised:
        open_rgb(os.fsdecode(path))
    str(raised.value).encode("utf-8")
    assert shown(os.fsdecode(path)).endswith("caf\\xe9.png")


def test_every_suffix_under_which_pillow_writes_a_color_photo_that_it_reads_is_a_photos():
    """Less two of textures and programs, and one that means float pixels."""
    other, kept = {".dds", ".im", ".pfm"}, set()
    for suffix, kind in Image.registered_extensions().items():
        if kind in Image.OPEN and kind in Image.SAVE and suffix not in other:
            file = io.BytesIO()
            with contextlib.suppress(OSError, ValueError, ImageError):
                Image.new("RGB", (64, 48), "red").save(file, kind)
                if open_rgb(file.getvalue()).shape == (48, 64, 3):
                    kept.add(suffix)
    assert {".jpg", ".jfif", ".avif", ".jp2"} <= kept
    assert kept <= SUFFIXES


@pytest.mark.parametrize("filters", ["", "warnings.simplefilter('error', Image.DecompressionBombWarning)"])
def test_a_photo_that_is_too_large_is_refused_in_one_line(tmp_path: Path, filters: str) -> None:
    """Without Pillow's own two lines of it; and an app that makes an error of its warning keeps that."""
    (tmp_path / "huge.png").write_bytes(huge_png(10_000))
    program = f"""
import warnings
from PIL import Image
{filters}
import edgeface_runtime as ef
try:
    ef.open_rgb("huge.png")
except ef.ImageError as error:
    print(error)
try:
    Image.open("huge.png")
except Image.DecompressionBombWarning:
    print("the app's own filter")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    refusal, *rest = done.stdout.splitlines()
    assert refusal.startswith("huge.png: ")
    assert "more than 89 megapixels" in refusal
    assert rest == (["the app's own filter"] if filters else [])
