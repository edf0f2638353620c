"""Opens a photo of any kind as upright 8-bit RGB, or says in one line why it cannot."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image, UnidentifiedImageError

from edgeface_runtime.checks import Color, described, is_bgr, require_regular
from edgeface_runtime.checks import shown as shown
from edgeface_runtime.errors import ImageError

_READ = """jpg jpeg jpe jfif mpo png apng gif webp avif avifs heic heif hif bmp dib tif tiff pgm ppm pbm pnm
    jp2 j2k j2c jpc jpf jpx tga icb vda vst sgi bw rgb rgba pcx psd qoi ras"""
SUFFIXES = frozenset(f".{name}" for name in _READ.split())
"""Of photos, in lower case: pixel formats that Pillow reads."""
MAX_PIXELS = 89_478_485
"""The most pixels that are decoded: 256 MB as RGB. More is taken for a decompression bomb. The environment may say
another number, ``EDGEFACE_MAX_PIXELS``."""
MAX_SIDE = 65_535
"""The longest side that is decoded, in pixels: JPEG has no longer one. Likewise ``EDGEFACE_MAX_SIDE``."""

# Such a photo is refused in one line, and Pillow would say the same in two more. Last, so that a filter that the app
# has for its own photos stays in force.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)

_BAND = 1 << 20  # pixels that are converted at once
_WHOLE = 1 << 22  # a photo of so many pixels is converted as a whole: 28 MB with Pillow's own
_ORIENTATION = 0x0112
_LYING, _MIRRORED, _UPSIDE_DOWN = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)  # its values, and what they do
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    RuntimeError,
    struct.error,
    MemoryError,
    Warning,
)
"""What Pillow and its plugins raise on damaged files; a warning too, where warnings are errors."""
_DEPTHS = (8, 10, 12, 14)  # bits of a camera's pixel in 16; the rest is empty

# Names in the first box of the container that HEIC and AVIF share (ISO/IEC 23008-12, annex B; AV1 Image File Format).
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


class DecodedPhoto:
    """A photo as Pillow has decoded it, of which ``photo[rows, columns]`` are upright (h, w, 3) uint8 RGB.

    Pillow keeps four bytes of each pixel, and an array of all of them would be three more. Finding and aligning faces
    read a large photo in parts, so that the memory it takes is Pillow's.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, image: Image.Image, turn: int, depth: int) -> None:
        """Keeps the image.

        Args:
            image: a loaded one, which must not change any more.
            turn: its EXIF orientation, 1 to 8.
            depth: bits of a pixel in modes that begin with I; others have 8.
        """
        self._image, self._turn, self._depth = image, turn, depth
        width, height = image.size
        self.shape = (width, height, 3) if turn in _LYING else (height, width, 3)

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.uint8]:
        """Rows and columns as an array of its own; steps are not taken."""
        (top, bottom), (left, right) = (_span(axis, length) for axis, length in zip(part, self.shape, strict=False))
        if top == bottom or left == right:
            return np.empty((bottom - top, right - left, 3), np.uint8)
        return _upright(self._converted(self._image.crop(self._lying(left, top, right, bottom))), self._turn)

    def reduced(self, factors: tuple[int, int], area: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Means of blocks of so many columns and rows; whole blocks fill the area (left, top, right, bottom).

        Of most photos without a copy of the area, which takes longer than the means.
        """
        left, top, right, bottom = area
        if self._image.mode != "RGB" or self._image.has_transparency_data:
            return np.asarray(Image.fromarray(self[top:bottom, left:right]).reduce(factors))
        lying = factors[::-1] if self._turn in _LYING else factors
        return _upright(np.asarray(self._image.reduce(lying, self._lying(*area))), self._turn)

    def _lying(self, left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
        """The part of the image that shows an upright area."""
        height, width = self.shape[:2]
        if self._turn in _MIRRORED:
            left, right = width - right, width - left
        if self._turn in _UPSIDE_DOWN:
            top, bottom = height - bottom, height - top
        return (top, left, bottom, right) if self._turn in _LYING else (left, top, right, bottom)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        height, width = self.shape[:2]
        pixels = np.empty(self.shape, np.uint8)
        rows = max(1, _BAND // width)
        for top in range(0, height, rows):
            pixels[top : top + rows] = self[top : top + rows, :]
        return pixels.astype(dtype or np.uint8, copy=False)

    def _converted(self, part: Image.Image) -> NDArray[np.uint8]:
        if part.mode.startswith("I"):
            return _from_array(_clipped(part), self._depth)
        if part.has_transparency_data:
            layer = part.convert("RGBA")
            part = Image.new("RGBA", layer.size, "white")
            part.alpha_composite(layer)
        return np.asarray(part if part.mode == "RGB" else part.convert("RGB"))


Pixels: TypeAlias = NDArray[np.uint8] | DecodedPhoto
"""(H, W, 3) uint8 RGB, whole or read in parts."""

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any] | DecodedPhoto
)
"""A photo as a file's path, a file's bytes, a file opened for reading bytes, a Pillow image, an array (H, W),
(H, W, 1), (H, W, 3) or (H, W, 4) of uint8 or uint16, or what ``open_photo`` gives."""


def open_rgb(source: ImageLike, *, color: Color = "rgb") -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a photo, turned upright by its EXIF orientation.

    Transparent pixels show white, as a viewer shows them; an array whose fourth channel is 0 throughout has padding
    there and no opacity. 16-bit channels keep their high byte; where no pixel of a photo reaches 2^8, 2^10, 2^12 or
    2^14, they are taken for so many bits, as cameras give them. Of an animation the first frame is taken; grey,
    palette and CMYK become RGB.

    Args:
        source: the photo. A file that is open is read from its start and stays open. HEIC needs the extra ``heic``.
        color: the order of an array's channels; files and Pillow images know their own.

    Raises:
        ImageError: no such file, not an image, cut short, of more than ``MAX_PIXELS``, of a pixel type without a
            known range (float), or nothing that could be a photo, such as the None of a reader that has failed.
        UsageError: no such ``color``.
    """
    return np.asarray(open_photo(source, color=color))


def open_photo(source: ImageLike, *, color: Color = "rgb") -> Pixels:
    """As ``open_rgb``; but a file or Pillow image of more than 4 million pixels stays as it was decoded.

    What takes an image takes such a photo too, and reads it in parts: 48 megapixels are 0.2 GB, not 0.3.
    """
    is_swapped = is_bgr(color)
    if isinstance(source, DecodedPhoto):
        return source
    if isinstance(source, np.ndarray):
        pixels = _from_array(source)
        return swapped(pixels) if is_swapped else pixels
    name = called(source)
    try:
        if isinstance(source, Image.Image):
            return _from_pillow(source, name)
        file = _file(source, name)
        with _opened(file, name) as image:
            photo = _from_pillow(image, name)
            vars(image).pop("_decoder", None)  # Pillow's of WebP holds all pixels twice more for as long as the image
            return photo
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        reason = "not an image that can be read" if _head(file) else "the file is empty"
        raise ImageError(f"{name}: {reason}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: more than {MAX_PIXELS / 1e6:.1f} megapixels") from error
    except _BROKEN as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def photo_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of a photo in pixels, as its file's head says: nothing is decoded, nor turned upright.

    Raises:
        ImageError: no such file, or not an image.
    """
    name = called(path)
    try:
        with _opened(path, name) as image:
            return image.size
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def swapped(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) with the first and the last channel exchanged: RGB of BGR and back."""
    out = np.empty_like(pixels, order="C")
    for channel in range(3):  # one at a time: four times as fast as a copy of the reversed view
        out[..., channel] = pixels[..., 2 - channel]
    return out


def called(source: object) -> str:
    """What an error calls a photo: a path, or "the image"."""
    path = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None)
    return shown(path) if isinstance(path, (str, os.PathLike)) else "the image"


