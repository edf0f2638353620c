"""Our int8 TFLite against the one that TensorFlow's own converter makes of the same net.

    python -m benchmarks.tensorflow_int8 [--backbone mobilefacenet] [--calls 100]

One thread, calls taking turns. TensorFlow gets the net as Keras writes it, batch norm and PReLU as layers of
their own, and the same faces to calibrate with. Needs the extra tensorflow; says so and stops without it.
Prints one JSON document: median processor time of one face in milliseconds, and theirs over ours.
"""

import argparse
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from benchmarks.export import FACES, SIZE, SPEC, int8_file, random_net, time_files
from edgeface_export.formats import keras_twin, tflite_file
from edgeface_export.rewrite import Preprocess, embedder


def write_theirs(backbone: str, path: Path) -> None:
    with tflite_file.quiet():
        import tensorflow as tf

        model = keras_twin.twin(nn.Sequential(Preprocess(SPEC), random_net(backbone)).eval(), SIZE)
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([face[None]] for face in FACES)
        path.write_bytes(converter.convert())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilefacenet")
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    if find_spec("tensorflow") is None:
        print("skipped: needs the extra tensorflow")
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_theirs(options.backbone, folder / "theirs.tflite")
        source = folder / "ours.tflite"
        tflite_file.write_float(embedder(random_net(options.backbone), SPEC, "maximum"), SIZE, source)
        files = {
            "ours fp32": source,
            "ours int8": int8_file(tflite_file, source, folder),
            "TensorFlow int8": folder / "theirs.tflite",
        }
        operators = {name: dict(tflite_file.operators(path)["int8"]) for name, path in files.items()}
        ms = time_files(options.backbone, files, options.calls)
    document = {"backbone": options.backbone, "calls": options.calls, "cpu_ms": ms, "int8_operators": operators}
    print(json.dumps(document | {"theirs_over_ours": ms["TensorFlow int8"] / ms["ours int8"]}, indent=1))


if __name__ == "__main__":
    main()
