"""What it costs to forget ``color="bgr"``: scores of LFW's pairs where one photo's channels are exchanged, or both.

python -m benchmarks.color lfw/images lfw/pairsDevTest.txt [MODEL]
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import FaceRecognizer, open_rgb
from edgeface_runtime.detection.find import most_central

FAR = 1e-3
CASES = {"both as they are": (False, False), "one exchanged": (False, True), "both exchanged": (True, True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("pairs", type=Path, help="<person> <photo> <photo> on each line that counts")
    parser.add_argument("model", nargs="?")
    options = parser.parse_args()
    recognizer = FaceRecognizer(options.model)
    limit = recognizer.threshold(FAR).value

    @functools.cache
    def row(photo: str, is_exchanged: bool) -> NDArray[np.float32] | None:
        pixels = open_rgb(open_rgb(options.images / f"{photo}.jpg"), color="bgr" if is_exchanged else "rgb")
        faces = recognizer.faces(pixels)
        return recognizer.embed(pixels, [most_central(faces, *pixels.shape[:2])])[0] if faces else None

    words = [line.split() for line in options.pairs.read_text(encoding="utf-8").splitlines()]
    pairs = [(f"{w[0]}_{int(w[1]):04d}", f"{w[0]}_{int(w[2]):04d}") for w in words if len(w) == 3]
    for name, (first, second) in CASES.items():
        rows = [(row(a, first), row(b, second)) for a, b in pairs]
        scores = np.array([-1.0 if a is None or b is None else float(a @ b) for a, b in rows])
        missed = 100 * (scores < limit).mean()
        print(
            f"{name}: {len(scores)} genuine pairs, mean score {scores.mean():.3f}, FNMR at FMR {FAR:g} {missed:.1f} %"
        )


if __name__ == "__main__":
    main()
