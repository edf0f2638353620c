"""Opens a photo of any kind as upright 8-bit RGB, or says in one line why it cannot."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

    Source = str | Path | bytes | NDArray[Any] | Image.Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
MAX_PIXELS = 89_478_485
"""The most pixels that are decoded: 256 MB as RGB. More is taken for a decompression bomb."""

_BAND = 1 << 20  # pixels that are converted at once
_ORIENTATION = 0x0112
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    MemoryError,
    Warning,
)
"""What Pillow raises on damaged files; a warning too, where warnings are errors."""


def open_rgb(source: Source) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a photo, turned upright by its EXIF orientation.

    Transparent pixels show white, as a viewer shows them; 16-bit channels keep their high byte;
    of an animation the first frame is taken; grey, palette and CMYK become RGB.

    Args:
        source: a file's path, a file's bytes, a Pillow image, or an array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) of uint8 or uint16 in RGB(A) order.

    Raises:
        ImageError: no such file, not an image, cut short, of more than ``MAX_PIXELS``, or of a
            pixel type without a known range (float).
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pillow(source, "the image")
    name = "the image" if isinstance(source, bytes) else shown(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _from_pillow(image, name)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        empty = not (len(source) if isinstance(source, bytes) else Path(source).stat().st_size)
        raise ImageError(f"{name}: {'the file is empty' if empty else 'not an image that can be read'}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: more than {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except _BROKEN as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def shown(path: str | Path) -> str:
    r"""A path as text that is valid UTF-8: bytes of a name that are not show as ``\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _from_pillow(image: Image.Image, name: str) -> NDArray[np.uint8]:

    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{name}: {image.width} x {image.height} is more than {MAX_PIXELS / 1e6:.0f} megapixels")
    if image.mode == "F":
        raise ImageError(f"{name}: float pixels have no known range; save it with 8 or 16 bits")
    image.load()
    turn = _turn(image)
    if image.mode.startswith("I"):
        return _upright(_from_array(np.clip(np.asarray(image), 0, 65535).astype(np.uint16)), turn)
    return _rgb(image, turn)


def _rgb(image: Image.Image, turn: int) -> NDArray[np.uint8]:
    """The pixels turned upright, over white: a band of rows at a time, for each step would copy the whole photo."""
    from PIL import Image

    width, height = image.size
    pixels = np.empty((width, height, 3) if turn in (5, 6, 7, 8) else (height, width, 3), np.uint8)
    lying = pixels[::-1] if turn in (3, 4, 7, 8) else pixels
    lying = lying[:, ::-1] if turn in (2, 3, 6, 7) else lying
    lying = lying.swapaxes(0, 1) if turn in (5, 6, 7, 8) else lying
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        if band.has_transparency_data:
            layer = band.convert("RGBA")
            band = Image.new("RGBA", layer.size, "white")
            band.alpha_composite(layer)
        lying[top : top + rows] = np.asarray(band.convert("RGB"))
    return pixels


def _turn(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN:
        # A damaged EXIF block says nothing about the pixels, which are whole.
        return 1


def _upright(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Undoes EXIF orientation 1 to 8 (Exif 2.3, tag 274)."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _from_array(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise ImageError(f"an array of {pixels.dtype} {pixels.shape} is no photo: uint8 or uint16, (H, W, 3)")
    if pixels.shape[2] == 4:
        opacity = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _reason(error: BaseException) -> str:
    """The error in one line; the system's errors without number and path."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())
