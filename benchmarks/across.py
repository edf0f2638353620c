"""Whether two files of one net may share a gallery: LFW's pairs within each file, and one photo by each.

    python -m benchmarks.across mobilefacenet --lfw lfw/images --pairs lfw/pairsDevTest.txt

Each photo is found and aligned once, so that only the files differ. The threshold is the first file's own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edgeface.data.pairs import read_lfw_pairs
from edgeface_runtime import FaceRecognizer, load
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import most_central
from edgeface_runtime.images import open_rgb
from edgeface_runtime.thresholds import threshold_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", help="name of a shipped net; or two model files, comma between")
    parser.add_argument("--lfw", type=Path, required=True, help="folder of LFW's photos")
    parser.add_argument("--pairs", type=Path, required=True, help="pairsDevTest.txt")
    parser.add_argument("--far", type=float, default=1e-3, help="false-accept rate that chooses the threshold")
    options = parser.parse_args()
    files = (
        options.net.split(",") if "," in options.net else [f"{options.net}.int8.{kind}" for kind in ("tflite", "onnx")]
    )
    models = [load(file) for file in files]
    pairs, recognizer = read_lfw_pairs(options.pairs), FaceRecognizer(files[0])
    crops = []
    for key in pairs.photos:
        photo = open_rgb(options.lfw / f"{key}.jpg")
        face = most_central(recognizer.faces(photo), *photo.shape[:2])
        crops.append(align(photo, face.landmarks, models[0].contract.input.size))
    a, b = (model.embed(np.stack(crops)) for model in models)
    both = (a * b).sum(axis=1)
    print(f"{len(crops)} photos, cosine of the two embeddings: mean {both.mean():.4f}, least {both.min():.4f}")
    limit = threshold_for(models[0].contract, options.far).value
    first, second = pairs.index.T
    decided = {}
    for name, x, y in (("first", a, a), ("second", b, b), ("across", a, b), ("across, turned", b, a)):
        score = (x[first] * y[second]).sum(axis=1)
        accepted = decided[name] = score >= limit
        fnmr, fmr = (~accepted[pairs.same]).mean(), accepted[~pairs.same].mean()
        agreed = ", ".join(f"as {other} {(accepted == decided[other]).mean():.1%}" for other in list(decided)[:2])
        print(f"{name}: right {(accepted == pairs.same).mean():.1%}, FNMR {fnmr:.1%}, FMR {fmr:.1%}; {agreed}")


if __name__ == "__main__":
    main()