def _file(source: object, name: str) -> str | os.PathLike[str] | IO[bytes]:
    """What Pillow opens."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if isinstance(source, io.TextIOBase):
        raise ImageError(f"{name}: opened as text; open it with mode 'rb'")
    if isinstance(source, (str, os.PathLike)):
        require_regular(source)
        return source
    if hasattr(source, "read"):
        is_seekable = hasattr(source, "seekable") and source.seekable()
        return cast(IO[bytes], source) if is_seekable else io.BytesIO(source.read())
    if source is None:
        raise ImageError("None is no photo; whoever gave it could not read one (OpenCV says None where it fails)")
    raise ImageError(
        f"{described(source)} is no photo: give a path, a file's bytes, an open file, a Pillow image or an array"
    )


def _opened(file: str | os.PathLike[str] | IO[bytes], name: str) -> Image.Image:
    """The file in Pillow, which learns HEIC where it meets one."""
    try:
        image = Image.open(file)
        if image.format == "EPS":  # the one format for which Pillow starts a program, and that runs what the file says
            raise ImageError(f"{name}: PostScript, which is a program and no photo; save it as JPEG or PNG")
        return image
    except UnidentifiedImageError:
        head = _head(file)
        brands = [head[at : at + 4] for at in range(8, len(head), 4)] if head[4:8] == b"ftyp" else []
        if any(brand in _AVIF for brand in brands):
            raise ImageError(f"{name}: AVIF, which needs: pip install 'pillow>=11.3'") from None
        if not any(brand in _HEIC for brand in brands):
            raise
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(f"{name}: HEIC, which needs: pip install 'edgeface[heic]'") from error
    pillow_heif.register_heif_opener()
    return Image.open(file)


def _head(file: str | os.PathLike[str] | IO[bytes]) -> bytes:
    """The first bytes of a file."""
    if isinstance(file, (str, os.PathLike)):
        with Path(file).open("rb") as stream:
            return stream.read(64)
    file.seek(0)
    return file.read(64)


def _from_pillow(image: Image.Image, name: str) -> Pixels:
    most, side = _limit("EDGEFACE_MAX_PIXELS", MAX_PIXELS), _limit("EDGEFACE_MAX_SIDE", MAX_SIDE)
    if image.width * image.height > most:
        raise ImageError(f"{name}: {image.width} x {image.height} is more than {most / 1e6:.3g} megapixels")
    if max(image.size) > side:
        raise ImageError(f"{name}: {image.width} x {image.height} has a side of more than {side} pixels")
    if image.mode == "F":
        raise ImageError(f"{name}: float pixels have no known range; save it with 8 or 16 bits")
    image.load()
    photo = DecodedPhoto(image, _turn(image), _depth(image) if image.mode.startswith("I") else 8)
    return photo if image.width * image.height > _WHOLE else np.asarray(photo)


def _limit(name: str, usual: int) -> int:
    said = os.environ.get(name, "")
    if said and not (said.isdecimal() and 0 < len(said) < 12):
        raise ImageError(f"{name}={said}: not a number of pixels")
    # Pillow refuses at twice its own limit, whatever ours is.
    return min(int(said or usual), 2 * (Image.MAX_IMAGE_PIXELS or usual))


def _turn(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN:
        # A damaged EXIF block says nothing about the pixels, which are whole.
        return 1


def _span(axis: slice, length: int) -> tuple[int, int]:
    start, end, _ = axis.indices(length)
    return start, max(start, end)


def _upright(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Undoes EXIF orientation 1 to 8 (Exif 2.3, tag 274)."""
    if turn in _LYING:
        pixels = pixels.swapaxes(0, 1)
    if turn in _MIRRORED:
        pixels = pixels[:, ::-1]
    if turn in _UPSIDE_DOWN:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _clipped(image: Image.Image) -> NDArray[np.uint16]:
    """The pixels of a mode that begins with I."""
    return np.asarray(np.asarray(image).clip(0, 65535), np.uint16)


