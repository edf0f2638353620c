"""Writes the nets of a detector: ``python -m reproduce.detectors mtcnn -o detectors/``."""

from __future__ import annotations

import argparse
from pathlib import Path

from reproduce.detectors.build import DETECTORS, build_detector


def main() -> None:
    """Parses, writes, prints the paths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("detector", choices=DETECTORS)
    parser.add_argument("-o", "--output", type=Path, default=Path("detectors"), help="folder to write into")
    parser.add_argument("--yunet", type=Path, help="OpenCV Zoo's face_detection_yunet_2026may.onnx")
    asked = parser.parse_args()
    for path in build_detector(asked.detector, asked.output, asked.yunet):
        print(path)


if __name__ == "__main__":
    main()
