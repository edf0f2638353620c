"""Pictures that detectors are measured on: faces pasted into soft shapes, scenes without a face, heads that touch."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

Pixels = np.ndarray


def soft(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Soft shapes without a face."""
    return Image.fromarray(rng.integers(40, 215, (6, 8, 3)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def scene(
    photo: Pixels, share: float, width: float, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[Pixels, tuple[int, int, int, int]]:
    """A photo pasted so that its face, ``share`` of its width, is ``width`` pixels wide; and where it was pasted."""
    image, side = soft(rng, size), max(8, round(width / share))
    high = round(side * photo.shape[0] / photo.shape[1])
    x, y = (int(rng.integers(0, max(1, whole - part))) for whole, part in zip(size, (side, high), strict=True))
    image.paste(Image.fromarray(photo).resize((side, high), Image.Resampling.LANCZOS), (x, y))
    return np.asarray(image), (x, y, side, high)


def faceless(photos: list[Pixels], rng: np.random.Generator) -> Pixels:
    """Shuffled tiles of 12 pixels, lines and ellipses: the textures of faces without a face."""
    image = soft(rng, (640, 480))
    for _ in range(12):
        photo = photos[int(rng.integers(len(photos)))]
        high, wide = (side // 12 for side in photo.shape[:2])
        tiles = photo[: high * 12, : wide * 12].reshape(high, 12, wide, 12, 3).swapaxes(1, 2).reshape(-1, 12, 12, 3)
        mixed = rng.permutation(tiles).reshape(high, wide, 12, 12, 3).swapaxes(1, 2).reshape(high * 12, wide * 12, 3)
        scale = float(rng.uniform(0.5, 2))
        patch = Image.fromarray(mixed).resize((round(wide * 12 * scale), round(high * 12 * scale)))
        image.paste(patch, (int(rng.integers(-50, 600)), int(rng.integers(-50, 450))))
    draw = ImageDraw.Draw(image)
    for _ in range(10):
        x, y, w, h = (int(value) for value in rng.integers((0, 0, 10, 10), (640, 480, 200, 200)))
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), outline=color, width=3)
    return np.asarray(image)


def touching(big: Pixels, big_box: Pixels, small: Pixels, small_box: Pixels) -> Iterator[Pixels]:
    """315 pictures of two heads: the smaller in five sizes, at 21 places across and three down the larger."""
    x0, y0, x1, y1 = (int(value) for value in small_box)
    head = Image.fromarray(small[max(0, y0 - 18) : y1 + 9, max(0, x0 - 18) : x1 + 18])
    left, _, right, bottom = (int(value) for value in big_box)
    wide = right - left
    for share in (0.4, 0.5, 0.6, 0.7, 0.8):
        size = (int(wide * share), int(wide * share * head.height / head.width))
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).ellipse((0, 0, size[0] - 1, size[1] - 1), fill=255)
        for across in np.arange(-0.8, 1.21, 0.1):
            for down in (0.3, 0.6, 0.9):
                photo = Image.fromarray(big)
                photo.paste(head.resize(size), (int(left + across * wide), int(bottom - size[1] * down)), mask)
                yield np.asarray(photo)


def six(photos: list[Pixels]) -> Pixels:
    """Six photos side by side, 640 × 480."""
    image = Image.new("RGB", (640, 480))
    for number in range(6):
        image.paste(Image.fromarray(photos[number]).resize((213, 240)), (number % 3 * 213, number // 3 * 240))
    return np.asarray(image)