def _depth(image: Image.Image) -> int:
    rows = max(1, _BAND // image.width)
    bands = (image.crop((0, top, image.width, min(top + rows, image.height))) for top in range(0, image.height, rows))
    return _bits(max(int(_clipped(band).max()) for band in bands))


def _bits(highest: int) -> int:
    return next((bits for bits in _DEPTHS if highest < 1 << bits), 16)


def _from_array(pixels: NDArray[Any], depth: int | None = None) -> NDArray[np.uint8]:
    if pixels.dtype not in (np.uint8, np.uint16) or not _is_picture(pixels.shape):
        planar = _is_picture(pixels.shape[1:] + pixels.shape[:1])
        raise ImageError(
            f"an array of {pixels.dtype} {pixels.shape} is no photo: uint8 or uint16, (H, W), (H, W, 1), (H, W, 3) or "
            f"(H, W, 4){'; channels come last: image.transpose(1, 2, 0)' if planar else ''}"
        )
    if pixels.dtype == np.uint8 and pixels.shape[2:] == (3,):
        return np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint16 and depth is None:
        depth = _bits(int(pixels.max()))
    shift = depth - 8 if depth is not None and pixels.dtype == np.uint16 else 0
    has_opacity = pixels.shape[2:] == (4,) and int(pixels[..., 3].max()) >> shift > 0
    out = np.empty((*pixels.shape[:2], 3), np.uint8)
    rows = max(1, _BAND // pixels.shape[1])
    for top in range(0, len(pixels), rows):  # each step would copy the whole photo
        band = pixels[top : top + rows]
        if pixels.dtype == np.uint16:
            band = (band >> shift).astype(np.uint8)
        if band.ndim == 2:
            band = band[..., None]
        colors = band[..., :3]
        if has_opacity:
            opacity = band[..., 3:].astype(np.uint16)
            colors = (colors * opacity + 255 * (255 - opacity) + 127) // 255
        out[top : top + rows] = colors
    return out


def _is_picture(shape: tuple[int, ...]) -> bool:
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)))


def _reason(error: BaseException) -> str:
    """The error in one line; the system's errors without number and path."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())
