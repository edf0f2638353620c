"""Writes the trained landmark net as the runtime takes it.

    python -m reproduce.landmarks.export runs/landmarks/net/checkpoint.pt -o detectors/

``landmarks.tflite`` and ``landmarks.onnx``: (N, 3, 48, 48) float32, (x − 127.5) / 128, to (N, 15), in floats whose
weights are kept in 16 bits, so that both engines say the same to a ten-thousandth of a pixel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from reproduce.detectors.build import check
from reproduce.detectors.flatnet import FlatNet
from reproduce.detectors.tflite_onnx import tflite_to_onnx
from reproduce.landmarks.net import RANK, SIZE


def landmark_net(checkpoint: Path) -> bytes:
    """The TFLite bytes of a checkpoint of ``train``."""
    stored = torch.load(checkpoint, weights_only=True)["net"]
    weights = {name: value.float().numpy() for name, value in stored.items()}
    net = FlatNet((None, 3, SIZE, SIZE), half=True)
    for level, pool in enumerate((3, 3, 2, 0)):
        net.conv(weights[f"convs.{level}.weight"], weights[f"convs.{level}.bias"])
        net.prelu(weights[f"slopes.{level}.weight"])
        if pool:
            net.pool(pool)
    _, high, wide, channels = net.shape
    narrow = weights["narrow.weight"].reshape(-1, wide, high, channels).transpose(0, 2, 1, 3)
    net.flatten()
    net.dense(np.ascontiguousarray(narrow.reshape(RANK, -1)), np.zeros(RANK, np.float32))
    net.dense(weights["dense.weight"], weights["dense.bias"])
    net.prelu(weights["slopes.4.weight"])
    net.dense(weights["head.weight"], weights["head.bias"])
    return net.to_bytes("Landmark net of edgeface, from MTCNN's O-Net of facenet-pytorch (MIT)")


def main() -> None:
    """Writes both files and prints their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("detectors"), help="folder to write into")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    files = [asked.output / f"landmarks.{suffix}" for suffix in ("tflite", "onnx")]
    data = landmark_net(asked.checkpoint)
    files[0].write_bytes(data)
    files[1].write_bytes(tflite_to_onnx(data).SerializeToString())
    check(*files)
    for file in files:
        print(file)


if __name__ == "__main__":
    main()
