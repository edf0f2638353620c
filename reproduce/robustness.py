"""How a recogniser bears bad photos: LFW's View 1 with the second photo of each pair made worse.

    python -m reproduce.robustness MODEL... --lfw prepared/lfw --pairs FOLDER -o docs/images/robustness.png

The first photo stays as it is, as an enrolled one would. The threshold is chosen on the unaltered training pairs.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from edgeface.data.cache import open_cache
from edgeface.data.pairs import find, read_lfw_pairs
from edgeface.data.table import read_faces
from edgeface.evaluation.opening import open_embedder
from edgeface.evaluation.verification import Pairs, best_threshold
from edgeface_runtime.model import find_model

Face = Image.Image


def noisy(face: Face, deviation: float) -> Face:
    """Gaussian noise of this deviation, in pixel units."""
    rng = np.random.default_rng(0)
    pixels = np.asarray(face).astype(float)
    return Image.fromarray(np.clip(pixels + rng.normal(0, deviation, pixels.shape), 0, 255).astype(np.uint8))


def compressed(face: Face, quality: float) -> Face:
    """As JPEG of this quality."""
    buffer = io.BytesIO()
    face.save(buffer, "JPEG", quality=int(quality))
    return Image.open(buffer)


def masked(face: Face, top: float) -> Face:
    """A plain medical mask from ``top`` (share of the height) down."""
    covered, (width, height) = face.copy(), face.size
    edge = [(0.14, top + 0.06), (0.5, top), (0.86, top + 0.06), (0.8, 0.93), (0.5, 1.0), (0.2, 0.93)]
    ImageDraw.Draw(covered).polygon([(x * width, y * height) for x, y in edge], fill=(150, 180, 205))
    return covered


def small(face: Face, side: float) -> Face:
    """As it looks at this side in pixels."""
    return face.resize((int(side), int(side)), Image.Resampling.BOX).resize(face.size, Image.Resampling.BILINEAR)


# Name on the axis → (what is done, levels from harmless to severe).
HARMS: dict[str, tuple[Callable[[Face, float], Face], tuple[float, ...]]] = {
    "blur, σ in px": (lambda face, sigma: face.filter(ImageFilter.GaussianBlur(sigma)), (0, 1, 2, 3, 4)),
    "face shrunk to px": (small, (112, 56, 40, 28, 20)),
    "noise, σ in grey levels": (noisy, (0, 10, 20, 40, 60)),
    "darkness, share of light": (lambda face, share: face.point(lambda v: int(v * share)), (1, 0.5, 0.25, 0.12, 0.06)),
    "JPEG quality": (compressed, (95, 40, 20, 10, 5)),
    "mask from, share of height": (masked, (1.0, 0.75, 0.65, 0.55)),
}


def accuracies(model: str, folder: Path, pairs: Path) -> dict[str, list[float]]:
    """Harm → accuracy at each level."""
    embedder = open_embedder(find_model(model))
    faces, sources = open_cache(folder, embedder.contract.input.size), [row["source"] for row in read_faces(folder)]
    test, _ = find(protocol := read_lfw_pairs(pairs / "pairsDevTest.txt"), sources)
    train, _ = find(training := read_lfw_pairs(pairs / "pairsDevTrain.txt"), sources)
    assert len(test) == len(protocol.same)
    assert len(train) == len(training.same)

    def scores(index: NDArray[np.int64], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        first = embedder.embed(np.asarray(faces[index[:, 0]]))
        scored: NDArray[np.float32] = (first * embedder.embed(second)).sum(axis=1)
        return scored

    plain = scores(train, np.asarray(faces[train[:, 1]]))
    threshold = best_threshold(
        Pairs(plain.astype(np.float64), np.zeros(len(plain), np.int64), (~np.array(training.same)).astype(np.int64))
    )
    found: dict[str, list[float]] = {}
    for harm, (change, levels) in HARMS.items():
        found[harm] = []
        for level in levels:
            worse = [np.asarray(change(Image.fromarray(faces[row]), level).convert("RGB")) for row in test[:, 1]]
            right = (scores(test, np.stack(worse)) >= threshold) == protocol.same
            found[harm].append(float(right.mean()))
    return found


def main() -> None:
    """Measures the models and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--lfw", type=Path, required=True, help="prepared by edgeface data prepare")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of pairsDevTest.txt and pairsDevTrain.txt")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG; the figures go beside it as JSON")
    options = parser.parse_args()
    found = {model: accuracies(model, options.lfw, options.pairs) for model in options.models}
    figure = Figure(figsize=(9, 5), layout="constrained")
    for axes, (harm, (_, levels)) in zip(figure.subplots(2, 3, sharey=True).flat, HARMS.items(), strict=True):
        for model, curves in found.items():
            axes.plot(range(len(levels)), [100 * share for share in curves[harm]], marker="o", label=model)
        axes.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        axes.set_xlabel(harm)
        axes.grid(alpha=0.3)
    figure.supylabel("LFW View 1, %")
    figure.axes[0].legend()
    figure.savefig(options.output, dpi=110)
    options.output.with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
